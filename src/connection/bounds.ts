import { NsmError } from '../base/errors.ts'
import {
  familyBits,
  formatAddress,
  formatPrefix,
  type IpAddress,
  type Prefix,
  parseAddress,
  parseInterfaceAddress,
  parsePrefix,
  prefixContains,
  prefixCovers,
  prefixesOverlap,
  prefixOf,
  sameAddress,
} from '../base/ip.ts'
import { mergePrefixes } from '../ipam/excluded-prefixes.ts'
import { checkZones } from './zones.ts'

/* Everything an endpoint says about this machine's addresses, routes and names is hostile until it passes here
 * [security 5]. Nothing on the machine is touched before, and every violated rule is named. */

/** What an endpoint's answer wants this machine to do, as text. */
export interface Answer {
  /** Own addresses with their length. */
  readonly addresses: readonly string[]
  /** The endpoint's addresses inside the tunnel. */
  readonly endpointAddresses: readonly string[]
  /** Prefixes that go into the tunnel. */
  readonly routes: readonly string[]
  /** Policy rules that would need tables of their own. */
  readonly policies: number
  readonly dns: readonly { readonly servers: readonly string[]; readonly domains: readonly string[] }[]
  /** 0 = the endpoint does not say. */
  readonly mtuBytes: number
}

/** A prefix that is in use already, and by what. */
export interface Taken {
  readonly prefix: string
  readonly by: string
  /** Only a route: one that comes later does not take the packets of a service [security E6]. */
  readonly isOnlyRoute?: true
  /** The address of a service that may overlap: to be avoided, and refused only when it is given twice, by the system. */
  readonly mayOverlap?: true
}

/** What an answer may do. */
export interface Bounds {
  readonly service: string
  /** Interdomain part of the request. */
  readonly domain?: string
  /** The user's `--allow-prefix`; empty = the private ranges. */
  readonly allowPrefixes: readonly string[]
  /** The user's `--allow-domain`. */
  readonly allowDomains: readonly string[]
  readonly taken: readonly Taken[]
}

/** [security E11] IPv6 needs 1280 [RFC 8200 5]; beyond 9000 no path we know carries it. */
export const mtuMinBytes = 1_280
/** [security E11] */
export const mtuMaxBytes = 9_000
/** Ours [security C7]: more prefixes than this in one answer are refused unread. */
const prefixesMax = 1_024

/**
 * What is wrong with an answer: `REFUSED` with every broken rule, or `CONFLICT` naming both sides when it only collides
 * with what the machine already uses; undefined when it may be applied.
 */
export function checkAnswer(answer: Answer, bounds: Bounds): NsmError | undefined {
  const count = answer.addresses.length + answer.routes.length + answer.dns.length
  if (count > prefixesMax) return refused([`it has ${count} addresses, routes and DNS entries; at most ${prefixesMax}`])
  const broken: string[] = []
  const addresses = answer.addresses.flatMap((text) => readable(text, parseInterfaceAddress, broken))
  const endpoints = answer.endpointAddresses.flatMap((text) => readable(text, parseInterfaceAddress, broken))
  const routes = answer.routes.flatMap((text) => readable(text, parsePrefix, broken))
  broken.push(...checkAddresses(addresses, endpoints))
  const prefixes = [...addresses.map(({ address, length }) => prefixOf(address, length)), ...routes]
  const allowed = bounds.allowPrefixes.map(parsePrefix)
  for (const prefix of mergePrefixes(prefixes)) broken.push(...checkPrefix(prefix, allowed))
  broken.push(...checkShare(prefixes), ...checkScalars(answer), ...checkDns(answer, bounds, prefixes))
  const conflicts = findConflicts(mergePrefixes(prefixes), bounds.taken)
  if (broken.length > 0) return refused([...new Set([...broken, ...conflicts])])
  return conflicts.length > 0 ? conflict(conflicts) : undefined
}

/** `CONFLICT` when a lease in force and the machine's own networks have come to overlap; `answer` was checked before. */
export function findConflict(answer: Answer, taken: readonly Taken[]): NsmError | undefined {
  const own = answer.addresses.map(parseInterfaceAddress).map(({ address, length }) => prefixOf(address, length))
  const conflicts = findConflicts(mergePrefixes([...own, ...answer.routes.map(parsePrefix)]), taken)
  return conflicts.length > 0 ? conflict(conflicts) : undefined
}

/** [security E1] Without the user's word only private ranges may go into a tunnel. */
const privateRanges = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10'].map(parsePrefix)
/** [security E1] Unique local addresses, in parts of at least this length. */
const uniqueLocal = parsePrefix('fc00::/7')
const uniqueLocalMinLength = 32

/** [security E2] Never, whatever the user allows. */
const forbidden = [
  ['0.0.0.0/8', 'this network'],
  ['127.0.0.0/8', 'loopback'],
  ['169.254.0.0/16', 'link-local'],
  ['224.0.0.0/4', 'multicast'],
  ['255.255.255.255/32', 'broadcast'],
  ['::/128', 'the unspecified address'],
  ['::1/128', 'loopback'],
  ['fe80::/10', 'link-local'],
  ['ff00::/8', 'multicast'],
  ['::ffff:0:0/96', 'IPv4-mapped addresses'],
  ['64:ff9b::/96', 'the NAT64 prefix'],
].map(([prefix = '', what = '']) => ({ prefix: parsePrefix(prefix), what }))

