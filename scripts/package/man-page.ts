import { errorTable } from '../../src/base/errors.ts'
import { flagText } from '../../src/ui/command-help.ts'
import type { CommandDescription } from '../../src/ui/describe-command.ts'
import { buildTimeS } from './build-time.ts'

/** The manual page nsm(1) as roff [man(7)]. */
export function manPage(commands: readonly CommandDescription[], version: string): string {
  const codes = Object.entries(errorTable).flatMap(([code, { exit, when }]) => item(`${exit} ${code}`, when))
  const date = new Date(buildTimeS() * 1_000).toISOString().slice(0, 'YYYY-MM-DD'.length)
  return `${[
    `.TH NSM 1 "${date}" "nsm ${version}" "User Commands"`,
    '.SH NAME',
    'nsm \\- connects this machine to a Network Service Mesh network service',
    '.SH SYNOPSIS',
    '.B nsm',
    text('COMMAND [--json] [flags]'),
    '.SH COMMANDS',
    ...commands.flatMap(commandPart),
    '.SH EXIT STATUS',
    ...item('0', 'done'),
    ...codes,
    ...item('128+n', 'ended by signal n, after the teardown'),
    '.SH ENVIRONMENT',
    text('Every flag can be given as the variable in brackets behind it. A flag goes before a variable.'),
  ].join('\n')}\n`
}

function commandPart(command: CommandDescription): string[] {
  return [
    `.SS ${text(command.usage)}`,
    text(command.summary),
    ...(command.aliases.length > 0 ? ['.PP', text(`Also: ${command.aliases.join(', ')}`)] : []),
    ...(command.description === '' ? [] : ['.PP', ...command.description.split('\n').map(text)]),
    ...command.args.flatMap(({ name, description }) => item(name, description)),
    ...command.flags.flatMap((flag) => item(flag.label, flagText(flag))),
    ...(command.examples.length > 0 ? ['.PP', 'Examples:', '.nf', ...command.examples.map(text), '.fi'] : []),
  ]
}

function item(name: string, description: string): string[] {
  return ['.TP', `.B ${text(name)}`, text(description)]
}

/** A line that begins with a dot or a quote would be a request of roff. */
function text(line: string): string {
  return line.replaceAll('\\', '\\e').replaceAll('-', '\\-').replace(/^[.']/, '\\&$&')
}
