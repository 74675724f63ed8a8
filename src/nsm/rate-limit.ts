import { NsmError } from '../base/errors.ts'

/** Ours: tries of one address, a steady rate and how many at once: more than people need, too few to guess 256 bits. */
const perSecond = 1
const burst = 20
/** Ours: addresses remembered; beyond it the oldest is forgotten. */
const addressesMax = 10_000

/** A token bucket per address; pure, the time is an argument (monotonic milliseconds). */
export class RateLimit {
  readonly #buckets = new Map<string, { readonly left: number; readonly atMs: number }>()

  /** Counts one try; throws `CONFLICT`, gRPC's RESOURCE_EXHAUSTED, when there were too many. */
  count(address: string, nowMs: number): void {
    const bucket = this.#buckets.get(address) ?? { left: burst, atMs: nowMs }
    const left = Math.min(burst, bucket.left + ((nowMs - bucket.atMs) * perSecond) / 1_000)
    if (left < 1) throw new NsmError('CONFLICT', 'the tries of this address are exhausted', 'wait a minute')
    this.#buckets.delete(address)
    this.#buckets.set(address, { left: left - 1, atMs: nowMs })
    const [oldest] = this.#buckets.keys()
    if (this.#buckets.size > addressesMax && oldest !== undefined) this.#buckets.delete(oldest)
  }
}
