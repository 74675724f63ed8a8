/** How many of a kind of frames a client may send at once, and how many a second after that. */
export interface FloodRate {
  readonly burst: number
  readonly perSecond: number
}

/** Ours: calls that a client may open and reset: all that it may have at once, some times over. [CVE-2023-44487] */
export const resetRate: FloodRate = { burst: 500, perSecond: 50 }
/**
 * Ours: frames that move nothing, such as PING, SETTINGS and empty DATA, cost the client nine bytes and us a look or an
 * answer. A program that waits sends one in some seconds; for those that go with calls and answers it earns more.
 */
export const idleRate: FloodRate = { burst: 2_000, perSecond: 100 }
/** Ours: NSM's programs answer DATA with up to two WINDOW_UPDATE and a PING, now and then with SETTINGS. [grpc-go bdp] */
export const idleEarned = 4

/** Counts what costs a client next to nothing. */
export class FloodLimit {
  readonly #rate: FloodRate
  #left: number
  #atMs: number | undefined

  constructor(rate: FloodRate) {
    this.#rate = rate
    this.#left = rate.burst
  }

  /** Counts one; false: too many. `nowMs` is monotonic. */
  count(nowMs: number): boolean {
    this.earn(((nowMs - (this.#atMs ?? nowMs)) * this.#rate.perSecond) / 1_000)
    this.#atMs = nowMs
    this.#left--
    return this.#left >= 0
  }

  /** Allows as many more, up to the burst. */
  earn(count: number): void {
    this.#left = Math.min(this.#rate.burst, this.#left + count)
  }
}
