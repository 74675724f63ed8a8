import { constants } from 'node:os'
import { NsmError } from '../base/errors.ts'
import type { CommandContext } from '../ui/command-context.ts'
import { errorJson, errorText } from '../ui/error-text.ts'
import { versionLine } from '../ui/version-info.ts'
import { type CommandEntry, commandTable, findCommand } from './command-table.ts'
import { processContext } from './process-context.ts'

/** Runs one command line and gives the exit code; a signal ends it with 128 + n after its teardown. */
export async function main(argv: readonly string[]): Promise<number> {
  const stop = new AbortController()
  const caught = onSignals((name) => stop.abort(new NsmError('NOT_READY', `stopped by ${name}`, 'run it again')))
  const code = await runCommandLine(argv, processContext(stop.signal))
  return caught.exitCode() ?? code
}

/** Finds the command of `argv` and runs it; also answers `help`, `--help` and `--version` without loading a command. */
export async function runCommandLine(argv: readonly string[], context: CommandContext): Promise<number> {
  const [name, ...rest] = argv
  if (name === undefined || name === '--help' || name === '-h') return rootHelp(context)
  if (name === '--version' || name === '-v') return print(context, versionLine())
  if (name === 'help') return rest[0] === undefined ? rootHelp(context) : commandHelp(rest[0], context)
  const entry = findCommand(name)
  if (!entry) return unknownCommand(name, rest, context)
  const end = rest.indexOf('--')
  const options = end < 0 ? rest : rest.slice(0, end)
  if (options.includes('--help') || options.includes('-h')) return commandHelp(name, context)
  return (await entry.load()).start(rest, context)
}

async function rootHelp(context: CommandContext): Promise<number> {
  const { rootHelpText } = await import('../ui/root-help.ts')
  return print(context, rootHelpText(commandTable))
}

async function commandHelp(name: string, context: CommandContext): Promise<number> {
  const entry = findCommand(name)
  if (!entry) return unknownCommand(name, [], context)
  const { commandHelpText } = await import('../ui/command-help.ts')
  return print(context, commandHelpText(await describe(entry)))
}

/** The description of a command, for its help and for `docs/commands`. */
export async function describe(entry: CommandEntry) {
  const { describeCommand } = await import('../ui/describe-command.ts')
  return describeCommand({ id: entry.id, aliases: entry.aliases, summary: entry.summary, command: await entry.load() })
}

function unknownCommand(name: string, rest: readonly string[], context: CommandContext): number {
  const error = new NsmError('USAGE', `there is no command "${name}"`, 'nsm help')
  if (rest.includes('--json')) context.writeOut(errorJson(error))
  else context.writeError(errorText(error))
  return error.exitCode
}

function print(context: CommandContext, text: string): number {
  context.writeOut(text)
  return 0
}

/** Signals that end a command: [signal(7)] exit codes are 128 + the number. A second one ends it without a teardown. */
const endingSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

function onSignals(stop: (name: string) => void): { exitCode(): number | undefined } {
  let exitCode: number | undefined
  for (const name of endingSignals) {
    process.once(name, () => {
      exitCode ??= 128 + constants.signals[name]
      stop(name)
    })
  }
  return { exitCode: () => exitCode }
}
