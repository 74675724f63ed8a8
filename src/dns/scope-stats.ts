/** Whose reply ended a race: a server of the scope, one of the host's own, or none. */
export type Winner = 'service' | 'host' | 'nobody'

/** What one scope (or "no scope") has seen since it was first configured. */
export interface ScopeFigures {
  readonly queries: number
  readonly cacheHits: number
  /** Questions that were answered by a race of another client. */
  readonly joined: number
  readonly won: Readonly<Record<Winner, number>>
  /** Races by time to their answer: how many took at most `upToMs`, and longer than the bucket before. */
  readonly latency: readonly { readonly upToMs: number; readonly count: number }[]
}

/** Ours: upper bounds of the buckets in milliseconds; the deadline is 4.5 s, so nothing is beyond the last. */
export const latencyBoundsMs: readonly number[] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000]

/** Counts what happens to the questions of one scope. */
export class ScopeStats {
  queries = 0
  cacheHits = 0
  joined = 0
  readonly #won: Record<Winner, number> = { service: 0, host: 0, nobody: 0 }
  readonly #buckets = new Uint32Array(latencyBoundsMs.length)

  /** Counts the end of a race. */
  raceEnded(winner: Winner, tookMs: number): void {
    this.#won[winner]++
    let bucket = 0
    while (bucket < latencyBoundsMs.length - 1 && tookMs > (latencyBoundsMs[bucket] ?? 0)) bucket++
    this.#buckets[bucket] = (this.#buckets[bucket] ?? 0) + 1
  }

  /** The figures of the moment. */
  figures(): ScopeFigures {
    return {
      queries: this.queries,
      cacheHits: this.cacheHits,
      joined: this.joined,
      won: { ...this.#won },
      latency: latencyBoundsMs.map((upToMs, i) => ({ upToMs, count: this.#buckets[i] ?? 0 })),
    }
  }
}
