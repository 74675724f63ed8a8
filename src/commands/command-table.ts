import type { CommandClass } from '../ui/nsm-command.ts'

/** One verb of the command line. */
export interface CommandEntry {
  /** One word, or two: a topic and its verb. */
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
    id: 'ca status',
    aliases: [],
    summary: 'show the root of the running server and the domains it federates with',
    load: async () => (await import('./ca-status.ts')).CaStatus,
  },
  {
    id: 'ca rotate',
    aliases: [],
    summary: 'replace the root of the running server, step by step',
    load: async () => (await import('./ca-rotate.ts')).CaRotate,
  },
  {
    id: 'ca bundle',
    aliases: [],
    summary: 'print the trust bundle of the running server for other trust domains',
    load: async () => (await import('./ca-bundle.ts')).CaBundle,
  },
  {
    id: 'login',
    aliases: [],
    summary: 'log in as a person at the issuer that a server believes',
    load: async () => (await import('./login.ts')).Login,
  },
  {
    id: 'logout',
    aliases: [],
    summary: 'forget the identity of this machine',
    load: async () => (await import('./logout.ts')).Logout,
  },
  {
    id: 'whoami',
    aliases: [],
    summary: 'show the identity of this machine',
    load: async () => (await import('./whoami.ts')).Whoami,
  },
  {
    id: 'policy test',
    aliases: [],
    summary: 'ask the policy whether somebody may do something, and which line says so',
    load: async () => (await import('./policy-test.ts')).PolicyTest,
  },
  {
    id: 'policy check',
    aliases: [],
    summary: 'read a policy file as the server would',
    load: async () => (await import('./policy-check.ts')).PolicyCheck,
  },
  {
    id: 'audit',
    aliases: [],
    summary: 'show who got an identity or was refused, and check that the record is whole',
    load: async () => (await import('./audit.ts')).Audit,
  },
  {
    id: 'dns status',
    aliases: [],
    summary: 'show which names go where, who else learns of them, and how the servers do',
    load: async () => (await import('./dns-status.ts')).DnsStatus,
  },
  {
    id: 'dns query',
    aliases: [],
    summary: 'ask the resolver for a name',
    load: async () => (await import('./dns-query.ts')).DnsQuery,
  },
  {
    id: 'dns trace',
    aliases: [],
    summary: 'look a name up and show every server that was asked, who won and why',
    load: async () => (await import('./dns-trace.ts')).DnsTrace,
  },
  {
    id: 'dns flush',
    aliases: [],
    summary: 'forget cached answers',
    load: async () => (await import('./dns-flush.ts')).DnsFlush,
  },
  {
    id: 'dns serve',
    aliases: [],
    summary: 'run the resolver alone, without any connection',
    load: async () => (await import('./dns-serve.ts')).DnsServe,
  },
  {
    id: 'tunnel up',
    aliases: [],
    summary: 'open a plain WireGuard tunnel from a wg-quick file',
    load: async () => (await import('./tunnel-up.ts')).TunnelUp,
  },
  {
    id: 'tunnel down',
    aliases: [],
    summary: 'end plain WireGuard tunnels',
    load: async () => (await import('./tunnel-down.ts')).TunnelDown,
  },
  {
    id: 'tunnel status',
    aliases: [],
    summary: 'show the plain WireGuard tunnels and their peers',
    load: async () => (await import('./tunnel-status.ts')).TunnelStatus,
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

/** The command that the words begin with, by id or alias, and the words behind it. */
export function findCommand(
  words: readonly string[],
): { readonly entry: CommandEntry; readonly rest: readonly string[] } | undefined {
  for (const count of [2, 1]) {
    const name = words.slice(0, count).join(' ')
    const entry = commandTable.find(({ id, aliases }) => id === name || aliases.includes(name))
    if (entry) return { entry, rest: words.slice(count) }
  }
  return undefined
}

/** The commands of a topic; none when it is no topic. */
export function commandsOfTopic(topic: string): readonly CommandEntry[] {
  return commandTable.filter(({ id }) => id.startsWith(`${topic} `))
}
