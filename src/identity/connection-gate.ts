import { formatPrefix, parseAddress, prefixOf } from '../base/ip.ts'

/** Ours: how many connections a server takes before it knows who calls. */
export interface ConnectionLimits {
  /** Connections whose handshake is not finished. */
  readonly halfOpenMax: number
  readonly totalMax: number
  /** New connections of one IPv4 address or IPv6 /64: a steady rate, and how many may come at once. */
  readonly perSecond: number
  readonly burst: number
}

/**
 * An mTLS connection costs about 90 KiB and 5.5 ms, so 2,000 idle ones take 180 MB. A burst of 100 lets a site behind
 * one address start together.
 */
export const defaultConnectionLimits: ConnectionLimits = { halfOpenMax: 256, totalMax: 2000, perSecond: 20, burst: 100 }

/** What the gate says of a new connection. */
export type Admission = 'admitted' | 'too-many' | 'too-many-half-open' | 'too-fast'

/** Counts connections and refuses those beyond the limits; pure, the time is an argument (monotonic milliseconds). */
export class ConnectionGate {
  readonly #limits: ConnectionLimits
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>()
  #total = 0
  #halfOpen = 0

  constructor(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /** Decides on a new connection; an admitted one counts as half open until `finish` or `release`. */
  admit(address: string, nowMs: number): Admission {
    if (this.#total >= this.#limits.totalMax) return 'too-many'
    if (this.#halfOpen >= this.#limits.halfOpenMax) return 'too-many-half-open'
    if (!this.#take(sourceOf(address), nowMs)) return 'too-fast'
    this.#total++
    this.#halfOpen++
    return 'admitted'
  }

  /** The handshake of an admitted connection is finished. */
  finish(): void {
    this.#halfOpen--
  }

  /** An admitted connection is gone. */
  release(wasHalfOpen: boolean): void {
    this.#total--
    if (wasHalfOpen) this.#halfOpen--
  }

  /** Open connections, and those of them without a finished handshake. */
  get counts(): { readonly total: number; readonly halfOpen: number } {
    return { total: this.#total, halfOpen: this.#halfOpen }
  }

  #take(source: string, nowMs: number): boolean {
    if (this.#buckets.size >= sourcesMax) this.#forgetFull(nowMs)
    const tokens = this.#tokensOf(source, nowMs)
    if (tokens < 1) return false
    this.#buckets.delete(source)
    this.#buckets.set(source, { tokens: tokens - 1, atMs: nowMs })
    return true
  }

  #tokensOf(source: string, nowMs: number): number {
    const bucket = this.#buckets.get(source)
    if (!bucket) return this.#limits.burst
    return Math.min(this.#limits.burst, bucket.tokens + ((nowMs - bucket.atMs) * this.#limits.perSecond) / 1000)
  }

  /** Drops sources that are back at their full burst; if none is, the one that was quiet longest. */
  #forgetFull(nowMs: number): void {
    for (const source of [...this.#buckets.keys()]) {
      if (this.#tokensOf(source, nowMs) >= this.#limits.burst) this.#buckets.delete(source)
    }
    const [oldest] = this.#buckets.keys()
    if (this.#buckets.size >= sourcesMax && oldest !== undefined) this.#buckets.delete(oldest)
  }
}

/** Ours: remembered sources, about 100 B each; a flood from many addresses meets the other limits. */
const sourcesMax = 10_000

/** One customer usually has a whole IPv6 /64, so it counts as one source. */
function sourceOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  const parsed = parseAddress((mapped ?? address).replace(/%.*$/, ''))
  return formatPrefix(prefixOf(parsed, parsed.family === 4 ? 32 : 64))
}
