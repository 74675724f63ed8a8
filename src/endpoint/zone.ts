import { familyBits, formatAddress, type IpAddress, type IpFamily, type Prefix, prefixesOverlap } from '../base/ip.ts'

/** What the zone of a vL3 is made from; the functions see the members of the moment. */
export interface ZoneSource {
  /** Without trailing dot, lower case. */
  readonly dnsDomain: string
  readonly prefixes: readonly Prefix[]
  readonly gateways: readonly IpAddress[]
  /** Addresses of a member's label; undefined when nobody has it. */
  readonly addressesOf: (label: string) => readonly string[] | undefined
  /** Label of the member with this address. */
  readonly labelOf: (address: string) => string | undefined
}

/** What a name is, whatever type was asked; `zone` is the text of the zone that answers for it. */
export type ZoneEntry =
  | { readonly kind: 'outside' }
  | { readonly kind: 'unknown'; readonly zone: string }
  | {
      readonly kind: 'known'
      readonly zone: string
      readonly isApex: boolean
      readonly addresses: readonly string[]
      readonly pointsTo: string | undefined
    }

/** The gateway's own label: name server of the zone; no member gets it. */
export const gatewayLabel = 'gateway'

/**
 * Labels no member gets: the gateway's, and those by which programs look for a proxy or a tunnel under every search domain,
 * so that no member can answer for them [security D1].
 */
export const reservedLabels = [gatewayLabel, 'wpad', 'isatap', 'localhost'] as const

/** Looks a name up, given as lower-case labels from left to right. */
export function lookUp(source: ZoneSource, labels: readonly string[]): ZoneEntry {
  const family = reverseFamily(labels)
  return family ? lookUpReverse(source, labels.slice(0, -2), family) : lookUpForward(source, labels)
}

function lookUpForward(source: ZoneSource, labels: readonly string[]): ZoneEntry {
  const zone = source.dnsDomain
  const domain = zone.split('.')
  const start = labels.length - domain.length
  if (start < 0 || domain.some((label, i) => labels[start + i] !== label)) return { kind: 'outside' }
  const [label, ...more] = labels.slice(0, start)
  if (label === undefined) return known({ zone, isApex: true })
  const addresses = label === gatewayLabel ? source.gateways.map(formatAddress) : source.addressesOf(label)
  if (more.length > 0 || !addresses) return { kind: 'unknown', zone }
  return known({ zone, addresses })
}

/**
 * Reverse names, whole or in part. A prefix that ends inside an octet (IPv4) or a nibble (IPv6) is served as the several
 * zones it covers, as delegations without RFC 2317 are; what lies above them belongs to somebody else.
 */
function lookUpReverse(source: ZoneSource, labels: readonly string[], family: IpFamily): ZoneEntry {
  const named = namedPrefix(labels, family)
  const pool = source.prefixes.find((prefix) => prefixesOverlap(prefix, named))
  const step = stepBits[family]
  const zoneBits = pool && Math.ceil(pool.length / step) * step
  if (zoneBits === undefined || named.length < zoneBits) return { kind: 'outside' }
  const zone = [...labels.slice(labels.length - zoneBits / step), ...reverseSuffix[family]].join('.')
  if (labels.length > named.length / step) return { kind: 'unknown', zone }
  const isApex = named.length === zoneBits
  if (named.length < familyBits[family]) return known({ zone, isApex })
  const pointsTo = targetOf(source, formatAddress(named))
  return pointsTo || isApex ? known({ zone, isApex, pointsTo }) : { kind: 'unknown', zone }
}

function targetOf(source: ZoneSource, address: string): string | undefined {
  const isGateway = source.gateways.some((gateway) => formatAddress(gateway) === address)
  const label = isGateway ? gatewayLabel : source.labelOf(address)
  return label && `${label}.${source.dnsDomain}`
}

const reverseSuffix = { 4: ['in-addr', 'arpa'], 6: ['ip6', 'arpa'] } as const
/** [RFC 1035 3.5], [RFC 3596 2.5] Address bits that one label stands for. */
const stepBits = { 4: 8, 6: 4 } as const
const properLabel = { 4: /^(0|[1-9]\d{0,2})$/, 6: /^[0-9a-f]$/ } as const
const labelRadix = { 4: 10, 6: 16 } as const

function reverseFamily(labels: readonly string[]): IpFamily | undefined {
  const suffix = labels.slice(-2).join('.')
  if (suffix === 'in-addr.arpa') return 4
  return suffix === 'ip6.arpa' ? 6 : undefined
}

/** The prefix that the proper labels stand for, counted from the right until the first one that is none. */
function namedPrefix(labels: readonly string[], family: IpFamily): Prefix {
  const step = stepBits[family]
  let bits = 0n
  let length = 0
  for (const label of labels.toReversed()) {
    const value = properLabel[family].test(label) ? Number.parseInt(label, labelRadix[family]) : -1
    if (value < 0 || value >= 2 ** step || length === familyBits[family]) break
    bits = (bits << BigInt(step)) | BigInt(value)
    length += step
  }
  return { family, bits: bits << BigInt(familyBits[family] - length), length }
}

function known(entry: {
  readonly zone: string
  readonly isApex?: boolean
  readonly addresses?: readonly string[]
  readonly pointsTo?: string | undefined
}): ZoneEntry {
  return { kind: 'known', isApex: false, addresses: [], pointsTo: undefined, ...entry }
}
