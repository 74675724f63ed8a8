import { NsmError } from '../base/errors.ts'
import {
  familyBits,
  firstAddress,
  formatAddress,
  formatPrefix,
  type IpAddress,
  type Prefix,
  parsePrefix,
  prefixCovers,
  prefixesOverlap,
} from '../base/ip.ts'
import { findCover, findOverlap } from '../ipam/excluded-prefixes.ts'
import { PrefixPool, restingPerOwnerMax } from '../ipam/prefix-pool.ts'

/** What a member asks of the address plan. */
export interface AddressRequest {
  readonly spiffeId: string
  readonly excluded: readonly Prefix[]
  /** What the member has already (`address/32`); kept unless excluded. */
  readonly current: readonly string[]
  readonly nowMs: number
}

/**
 * The prefixes of one vL3, or the parts of them that belong to this site: one address of each prefix for every member.
 * The gateway is the base address of a prefix's first part.
 */
export class AddressPlan {
  /** The prefixes of the whole vL3, in the order given. */
  readonly prefixes: readonly Prefix[]
  readonly #restMs: number
  /** Per prefix the pools of its parts, the first one with the gateway. */
  readonly #pools: readonly PrefixPool[][]

  /** Without `parts`, all of every prefix is ours. */
  constructor(settings: {
    readonly prefixes: readonly string[]
    readonly parts?: readonly string[]
    readonly restMs: number
  }) {
    this.prefixes = settings.prefixes.map(parsePrefix)
    checkPrefixes(this.prefixes)
    this.#restMs = settings.restMs
    this.#pools = this.prefixes.map(() => [])
    for (const part of settings.parts ?? settings.prefixes) this.add(parsePrefix(part))
    for (const [i, pools] of this.#pools.entries()) if (pools.length === 0) throw partless(this.prefixes[i])
  }

  /** Adds a part; throws `USAGE` when it is of none of the prefixes. */
  add(part: Prefix): void {
    const at = this.prefixes.findIndex((whole) => prefixCovers(whole, part))
    const pools = this.#pools[at]
    if (!pools)
      throw new NsmError('USAGE', `${formatPrefix(part)} is no part of the vL3`, 'remove the state of the site')
    pools.push(new PrefixPool({ prefix: part, restMs: this.#restMs }))
  }

  /** The parts of this site. */
  get parts(): readonly Prefix[] {
    return this.#pools.flat().map((pool) => pool.prefix)
  }

  /** The gateway of each prefix: the base address of its first part [NSM vl3 ipam]. */
  get gateways(): readonly IpAddress[] {
    return this.#pools.flatMap(([first]) => (first ? [firstAddress(first.prefix)] : []))
  }

  /** The prefixes of which no part has an address left, whatever is excluded. */
  full(spiffeId: string, nowMs: number): readonly Prefix[] {
    return this.prefixes.filter((whole, i) => {
      const request = { length: familyBits[whole.family], owner: spiffeId, excluded: [], nowMs }
      return !this.#pools[i]?.some((pool) => {
        const found = pool.allocate(request)
        if (found === 'exhausted') return false
        if (found !== 'too-many-resting') pool.withdraw(found)
        return true
      })
    })
  }

  /**
   * One address (`address/32` or `/128`) of each prefix; throws `CONFLICT`, with nothing taken, when one has none, and
   * `REFUSED` for one that uses up too many.
   */
  allocate(request: AddressRequest): readonly string[] {
    const fresh: string[] = []
    try {
      return this.#pools.map((pools, i) => {
        const kept = keptOf(pools, request)
        if (kept) return kept
        const given = formatPrefix(allocateFrom(pools, this.prefixes[i], request))
        fresh.push(given)
        return given
      })
    } catch (error) {
      this.#withdraw(fresh)
      throw error
    }
  }

  /** Takes these very addresses, as after a restart; false when one is no longer possible, then none is taken. */
  reserve(addresses: readonly string[], spiffeId: string, nowMs: number): boolean {
    const taken: string[] = []
    for (const address of addresses) {
      const prefix = parsePrefix(address)
      if (!this.#pools.flat().some((pool) => pool.reserve({ prefix, owner: spiffeId, nowMs }))) {
        this.#withdraw(taken)
        return false
      }
      taken.push(address)
    }
    return true
  }

