import type { Reply } from './classify.ts'

/** A kept reply; its bytes are shared and must be copied before they are patched. */
export interface CachedReply {
  readonly reply: Reply
  /** True when the host's own resolver gave it: only then its AD bit may be passed on. */
  readonly fromDefault: boolean
  readonly storedAtMs: number
  readonly expiresAtMs: number
}

/** How a reply came about. */
export interface Origin {
  readonly fromDefault: boolean
  /** True when some upstream had not spoken: a "no" of this kind is kept only briefly. */
  readonly partial: boolean
}

/** Ours: bounds of the cache. 4096 replies of a kilobyte each. */
export const cacheEntriesMax = 4_096
/** Ours: bytes of all kept replies. */
export const cacheBytesMax = 4 * 1024 * 1024
/** Ours: no answer is believed longer than an hour. */
const positiveMaxSeconds = 3_600
/** Ours: a "no" soon becomes a "yes" when a service starts. */
const negativeMaxSeconds = 30
/** Ours: a "no" while somebody was silent. */
const partialMaxSeconds = 5
/** [RFC 9520 3.2]: a failure is kept at least 1 s, doubling while it lasts, at most 5 min; ours ends at 30 s. */
const failureMinSeconds = 1
const failureMaxSeconds = 30

/** Replies by question and scope, oldest out first. Keys carry the scope's id, so a changed scope never meets old replies. */
export class Cache {
  readonly #entries = new Map<string, CachedReply>()
  #bytes = 0

  /** The number of kept replies, expired ones included. */
  get size(): number {
    return this.#entries.size
  }

  /** The bytes of all kept replies. */
  get bytes(): number {
    return this.#bytes
  }

  /** A reply that is still valid; undefined otherwise. `nowMs` is monotonic. */
  get(key: string, nowMs: number): CachedReply | undefined {
    const entry = this.#entries.get(key)
    return entry !== undefined && nowMs < entry.expiresAtMs ? entry : undefined
  }

  /** Keeps a reply as long as its class and records allow; one that may not be kept is left out. */
  set(key: string, reply: Reply, at: Origin & { readonly nowMs: number }): void {
    const lifeSeconds = this.#lifeSeconds(key, reply, at)
    if (lifeSeconds <= 0 || reply.bytes.length > cacheBytesMax) return
    this.#delete(key)
    const expiresAtMs = at.nowMs + lifeSeconds * 1000
    this.#entries.set(key, { reply, fromDefault: at.fromDefault, storedAtMs: at.nowMs, expiresAtMs })
    this.#bytes += reply.bytes.length
    this.#evict()
  }

  /** Forgets everything. */
  clear(): void {
    this.#entries.clear()
    this.#bytes = 0
  }

  #lifeSeconds(key: string, reply: Reply, at: Origin & { readonly nowMs: number }): number {
    switch (reply.class) {
      case 'positive':
        return Math.min(reply.ttlSeconds, positiveMaxSeconds)
      case 'nodata':
      case 'nxdomain':
        return reply.hasSoa ? Math.min(reply.ttlSeconds, at.partial ? partialMaxSeconds : negativeMaxSeconds) : 0
      case 'failure':
        return this.#failureSeconds(key, at.nowMs)
      default:
        return 0
    }
  }

  /** Doubles while the failure lasts; one that comes long after the last one is a new one. */
  #failureSeconds(key: string, nowMs: number): number {
    const before = this.#entries.get(key)
    if (before?.reply.class !== 'failure') return failureMinSeconds
    if (nowMs - before.expiresAtMs > failureMaxSeconds * 1000) return failureMinSeconds
    return Math.min(((before.expiresAtMs - before.storedAtMs) / 1000) * 2, failureMaxSeconds)
  }

  #evict(): void {
    for (const key of this.#entries.keys()) {
      if (this.#entries.size <= cacheEntriesMax && this.#bytes <= cacheBytesMax) return
      this.#delete(key)
    }
  }

  #delete(key: string): void {
    const entry = this.#entries.get(key)
    if (entry === undefined) return
    this.#entries.delete(key)
    this.#bytes -= entry.reply.bytes.length
  }
}
