import { isIPv6 } from 'node:net'
import { formatPrefix, type Prefix, parsePrefix, prefixCovers } from '../base/ip.ts'
import type { ScopeConfig } from '../dns/dns.ts'
import type { AttachedNames } from './names.ts'
import { type NsmLease, tunnelPrefixes, type Wanted } from './wanted.ts'
import { acceptableZones } from './zones.ts'

/** The DNS scopes of a lease: its own zones and the reverse names of its prefixes; undefined when it has no DNS. */
export function scopesOf(lease: NsmLease, wanted: Wanted): AttachedNames | undefined {
  const prefixes = tunnelPrefixes(lease.answer).map(parsePrefix)
  const zones = zonesOf(lease, wanted)
  if (wanted.dns === 'off' || zones.length === 0) return undefined
  const scopes = lease.answer.dns.flatMap(({ servers, domains }): ScopeConfig[] => {
    const upstreams = servers.map((address) => upstreamOf(address, lease))
    const own = acceptableZones(domains, { ...wanted, prefixes })
    // By address, so that a prefix of any length is one scope.
    const reverse = widest(prefixes).map(formatPrefix)
    return [...own, ...reverse].map((suffix) => ({ suffix, mode: wanted.dnsMode, upstreams }))
  })
  return { scopes: onePerSuffix(scopes), searchDomains: zones }
}

/** The zones that are the service's, in the order of the answer, without reverse zones. */
export function zonesOf(lease: NsmLease, wanted: Wanted): string[] {
  const prefixes = tunnelPrefixes(lease.answer).map(parsePrefix)
  const zones = lease.answer.dns.flatMap(({ domains }) => acceptableZones(domains, { ...wanted, prefixes }))
  return [...new Set(zones)].filter((zone) => !zone.endsWith('.arpa'))
}

/** Those that lie in no other one: the own address is part of the service's prefix most of the time. */
function widest(prefixes: readonly Prefix[]): Prefix[] {
  return prefixes.filter(
    (inner) => !prefixes.some((outer) => outer.length < inner.length && prefixCovers(outer, inner)),
  )
}

/** [RFC 1035 4.2] */
const dnsPort = 53

/** Bound to the own tunnel address, so that a query cannot leave by another way. */
function upstreamOf(address: string, lease: NsmLease): ScopeConfig['upstreams'][number] {
  const own = lease.answer.addresses.map((text) => text.split('/')[0] ?? '')
  const localAddress = own.find((candidate) => isIPv6(candidate) === isIPv6(address))
  return localAddress ? { address, port: dnsPort, localAddress } : { address, port: dnsPort }
}

function onePerSuffix(scopes: readonly ScopeConfig[]): ScopeConfig[] {
  const merged = new Map<string, ScopeConfig>()
  for (const scope of scopes) {
    const known = merged.get(scope.suffix)
    const upstreams = [...(known?.upstreams ?? []), ...scope.upstreams]
    const unique = new Map(upstreams.map((upstream) => [`${upstream.address} ${upstream.port}`, upstream]))
    merged.set(scope.suffix, { ...scope, upstreams: [...unique.values()] })
  }
  return [...merged.values()]
}
