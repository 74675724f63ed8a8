import { columns } from './columns.ts'

/** The help of `nsm` itself: the short path first, then every command in one line. */
export function rootHelpText(commands: readonly { readonly id: string; readonly summary: string }[]): string {
  return [
    'Connects this machine to a Network Service Mesh network service.',
    '',
    'USAGE',
    '  nsm connect my-networkservice-1 [--join FILE]',
    '  nsm COMMAND [--json]',
    '',
    'COMMANDS',
    ...columns(commands.map(({ id, summary }) => [`  ${id}`, summary])),
    '',
    'EXAMPLES',
    '  nsm serve > join.txt                          on one machine: a network service from nothing',
    '  nsm connect --join join.txt my-networkservice-1   on another: join it',
    '  nsm status                                    what is connected',
    '  nsm disconnect                                leave, everything as before',
    '',
    'nsm help COMMAND shows the flags of a command. Every flag has an environment variable NSM_...',
  ].join('\n')
}
