import { isIPv4, isIPv6 } from 'node:net'
import { formatPrefix, parseAddress, prefixOf } from '../base/ip.ts'

/** Ours: how many connections a server takes. */
export interface ConnectionLimits {
  /** Connections whose handshake is not finished. */
  readonly halfOpenMax: number
  /** Members' connections and those whose handshake is not finished. */
  readonly totalMax: number
  /** Connections of one SPIFFE ID. */
  readonly perIdentityMax: number
  /** True for an ID that is not held to that: a manager of a cluster dials anew for each call it passes on. */
  readonly isExempt?: (spiffeId: string) => boolean
  /** Connections without a client certificate: they have places of their own and take none of the members'. */
  readonly anonymousMax: number
  /** Anonymous connections of one IPv4 address or IPv6 /64. */
  readonly anonymousPerSourceMax: number
  /** New connections of one IPv4 address or IPv6 /64: a steady rate, and how many may come at once. */
  readonly perSecond: number
  readonly burst: number
}

/**
 * A client that joins costs about 90 KiB and 4.5 ms, so 2,000 idle ones take 180 MB. A burst of 100 lets a site behind
 * one address start together. A machine has one or two connections, but several may share an SVID.
 */
export const defaultConnectionLimits: ConnectionLimits = {
  halfOpenMax: 256,
  totalMax: 2_000,
  perIdentityMax: 64,
  anonymousMax: 64,
  anonymousPerSourceMax: 8,
  perSecond: 20,
  burst: 100,
}

/** What the gate says of a new connection. */
export type Admission = 'admitted' | 'too-many' | 'too-many-half-open' | 'too-fast'

/** What the gate says when the handshake has shown who calls. */
export type CallerAdmission = 'admitted' | 'too-many-of-identity' | 'too-many-anonymous' | 'too-many-of-source'

/** Who has a connection after its handshake; without a client certificate `spiffeId` is undefined. */
export interface Caller {
  readonly address: string
  readonly spiffeId: string | undefined
}

/**
 * Counts connections and refuses those beyond the limits; pure, the time is an argument (monotonic milliseconds).
 * `admit` --> half open --`finish`--> a member's or anonymous; `release` from either.
 */
export class ConnectionGate {
  readonly #limits: ConnectionLimits
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>()
  readonly #members = new Counts()
  readonly #anonymous = new Counts()
  #halfOpen = 0

  constructor(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /** Decides on a new connection; an admitted one counts as half open until `finish` or `release`. */
  admit(address: string, nowMs: number): Admission {
    if (this.#members.total + this.#halfOpen >= this.#limits.totalMax) return 'too-many'
    if (this.#halfOpen >= this.#limits.halfOpenMax) return 'too-many-half-open'
    if (!this.#take(sourceOf(address), nowMs)) return 'too-fast'
    this.#halfOpen++
    return 'admitted'
  }

  /** The handshake of a half-open connection is finished; a refused one stays half open until `release`. */
  finish({ address, spiffeId }: Caller): CallerAdmission {
    const { perIdentityMax, isExempt, anonymousMax, anonymousPerSourceMax } = this.#limits
    if (spiffeId !== undefined) {
      if (this.#members.of(spiffeId) >= perIdentityMax && !isExempt?.(spiffeId)) return 'too-many-of-identity'
      this.#members.add(spiffeId)
    } else {
      const source = sourceOf(address)
      if (this.#anonymous.total >= anonymousMax) return 'too-many-anonymous'
      if (this.#anonymous.of(source) >= anonymousPerSourceMax) return 'too-many-of-source'
      this.#anonymous.add(source)
    }
    this.#halfOpen--
    return 'admitted'
  }

  /** An admitted connection is gone; `caller` as it was given to `finish`, undefined for a half-open one. */
  release(caller: Caller | undefined): void {
    if (!caller) this.#halfOpen--
    else if (caller.spiffeId !== undefined) this.#members.remove(caller.spiffeId)
    else this.#anonymous.remove(sourceOf(caller.address))
  }

  /** Open connections, those of them without a finished handshake, and those without a client certificate. */
  get counts(): ConnectionCounts {
    const [members, anonymous] = [this.#members.total, this.#anonymous.total]
    return { total: members + anonymous + this.#halfOpen, halfOpen: this.#halfOpen, anonymous }
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

/** Open connections of a server. */
export interface ConnectionCounts {
  readonly total: number
  readonly halfOpen: number
  readonly anonymous: number
}

/** Connections by whom they belong to. */
class Counts {
  readonly #by = new Map<string, number>()
  #total = 0

  get total(): number {
    return this.#total
  }

  of(key: string): number {
    return this.#by.get(key) ?? 0
  }

  add(key: string): void {
    this.#by.set(key, this.of(key) + 1)
    this.#total++
  }

  remove(key: string): void {
    const left = this.of(key) - 1
    if (left > 0) this.#by.set(key, left)
    else this.#by.delete(key)
    this.#total--
  }
}

/** Ours: remembered sources, about 100 B each; a flood from many addresses meets the other limits. */
const sourcesMax = 10_000

/** What limits count by: an IPv4 address, or the IPv6 /64 that one customer usually has as a whole. */
export function sourceOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  const plain = (mapped ?? address).replace(/%.*$/, '')
  // In this order: Node makes its pattern of IPv6 when it is first asked, 3 ms.
  return isIPv4(plain) || !isIPv6(plain) ? plain : formatPrefix(prefixOf(parseAddress(plain), 64))
}
