/** Ours: calls that a client may open and reset: all that it may have at once, some times over, and then so many a second. */
const burst = 500
const perSecond = 50

/** Opening a stream and resetting it at once costs a client nothing and us a call. [CVE-2023-44487] */
export class ResetLimit {
  #left = burst
  #atMs: number | undefined

  /** Counts one; false: too many. `nowMs` is monotonic. */
  count(nowMs: number): boolean {
    this.#left = Math.min(burst, this.#left + ((nowMs - (this.#atMs ?? nowMs)) * perSecond) / 1_000)
    this.#atMs = nowMs
    this.#left--
    return this.#left >= 0
  }
}
