import { NsmError } from '../../base/errors.ts'
import type { Log } from '../../base/log.ts'
import { readUpstreams } from './host-upstreams.ts'
import type {
  ChosenSystemDns,
  HostUpstream,
  MethodName,
  RestoreResult,
  Served,
  SystemDnsSettings,
  SystemLink,
} from './system-dns.ts'

export type { ChosenSystemDns, HostUpstream, MethodName, Served, SystemDnsSettings, SystemLink }

/** The host's own resolvers and search domains, from its resolver file; systemd-resolved's stub is looked through. */
export async function readSystemUpstreams(
  resolvConfPath: string,
): Promise<{ readonly upstreams: readonly HostUpstream[]; readonly searchDomains: readonly string[] }> {
  return readUpstreams(resolvConfPath)
}

/** Makes the system ask our listener, journal first. Throws `PERMISSION`, `CONFLICT`, or `USAGE` on an unsupported system. */
export async function installSystemDns(settings: SystemDnsSettings): Promise<ChosenSystemDns> {
  return (await load()).installOnLinux(settings)
}

/** Takes back what a process left that died. */
export async function repairSystemDns(settings: {
  readonly journalPath: string
  readonly log: Log
}): Promise<RestoreResult> {
  return (await load()).repairOnLinux(settings)
}

async function load(platform = process.platform): Promise<typeof import('./install.ts')> {
  if (platform === 'linux') return import('./install.ts')
  throw new NsmError('USAGE', `no system resolver support on ${platform}`, 'connect with --dns off')
}
