import { isIP } from 'node:net'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Target } from './channel.ts'

/** Questions to the resolvers of this machine; each throws when there is no answer. */
export interface NameService {
  /** SRV records of exactly this name [RFC 2782]. */
  srv(name: string, signal: AbortSignal): Promise<readonly SrvRecord[]>
  /** IPv4 and IPv6 addresses of a name. */
  addresses(name: string, signal: AbortSignal): Promise<readonly string[]>
}

/** What of an SRV record counts. */
export interface SrvRecord {
  readonly target: string
  readonly port: number
  readonly priority: number
  readonly weight: number
}

/** Where the servers of a domain are. */
export interface DomainServers {
  readonly registry: Target
  /** The manager at its border. */
  readonly manager: Target
}

/** [NSM sdk dnsresolve] Names that a domain gives its servers. */
export const serverNames = { registry: 'registry.nsm-system', manager: 'nsmgr-proxy.nsm-system' } as const

/**
 * Finds the registry and the border manager of a domain by DNS, or by the domain itself when it is `//ip:port`: one program
 * that is both. Throws `NOT_FOUND` for a domain that says nothing of them, `UNREACHABLE` without an answer. [NSM sdk dnsresolve]
 */
export async function findDomain(domain: string, names: NameService, signal: AbortSignal): Promise<DomainServers> {
  const direct = addressAndPort(domain)
  if (direct) return { registry: direct, manager: direct }
  if (!isDomain(domain)) throw noDomain(domain, notFound('it is not a DNS name'))
  try {
    const [registry, manager] = await Promise.all([
      findServer(`${serverNames.registry}.${domain}`, names, signal),
      findServer(`${serverNames.manager}.${domain}`, names, signal),
    ])
    return { registry, manager }
  } catch (error) {
    throw noDomain(domain, toNsmError(error))
  }
}

/** The port is in the SRV record of the plain name; the address is that name's, or else that of the record's target. */
async function findServer(name: string, names: NameService, signal: AbortSignal): Promise<Target> {
  const [record] = [...(await names.srv(name, signal))].sort((a, b) => a.priority - b.priority || b.weight - a.weight)
  if (!record) throw notFound(`${name} has no SRV record`)
  const own = await names.addresses(name, signal)
  const [address] = own.length > 0 ? own : await names.addresses(record.target, signal)
  if (address !== undefined) return { address, port: record.port }
  throw notFound(`${name} has no address`)
}

function addressAndPort(domain: string): Target | undefined {
  const found = /^\/\/(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(domain)
  const address = found?.[1] ?? found?.[2] ?? ''
  const port = Number(found?.[3])
  return isIP(address) !== 0 && port > 0 && port < 65_536 ? { address, port } : undefined
}

/** [RFC 1035 2.3.4] Labels of at most 63 characters, and 253 for the longest name that is asked. */
function isDomain(domain: string): boolean {
  const isName = domain.split('.').every((label) => /^[A-Za-z0-9_-]{1,63}$/.test(label))
  return isName && `${serverNames.manager}.${domain}`.length <= 253
}

function notFound(what: string): NsmError {
  return new NsmError('NOT_FOUND', what, 'check the name of the domain')
}

function noDomain(domain: string, cause: NsmError): NsmError {
  const records = `${serverNames.registry}.DOMAIN and ${serverNames.manager}.DOMAIN`
  const what = `the domain ${JSON.stringify(domain.slice(0, 128))} cannot be found: ${cause.message}`
  return new NsmError(cause.code, what, `the domain's DNS needs SRV and address records of ${records}`, { cause })
}
