import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { errorTable } from '../src/base/errors.ts'
import { commandTable } from '../src/commands/command-table.ts'
import { describe } from '../src/commands/main.ts'
import type { CommandDescription, FlagDescription } from '../src/ui/describe-command.ts'

/** `npm run docs [-- --check]`: writes docs/commands and docs/errors.md, or fails when a committed file differs. */
const docs = resolve(import.meta.dirname, '../docs')
const pages = await allPages()
const different = process.argv.includes('--check') ? stalePages() : writePages()
if (different.length > 0) {
  process.stderr.write(`not up to date: ${different.join(', ')}; npm run docs\n`)
  process.exitCode = 1
}

async function allPages(): Promise<ReadonlyMap<string, string>> {
  const commands = await Promise.all(commandTable.map(describe))
  return new Map([
    ['errors.md', errorsPage()],
    ['commands/README.md', indexPage(commands)],
    ...commands.map((command): [string, string] => [`commands/${pageName(command)}`, commandPage(command)]),
  ])
}

function stalePages(): string[] {
  const unknown = readdirSync(join(docs, 'commands')).map((name) => `commands/${name}`)
  const changed = [...pages].filter(([name, text]) => readOrEmpty(join(docs, name)) !== text).map(([name]) => name)
  return [...changed, ...unknown.filter((name) => !pages.has(name))]
}

function writePages(): string[] {
  rmSync(join(docs, 'commands'), { recursive: true, force: true })
  for (const [name, text] of pages) {
    mkdirSync(dirname(join(docs, name)), { recursive: true })
    writeFileSync(join(docs, name), text)
  }
  return []
}

function errorsPage(): string {
  const rows = Object.entries(errorTable).map(([code, { exit, when }]) => `| \`${code}\` | ${exit} | ${when} |`)
  return page([
    '# Errors and exit codes',
    '',
    'Printed from `src/base/errors.ts` by `npm run docs`. Scripts match the code, never the message.',
    'With `--json` a failure is the one document `{"error":{"code","message","next"}}` on standard output.',
    '',
    '| code | exit | when |',
    '|---|---|---|',
    '| (none) | 0 | done |',
    ...rows,
    '| (signal) | 128+n | ended by signal n, after the teardown |',
  ])
}

function indexPage(commands: readonly CommandDescription[]): string {
  const rows = commands.map((command) => `| [\`nsm ${command.id}\`](${pageName(command)}) | ${command.summary} |`)
  return page([
    '# Commands',
    '',
    'Printed from the command table by `npm run docs`.',
    '',
    '| command | purpose |',
    '|---|---|',
    ...rows,
  ])
}

function pageName({ id }: CommandDescription): string {
  return `${id.replace(' ', '-')}.md`
}

function commandPage(command: CommandDescription): string {
  const aliases =
    command.aliases.length === 0 ? [] : [`Also: ${command.aliases.map((alias) => `\`nsm ${alias}\``).join(', ')}.`, '']
  const args = command.args.map(({ name, description }) => `- \`${name}\`: ${description}`)
  return page([
    `# nsm ${command.id}`,
    '',
    `${command.summary}.`,
    '',
    '```',
    command.usage,
    '```',
    '',
    ...aliases,
    ...(command.description === '' ? [] : [command.description, '']),
    ...(args.length === 0 ? [] : ['## Arguments', '', ...args, '']),
    '## Flags',
    '',
    '| flag | environment | default | purpose |',
    '|---|---|---|---|',
    ...command.flags.map(flagRow),
    ...(command.examples.length === 0 ? [] : ['', '## Examples', '', '```', ...command.examples, '```']),
  ])
}

function flagRow(flag: FlagDescription): string {
  const cell = (text: string | undefined) => (text === undefined ? '' : `\`${text.replaceAll('|', '\\|')}\``)
  return `| ${cell(flag.label)} | ${cell(flag.environment)} | ${cell(flag.defaultText)} | ${flag.summary} |`
}

function page(lines: readonly string[]): string {
  return `${lines.join('\n')}\n`
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
