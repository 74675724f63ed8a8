import type { Clock } from './clock.ts'
import type { NsmError } from './errors.ts'

/** How long work may take, and the error it ends with when it takes longer. */
export interface TimeLimit {
  readonly clock: Clock
  readonly limitMs: number
  readonly late: () => NsmError
  /** The caller's own signal; it ends the work too. */
  readonly signal?: AbortSignal
}

/** Runs work with a signal that is aborted with `late()` when the limit has passed; the work has to obey it. */
export async function within<T>(limit: TimeLimit, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const timeout = new AbortController()
  const cancel = limit.clock.after(limit.limitMs, () => timeout.abort(limit.late()))
  try {
    return await work(limit.signal ? AbortSignal.any([limit.signal, timeout.signal]) : timeout.signal)
  } finally {
    cancel()
  }
}
