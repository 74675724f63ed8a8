import { NsmError } from '../../base/errors.ts'
import type { Log } from '../../base/log.ts'
import type { HostUpstream, SystemDns, SystemDnsSettings } from './system-dns.ts'

export type { HostUpstream, SystemDns, SystemDnsSettings }

/** The host's own resolvers and search domains, from its resolver file; systemd-resolved's stub is looked through. */
export async function readSystemUpstreams(
  resolvConfPath: string,
): Promise<{ readonly upstreams: readonly HostUpstream[]; readonly searchDomains: readonly string[] }> {
  return (await load()).readUpstreams(resolvConfPath)
}

/** Points the system's resolver to our listener, journal first. Throws `PERMISSION`, or `USAGE` on an unsupported system. */
export async function installSystemDns(settings: SystemDnsSettings): Promise<SystemDns> {
  return (await load()).installFile(settings)
}

/** Takes back what a process left that died. */
export async function repairSystemDns(settings: {
  readonly journalPath: string
  readonly log: Log
}): Promise<'nothing' | 'restored' | 'left'> {
  return (await load()).repairFile(settings)
}

async function load(platform = process.platform): Promise<typeof import('./system-dns.ts')> {
  if (platform === 'linux') return import('./system-dns.ts')
  throw new NsmError('USAGE', `no system resolver support on ${platform}`, 'connect with --dns off')
}
