import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { sourceOf } from '../identity/connection-gate.ts'

/** A steady rate, and how many at once. */
interface Rate {
  readonly perSecond: number
  readonly burst: number
}

/** Ours: failures of one source: more than people make, too few to guess 256 bits or to probe the rules. */
const failures: Rate = { perSecond: 1, burst: 20 }
/** Ours: exchanges of one source in all: a fleet of CI runners behind one address, and no more than 3 % of a core. */
const exchanges: Rate = { perSecond: 20, burst: 1_000 }
/** Ours: callers remembered; beyond it the oldest is forgotten. */
const callersMax = 10_000

/**
 * Holds each source, an IPv4 address or an IPv6 /64, to its exchanges, and to far fewer failures: whoever shows good tokens
 * is not a guesser, although many of them share an address. A try takes a failure's place while it runs, so that tries at
 * the same time are bounded too.
 */
export class ExchangeRate {
  readonly #failures = new RateLimit(failures)
  readonly #exchanges = new RateLimit(exchanges)

  /** Runs one exchange; throws `CONFLICT`, gRPC's RESOURCE_EXHAUSTED, when the source had too many, else what `work` throws. */
  async run<T>(work: () => Promise<T>, from: { readonly address: string; readonly clock: Clock }): Promise<T> {
    const source = sourceOf(from.address)
    const { clock } = from
    this.#failures.take(source, clock.monotonicMs())
    try {
      this.#exchanges.take(source, clock.monotonicMs())
      const answer = await work()
      this.#failures.giveBack(source)
      return answer
    } catch (error) {
      // An issuer or a first site that is away is not the caller's fault.
      if (toNsmError(error).code === 'UNREACHABLE') this.#failures.giveBack(source)
      throw error
    }
  }
}

/** A token bucket per caller, whatever tells callers apart; pure, the time is an argument (monotonic milliseconds). */
export class RateLimit {
  readonly #rate: Rate
  readonly #buckets = new Map<string, { readonly left: number; readonly atMs: number }>()

  constructor(rate: Rate) {
    this.#rate = rate
  }

  /** Takes one place; throws `CONFLICT` when there is none. */
  take(caller: string, nowMs: number): void {
    const { perSecond, burst } = this.#rate
    const bucket = this.#buckets.get(caller) ?? { left: burst, atMs: nowMs }
    const left = Math.min(burst, bucket.left + ((nowMs - bucket.atMs) * perSecond) / 1_000)
    if (left < 1)
      throw new NsmError('CONFLICT', 'the tries of this caller are exhausted (RATE_LIMITED)', 'wait a minute')
    this.#buckets.delete(caller)
    this.#buckets.set(caller, { left: left - 1, atMs: nowMs })
    const [oldest] = this.#buckets.keys()
    if (this.#buckets.size > callersMax && oldest !== undefined) this.#buckets.delete(oldest)
  }

  /** Gives a place back that was not used up; more than the burst is cut at the next `take`. */
  giveBack(caller: string): void {
    const bucket = this.#buckets.get(caller)
    if (bucket) this.#buckets.set(caller, { ...bucket, left: bucket.left + 1 })
  }
}
