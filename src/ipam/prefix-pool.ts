import { familyBits, formatPrefix, type Prefix, prefixCovers, prefixesOverlap } from '../base/ip.ts'
import { mergePrefixes } from './excluded-prefixes.ts'
import { FreeRanges, type Range, rangeOf } from './free-ranges.ts'

/** What a pool hands out and how long a returned prefix waits before somebody else gets it. */
export interface PoolSettings {
  /** All prefixes given lie in this one; its first address is the gateway's and never given. */
  readonly prefix: Prefix
  /** Milliseconds that a released prefix is kept for its last owner only [security V6]. */
  readonly restMs: number
}

/** One wish for a prefix of a pool. */
export interface PoolRequest {
  /** 32 or 128 for one address. */
  readonly length: number
  /** Who gets it; a prefix that rests goes back to its last owner at once. */
  readonly owner: string
  readonly excluded: readonly Prefix[]
  readonly nowMs: number
}

/**
 * Ours: resting prefixes of one owner, twice what it may have live. One that keeps coming back gets what it had; only one
 * that refuses its former prefixes reaches this, and would otherwise use up the pool for everybody.
 */
export const restingPerOwnerMax = 128

/** Gives the lowest free prefix of a bigger one; never the gateway's address, a live prefix or an excluded one. */
export class PrefixPool {
  readonly prefix: Prefix
  readonly #restMs: number
  readonly #free: FreeRanges
  readonly #live = new Map<string, { readonly owner: string; readonly restedUntilMs: number | undefined }>()
  /** In the order of release; one that was withdrawn stands later than its end asks, and so rests a little longer. */
  readonly #resting = new Map<string, { readonly prefix: Prefix; readonly owner: string; readonly untilMs: number }>()

  constructor(settings: PoolSettings) {
    this.prefix = settings.prefix
    this.#restMs = settings.restMs
    this.#free = new FreeRanges(rangeOf(settings.prefix))
    for (const reserved of neverGiven(settings.prefix)) this.#free.take(reserved)
  }

  /** The prefix that rests for this owner, else the lowest free one, else why there is none. */
  allocate(request: PoolRequest): Prefix | 'exhausted' | 'too-many-resting' {
    this.#wake(request.nowMs)
    const rested = this.#restingFor(request)
    if (!rested && this.#restingOf(request.owner) >= restingPerOwnerMax) return 'too-many-resting'
    const found = rested ?? this.#lowest(request)
    if (!found) return 'exhausted'
    const { owner, nowMs } = request
    return this.reserve({ prefix: found, owner, nowMs }) ? found : 'exhausted'
  }

  /** Takes this very prefix; false when it is outside the pool, never given, live, or rests for somebody else. */
  reserve(wanted: { readonly prefix: Prefix; readonly owner: string; readonly nowMs: number }): boolean {
    this.#wake(wanted.nowMs)
    if (!prefixCovers(this.prefix, wanted.prefix)) return false
    const key = formatPrefix(wanted.prefix)
    const resting = this.#resting.get(key)
    if (resting ? resting.owner !== wanted.owner : !this.#free.take(rangeOf(wanted.prefix))) return false
    this.#resting.delete(key)
    this.#live.set(key, { owner: wanted.owner, restedUntilMs: resting?.untilMs })
    return true
  }

  /** Gives a live prefix back; it rests first. False when it was not live. */
  release(prefix: Prefix, nowMs: number): boolean {
    const key = formatPrefix(prefix)
    const live = this.#live.get(key)
    if (!live) return false
    this.#live.delete(key)
    this.#resting.set(key, { prefix, owner: live.owner, untilMs: nowMs + this.#restMs })
    return true
  }

  /** Takes back a live prefix that was never used: it is free at once, or rests as it did before it was given. */
  withdraw(prefix: Prefix): void {
    const key = formatPrefix(prefix)
    const live = this.#live.get(key)
    if (!live) return
    this.#live.delete(key)
    const { owner, restedUntilMs } = live
    if (restedUntilMs === undefined) this.#free.give(rangeOf(prefix))
    else this.#resting.set(key, { prefix, owner, untilMs: restedUntilMs })
  }

  /** Prefixes in use. */
  get liveCount(): number {
    return this.#live.size
  }

  #wake(nowMs: number): void {
    for (const [key, { prefix, untilMs }] of this.#resting) {
      if (untilMs > nowMs) return
      this.#resting.delete(key)
      this.#free.give(rangeOf(prefix))
    }
  }

  #restingFor(request: PoolRequest): Prefix | undefined {
    for (const { prefix, owner } of this.#resting.values()) {
      if (owner !== request.owner || prefix.length !== request.length) continue
      if (!request.excluded.some((excluded) => prefixesOverlap(excluded, prefix))) return prefix
    }
    return undefined
  }

  #restingOf(owner: string): number {
    let count = 0
    for (const resting of this.#resting.values()) if (resting.owner === owner) count++
    return count
  }

  #lowest(request: PoolRequest): Prefix | undefined {
    const { family } = this.prefix
    if (request.length < this.prefix.length || request.length > familyBits[family]) return undefined
    const size = 1n << BigInt(familyBits[family] - request.length)
    const sameFamily = request.excluded.filter((excluded) => excluded.family === family)
    const bits = this.#free.lowest(size, mergePrefixes(sameFamily).map(rangeOf))
    return bits === undefined ? undefined : { family, bits, length: request.length }
  }
}

/**
 * The base address is the gateway's [NSM vl3 ipam]; the last one of an IPv4 prefix is its broadcast address, which hosts
 * refuse as their own (NSM gives it out; leaving it free costs one address). A /31 has no broadcast address [RFC 3021].
 */
function neverGiven(prefix: Prefix): readonly Range[] {
  const { first, last } = rangeOf(prefix)
  const hasBroadcast = prefix.family === 4 && prefix.length <= 30
  return hasBroadcast
    ? [
        { first, last: first },
        { first: last, last },
      ]
    : [{ first, last: first }]
}
