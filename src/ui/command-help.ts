import { columns } from './columns.ts'
import type { CommandDescription, FlagDescription } from './describe-command.ts'

/** The help of one command. */
export function commandHelpText(command: CommandDescription): string {
  const sections = [
    section('USAGE', [command.usage]),
    section('ALIASES', command.aliases),
    section('ARGUMENTS', columns(command.args.map(({ name, description }) => [name, description]))),
    section('FLAGS', columns(command.flags.map((flag) => [flag.label, flagText(flag)]))),
    section('DESCRIPTION', command.description === '' ? [] : command.description.split('\n')),
    section('EXAMPLES', command.examples),
  ]
  return [command.summary, ...sections.filter((text) => text !== '')].join('\n\n')
}

/** What a flag does, its default and its environment variable, in one line. */
export function flagText(flag: FlagDescription): string {
  const fallback = flag.defaultText === undefined ? '' : ` [default: ${flag.defaultText}]`
  const environment = flag.environment === undefined ? '' : ` [${flag.environment}]`
  return `${flag.summary}${fallback}${environment}`
}

function section(title: string, lines: readonly string[]): string {
  return lines.length === 0 ? '' : [title, ...lines.map((line) => `  ${line}`)].join('\n')
}
