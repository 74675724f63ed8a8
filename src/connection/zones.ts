import { type Prefix, parseAddress, prefixCovers, prefixOf } from '../base/ip.ts'

/** What decides which DNS zones a service may claim [security D1]. */
export interface ZoneBounds {
  readonly service: string
  readonly domain?: string
  readonly allowDomains: readonly string[]
  /** Granted prefixes: their reverse zones may be claimed. */
  readonly prefixes: readonly Prefix[]
}

/** The zones of `claimed` that may not be claimed, each as a sentence; a parent of an acceptable zone is ignored. */
export function checkZones(claimed: readonly string[], bounds: ZoneBounds): string[] {
  const zones = claimed.map(canonicalZone)
  const accepted = acceptableZones(claimed, bounds)
  return zones
    .filter((zone) => !accepted.includes(zone) && !accepted.some((inner) => isUnder(inner, zone)))
    .map((zone) => `the DNS zone ${JSON.stringify(zone.slice(0, 253) || '.')} is not the service's`)
}

/** The zones of `claimed` that become scopes, in canonical text. */
export function acceptableZones(claimed: readonly string[], bounds: ZoneBounds): string[] {
  return [...new Set(claimed.map(canonicalZone))].filter((zone) => mayClaim(zone, bounds))
}

/** Lower case, without the final dot. */
export function canonicalZone(zone: string): string {
  return zone.toLowerCase().replace(/\.$/, '')
}

/** Zone of the embedded server: `<service>.nsm.internal`. */
const ownSuffix = 'nsm.internal'

/** Names that nobody may claim unless the user names them. */
const reserved: readonly string[] = ['localhost', 'local', 'home.arpa', 'internal', 'arpa', ownSuffix]

function mayClaim(zone: string, bounds: ZoneBounds): boolean {
  if (!isZoneName(zone)) return false
  if (bounds.allowDomains.map(canonicalZone).some((domain) => sameOrUnder(zone, domain))) return true
  if (isReverse(zone)) return reversePrefixIsGranted(zone, bounds.prefixes)
  if (reserved.includes(zone)) return false
  const service = canonicalZone(bounds.service)
  const asked = bounds.domain ? [`${service}.${canonicalZone(bounds.domain)}`] : []
  return [`${service}.${ownSuffix}`, service, ...asked].some((own) => sameOrUnder(zone, own))
}

function isZoneName(zone: string): boolean {
  return zone.length > 0 && zone.length <= 253 && zone.split('.').every((label) => /^[a-z0-9_-]{1,63}$/.test(label))
}

function sameOrUnder(zone: string, parent: string): boolean {
  return zone === parent || isUnder(zone, parent)
}

function isUnder(zone: string, parent: string): boolean {
  return zone.endsWith(`.${parent}`)
}

function isReverse(zone: string): boolean {
  return sameOrUnder(zone, 'in-addr.arpa') || sameOrUnder(zone, 'ip6.arpa')
}

/** [RFC 1035 3.5] [RFC 3596 2.5] A reverse zone stands for a prefix of whole octets or nibbles. */
function reversePrefixIsGranted(zone: string, granted: readonly Prefix[]): boolean {
  const prefix = reversePrefix(zone)
  return prefix !== undefined && granted.some((outer) => prefixCovers(outer, prefix))
}

function reversePrefix(zone: string): Prefix | undefined {
  const labels = zone.split('.').slice(0, -2).reverse()
  if (labels.length === 0) return undefined
  if (isUnder(zone, 'in-addr.arpa')) {
    if (labels.length > 4 || !labels.every((label) => /^\d{1,3}$/.test(label) && Number(label) < 256)) return undefined
    const octets = [...labels, '0', '0', '0'].slice(0, 4).map((label) => String(Number(label)))
    return prefixOf(parseAddress(octets.join('.')), labels.length * 8)
  }
  if (labels.length > 32 || !labels.every((label) => /^[0-9a-f]$/.test(label))) return undefined
  const nibbles = labels.join('').padEnd(32, '0')
  return prefixOf(parseAddress((nibbles.match(/.{4}/g) ?? []).join(':')), labels.length * 4)
}
