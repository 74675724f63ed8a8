import type { CommandClass } from '../ui/nsm-command.ts'

/** One verb of the command line. */
export interface CommandEntry {
  readonly id: string
  readonly aliases: readonly string[]
  readonly summary: string
  readonly load: () => Promise<CommandClass>
}

/** Every command, in the order of the help; its module is loaded only when it runs or its help is asked for. */
export const commandTable: readonly CommandEntry[] = [
  {
    id: 'connect',
    aliases: ['up'],
    summary: 'join one or more network services; returns when they are usable',
    load: async () => (await import('./connect.ts')).Connect,
  },
  {
    id: 'disconnect',
    aliases: ['down'],
    summary: 'leave network services and put addresses, routes and DNS back',
    load: async () => (await import('./disconnect.ts')).Disconnect,
  },
  {
    id: 'status',
    aliases: [],
    summary: 'show what is connected, by which path, and its health',
    load: async () => (await import('./status.ts')).Status,
  },
  {
    id: 'list',
    aliases: ['ls'],
    summary: 'list the network services that may be requested',
    load: async () => (await import('./list.ts')).List,
  },
  {
    id: 'serve',
    aliases: [],
    summary: 'run registry, manager, certificate authority and vL3 endpoint in one process',
    load: async () => (await import('./serve.ts')).Serve,
  },
  {
    id: 'invite',
    aliases: [],
    summary: 'make a further single-use join string from the running server',
    load: async () => (await import('./invite.ts')).Invite,
  },
  {
    id: 'cleanup',
    aliases: [],
    summary: 'repair the machine after a crash: interfaces, routes, DNS',
    load: async () => (await import('./cleanup.ts')).Cleanup,
  },
  {
    id: 'version',
    aliases: [],
    summary: 'print the version of nsm and of what it runs on',
    load: async () => (await import('./version.ts')).Version,
  },
]

/** The command of an id or alias. */
export function findCommand(name: string): CommandEntry | undefined {
  return commandTable.find((entry) => entry.id === name || entry.aliases.includes(name))
}
