import { constants } from 'node:os'
import { NsmError } from '../base/errors.ts'
import type { CommandContext } from '../ui/command-context.ts'
import { errorJson, errorText } from '../ui/error-text.ts'
import { versionLine } from '../ui/version-info.ts'
import { type CommandEntry, commandsOfTopic, commandTable, findCommand } from './command-table.ts'
import { processContext } from './process-context.ts'

/** Runs one command line and gives the exit code; a signal ends it with 128 + n after its teardown. */
export async function main(argv: readonly string[]): Promise<number> {
  const stop = new AbortController()
  const caught = onSignals((name) => stop.abort(new NsmError('NOT_READY', `stopped by ${name}`, 'run it again')))
  const code = await runCommandLine(argv, processContext(stop.signal, caught.onHangup))
  return caught.exitCode() ?? code
}

/** Finds the command of `argv` and runs it; also answers `help`, `--help` and `--version` without loading a command. */
export async function runCommandLine(argv: readonly string[], context: CommandContext): Promise<number> {
  const [name, ...rest] = argv
  if (name === undefined || name === '--help' || name === '-h') return rootHelp(context)
  if (name === '--version' || name === '-v') return print(context, versionLine())
  if (name === 'help') return rest[0] === undefined ? rootHelp(context) : commandHelp(rest, context)
  const found = findCommand(argv)
  const words = found?.rest ?? rest
  const end = words.indexOf('--')
  const options = end < 0 ? words : words.slice(0, end)
  if (options.includes('--help') || options.includes('-h')) return commandHelp(argv, context)
  if (!found) return unknownCommand(argv, context)
  return (await found.entry.load()).start(found.rest, context)
}

async function rootHelp(context: CommandContext): Promise<number> {
  const { rootHelpText } = await import('../ui/root-help.ts')
  return print(context, rootHelpText(commandTable))
}

async function commandHelp(words: readonly string[], context: CommandContext): Promise<number> {
  const found = findCommand(words)
  const topic = commandsOfTopic(words[0] ?? '')
  if (!found && topic.length > 0) return topicHelp(topic, context)
  if (!found) return unknownCommand(words, context)
  const { commandHelpText } = await import('../ui/command-help.ts')
  return print(context, commandHelpText(await describe(found.entry)))
}

async function topicHelp(commands: readonly CommandEntry[], context: CommandContext): Promise<number> {
  const { columns } = await import('../ui/columns.ts')
  return print(context, columns(commands.map(({ id, summary }) => [`nsm ${id}`, summary])).join('\n'))
}

/** The description of a command, for its help and for `docs/commands`. */
export async function describe(entry: CommandEntry) {
  const { describeCommand } = await import('../ui/describe-command.ts')
  return describeCommand({ id: entry.id, aliases: entry.aliases, summary: entry.summary, command: await entry.load() })
}

function unknownCommand(words: readonly string[], context: CommandContext): number {
  const [name = '', verb] = words
  const verbs = commandsOfTopic(name).map(({ id }) => id.split(' ')[1])
  const error =
    verbs.length === 0
      ? new NsmError('USAGE', `there is no command "${name}"`, 'nsm help')
      : new NsmError(
          'USAGE',
          `nsm ${name} is followed by ${verbs.join(', ')}${verb ? `, not "${verb}"` : ''}`,
          `nsm help ${name}`,
        )
  if (words.includes('--json')) context.writeOut(errorJson(error))
  else context.writeError(errorText(error))
  return error.exitCode
}

function print(context: CommandContext, text: string): number {
  context.writeOut(text)
  return 0
}

/** Signals that end a command: [signal(7)] exit codes are 128 + the number. A second one ends it without a teardown. */
const endingSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

function onSignals(stop: (name: string) => void): {
  exitCode(): number | undefined
  readonly onHangup: (action: () => void) => void
} {
  let exitCode: number | undefined
  for (const name of endingSignals) {
    process.once(name, () => {
      exitCode ??= 128 + constants.signals[name]
      stop(name)
    })
  }
  return {
    exitCode: () => exitCode,
    onHangup(action) {
      process.removeAllListeners('SIGHUP')
      process.on('SIGHUP', action)
    },
  }
}