  #withdraw(addresses: readonly string[]): void {
    for (const address of addresses) for (const pool of this.#pools.flat()) pool.withdraw(parsePrefix(address))
  }

  /** Gives addresses back; they rest before another identity gets them. */
  release(addresses: readonly string[], nowMs: number): void {
    for (const address of addresses) {
      const prefix = parsePrefix(address)
      for (const pool of this.#pools.flat()) pool.release(prefix, nowMs)
    }
  }
}

function keptOf(pools: readonly PrefixPool[], { current, excluded }: AddressRequest): string | undefined {
  return current.find((text) => {
    const address = parsePrefix(text)
    const isOurs = pools.some((pool) => prefixesOverlap(pool.prefix, address))
    return isOurs && !excluded.some((other) => prefixesOverlap(other, address))
  })
}

function allocateFrom(
  pools: readonly PrefixPool[],
  whole: Prefix | undefined,
  { spiffeId, excluded, nowMs }: AddressRequest,
): Prefix {
  for (const pool of pools) {
    const length = familyBits[pool.prefix.family]
    const given = pool.allocate({ length, owner: spiffeId, excluded, nowMs })
    if (given === 'too-many-resting') throw tooManyResting(pool.prefix)
    if (given !== 'exhausted') return given
  }
  throw noAddress(pools, whole, excluded)
}

function noAddress(pools: readonly PrefixPool[], whole: Prefix | undefined, excluded: readonly Prefix[]): NsmError {
  const parts = pools.map((pool) => pool.prefix)
  const name = parts.map(formatPrefix).join(', ')
  const cover = whole && findCover(excluded, whole)
  if (cover) {
    return new NsmError(
      'CONFLICT',
      `address pool ${name} lies wholly in the excluded prefix ${formatPrefix(cover)}`,
      `serve the vL3 on a prefix outside ${formatPrefix(cover)}, or stop excluding it`,
    )
  }
  const overlap = findOverlap(parts, excluded)
  const outside = overlap ? ` outside the excluded prefix ${formatPrefix(overlap.theirs)}` : ''
  const live = pools.reduce((sum, pool) => sum + pool.liveCount, 0)
  return new NsmError(
    'CONFLICT',
    `address pool ${name} is exhausted${outside}: ${live} addresses are in use or rest after use`,
    'serve the vL3 on a wider prefix, or disconnect members that are no longer needed',
  )
}

function partless(prefix: Prefix | undefined): NsmError {
  const text = prefix ? formatPrefix(prefix) : 'a prefix'
  return new NsmError('USAGE', `this site has no part of ${text}`, 'remove the state of the site, and join again')
}

function tooManyResting(prefix: Prefix): NsmError {
  const message = `this identity has ${restingPerOwnerMax} addresses of ${formatPrefix(prefix)} that rest after use`
  return new NsmError('REFUSED', message, 'wait until they have rested, or stop excluding the addresses it had')
}

function checkPrefixes(prefixes: readonly Prefix[]): void {
  if (prefixes.length === 0) throw new NsmError('USAGE', 'a vL3 needs a prefix', 'give one, like 10.64.0.0/16')
  for (const [i, prefix] of prefixes.entries()) {
    const overlap = findOverlap([prefix], prefixes.slice(i + 1))
    const text = formatPrefix(prefix)
    if (overlap) {
      throw new NsmError(
        'CONFLICT',
        `prefix ${text} overlaps ${formatPrefix(overlap.theirs)}`,
        'give disjoint prefixes',
      )
    }
    if (prefix.length === familyBits[prefix.family]) {
      throw new NsmError('USAGE', `prefix ${text} holds the gateway only`, `give a wider one, like ${wider(prefix)}`)
    }
  }
}

function wider(prefix: Prefix): string {
  return `${formatAddress(prefix)}/${prefix.family === 4 ? 24 : 64}`
}
