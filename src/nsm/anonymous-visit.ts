import type { Clock } from '../base/clock.ts'

/* A caller without a certificate comes to be given one: connect, one call, goodbye.
 *
 * quiet --call--> calling --answered--> leaving --call--> calling
 *   | 10 s          | 30 s from the start   | 1 s
 *   v               v                       v
 *  closed         closed                  closed */

/** Ours: silence after the handshake; a joining client calls at once. */
const quietMaxMs = 10_000
/** Ours: the whole visit; an exchange takes two round trips. */
const visitMaxMs = 30_000
/** Ours: time for an answer to leave, and for one more call after the configuration was read. */
const leavingMs = 1_000

/** The time limits of one connection without a client certificate. */
export interface Visit {
  /** A call that is open to everybody has begun; the result says that it was answered. */
  begin(): () => void
  /** The connection is gone. */
  end(): void
}

/** Starts the limits of a connection; `close` closes it. */
export function startVisit(clock: Clock, close: () => void): Visit {
  let calls = 0
  const cancelVisit = clock.after(visitMaxMs, close)
  let cancelQuiet = clock.after(quietMaxMs, close)
  return {
    begin() {
      calls++
      cancelQuiet()
      return () => {
        calls--
        if (calls > 0) return
        cancelQuiet()
        cancelQuiet = clock.after(leavingMs, close)
      }
    },
    end() {
      cancelQuiet()
      cancelVisit()
    },
  }
}
