import { NsmError } from '../base/errors.ts'
import {
  familyBits,
  firstAddress,
  formatAddress,
  formatPrefix,
  type IpAddress,
  type Prefix,
  parsePrefix,
  prefixesOverlap,
} from '../base/ip.ts'
import { findCover, findOverlap } from '../ipam/excluded-prefixes.ts'
import { PrefixPool } from '../ipam/prefix-pool.ts'

/** What a member asks of the address plan. */
export interface AddressRequest {
  readonly spiffeId: string
  readonly excluded: readonly Prefix[]
  /** What the member has already (`address/32`); kept unless excluded. */
  readonly current: readonly string[]
  readonly nowMs: number
}

/** The prefixes of one vL3: one address of each for every member; the base address of each is the gateway's. */
export class AddressPlan {
  readonly #pools: readonly PrefixPool[]

  constructor(settings: { readonly prefixes: readonly string[]; readonly restMs: number }) {
    const prefixes = settings.prefixes.map(parsePrefix)
    checkPrefixes(prefixes)
    this.#pools = prefixes.map((prefix) => new PrefixPool({ prefix, restMs: settings.restMs }))
  }

  /** The prefixes, in the order given. */
  get prefixes(): readonly Prefix[] {
    return this.#pools.map((pool) => pool.prefix)
  }

  /** The gateway of each prefix: its base address [NSM vl3 ipam]. */
  get gateways(): readonly IpAddress[] {
    return this.prefixes.map(firstAddress)
  }

  /** One address (`address/32` or `/128`) of each prefix; throws `CONFLICT`, with nothing taken, when one has none. */
  allocate(request: AddressRequest): readonly string[] {
    const fresh: string[] = []
    try {
      return this.#pools.map((pool) => {
        const kept = keptOf(pool.prefix, request)
        if (kept) return kept
        const given = formatPrefix(allocateFrom(pool, request))
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
      if (!this.#pools.some((pool) => pool.reserve({ prefix, owner: spiffeId, nowMs }))) {
        this.#withdraw(taken)
        return false
      }
      taken.push(address)
    }
    return true
  }

  #withdraw(addresses: readonly string[]): void {
    for (const address of addresses) for (const pool of this.#pools) pool.withdraw(parsePrefix(address))
  }

  /** Gives addresses back; they rest before another identity gets them. */
  release(addresses: readonly string[], nowMs: number): void {
    for (const address of addresses) {
      const prefix = parsePrefix(address)
      for (const pool of this.#pools) pool.release(prefix, nowMs)
    }
  }
}

function keptOf(pool: Prefix, { current, excluded }: AddressRequest): string | undefined {
  return current.find((text) => {
    const address = parsePrefix(text)
    return prefixesOverlap(pool, address) && !excluded.some((other) => prefixesOverlap(other, address))
  })
}

function allocateFrom(pool: PrefixPool, { spiffeId, excluded, nowMs }: AddressRequest): Prefix {
  const length = familyBits[pool.prefix.family]
  const given = pool.allocate({ length, owner: spiffeId, excluded, nowMs })
  if (given !== 'exhausted') return given
  const name = formatPrefix(pool.prefix)
  const cover = findCover(excluded, pool.prefix)
  if (cover) {
    throw new NsmError(
      'CONFLICT',
      `address pool ${name} lies wholly in the excluded prefix ${formatPrefix(cover)}`,
      `serve the vL3 on a prefix outside ${formatPrefix(cover)}, or stop excluding it`,
    )
  }
  const overlap = findOverlap([pool.prefix], excluded)
  const outside = overlap ? ` outside the excluded prefix ${formatPrefix(overlap.theirs)}` : ''
  throw new NsmError(
    'CONFLICT',
    `address pool ${name} is exhausted${outside}: ${pool.liveCount} addresses are in use or rest after use`,
    'serve the vL3 on a wider prefix, or disconnect members that are no longer needed',
  )
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