function checkAddresses(own: readonly InterfaceAddress[], endpoints: readonly InterfaceAddress[]): string[] {
  const broken = own.length === 0 ? ['it gives this machine no address'] : []
  for (const family of [4, 6] as const) {
    const count = own.filter(({ address }) => address.family === family).length
    if (count > 1) broken.push(`it gives this machine ${count} IPv${family} addresses; at most one`)
  }
  for (const { address, length } of own) {
    const text = formatAddress(address)
    if (endpoints.some((other) => sameAddress(other.address, address))) {
      broken.push(`${text} is given to this machine and to the endpoint`)
    }
    if (isNetworkOrBroadcast(address, length)) broken.push(`${text}/${length} is a network or broadcast address`)
  }
  return broken
}

type InterfaceAddress = ReturnType<typeof parseInterfaceAddress>

function isNetworkOrBroadcast(address: IpAddress, length: number): boolean {
  if (address.family === 6 || length > 30) return false
  const hostMask = (1n << BigInt(32 - length)) - 1n
  const host = address.bits & hostMask
  return host === 0n || host === hostMask
}

function checkPrefix(prefix: Prefix, allowed: readonly Prefix[]): string[] {
  const text = formatPrefix(prefix)
  const never = forbidden.find((other) => prefixesOverlap(other.prefix, prefix))
  if (never && prefix.length > 1) return [`${text} reaches into ${never.what} (${formatPrefix(never.prefix)})`]
  if (prefix.length <= 1) return [`${text} is a default route or half of one`]
  if (allowed.length > 0) {
    return allowed.some((outer) => prefixCovers(outer, prefix)) ? [] : [`${text} is outside --allow-prefix`]
  }
  const isPrivate = privateRanges.some((outer) => prefixCovers(outer, prefix))
  const isLocal = prefixCovers(uniqueLocal, prefix) && prefix.length >= uniqueLocalMinLength
  return isPrivate || isLocal ? [] : [`${text} is not private; name it with --allow-prefix if it is meant`]
}

/** [security E2] Many small routes may not do what one default route may not. */
function checkShare(prefixes: readonly Prefix[]): string[] {
  return ([4, 6] as const).flatMap((family) => {
    const merged = mergePrefixes(prefixes.filter((prefix) => prefix.family === family))
    const covered = merged.reduce((sum, { length }) => sum + (1n << BigInt(familyBits[family] - length)), 0n)
    return covered * 2n > 1n << BigInt(familyBits[family]) ? [`its routes cover more than half of IPv${family}`] : []
  })
}

function checkScalars(answer: Answer): string[] {
  const broken = answer.policies > 0 ? ['it asks for policy routes'] : []
  if (answer.mtuBytes !== 0 && (answer.mtuBytes < mtuMinBytes || answer.mtuBytes > mtuMaxBytes)) {
    broken.push(`MTU ${answer.mtuBytes} is outside ${mtuMinBytes} to ${mtuMaxBytes}`)
  }
  return broken
}

/** A server outside the tunnel's prefixes would get the service's names over the open network. */
function checkDns(answer: Answer, bounds: Bounds, prefixes: readonly Prefix[]): string[] {
  const broken: string[] = []
  for (const { servers, domains } of answer.dns) {
    for (const server of servers.flatMap((text) => readable(text, parseAddress, broken))) {
      if (!prefixes.some((prefix) => prefixContains(prefix, server))) {
        broken.push(`DNS server ${formatAddress(server)} is not reached through the tunnel`)
      }
    }
    broken.push(...checkZones(domains, { ...bounds, prefixes }))
  }
  return broken
}

function findConflicts(prefixes: readonly Prefix[], taken: readonly Taken[]): string[] {
  const strangers = taken.filter(({ mayOverlap }) => !mayOverlap)
  const known = strangers.map(({ prefix, by }) => ({ prefix: parsePrefix(prefix), by }))
  return prefixes.flatMap((prefix) => {
    const other = known.find((candidate) => prefixesOverlap(candidate.prefix, prefix))
    return other ? [`${formatPrefix(prefix)} overlaps ${formatPrefix(other.prefix)} (${other.by})`] : []
  })
}

function readable<T>(text: string, parse: (text: string) => T, broken: string[]): T[] {
  try {
    return [parse(text)]
  } catch {
    broken.push(`${JSON.stringify(text.slice(0, 64))} is not an address or prefix`)
    return []
  }
}

function refused(broken: readonly string[]): NsmError {
  return new NsmError(
    'REFUSED',
    `the endpoint's answer is outside the bounds: ${broken.join('; ')}`,
    'ask whoever runs the service, or allow it with --allow-prefix or --allow-domain',
  )
}

function conflict(conflicts: readonly string[]): NsmError {
  return new NsmError(
    'CONFLICT',
    `the service collides with this machine: ${conflicts.join('; ')}`,
    'free the one on this machine, or ask for a service with other prefixes',
  )
}
