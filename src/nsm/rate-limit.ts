import { NsmError } from '../base/errors.ts'
import { sourceOf } from '../identity/connection-gate.ts'

/** Ours: tries of one source, a steady rate and how many at once: more than people need, too few to guess 256 bits. */
const perSecond = 1
const burst = 20
/** Ours: sources remembered; beyond it the oldest is forgotten. */
const sourcesMax = 10_000

/** A token bucket per IPv4 address or IPv6 /64; pure, the time is an argument (monotonic milliseconds). */
export class RateLimit {
  readonly #buckets = new Map<string, { readonly left: number; readonly atMs: number }>()

  /** Counts one try; throws `CONFLICT`, gRPC's RESOURCE_EXHAUSTED, when there were too many. */
  count(address: string, nowMs: number): void {
    const source = sourceOf(address)
    const bucket = this.#buckets.get(source) ?? { left: burst, atMs: nowMs }
    const left = Math.min(burst, bucket.left + ((nowMs - bucket.atMs) * perSecond) / 1_000)
    if (left < 1) throw new NsmError('CONFLICT', 'the tries of this address are exhausted', 'wait a minute')
    this.#buckets.delete(source)
    this.#buckets.set(source, { left: left - 1, atMs: nowMs })
    const [oldest] = this.#buckets.keys()
    if (this.#buckets.size > sourcesMax && oldest !== undefined) this.#buckets.delete(oldest)
  }
}
