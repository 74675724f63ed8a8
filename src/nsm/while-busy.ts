import { randomInt } from 'node:crypto'
import { type Clock, pause } from '../base/clock.ts'
import { NsmError, systemCode } from '../base/errors.ts'

/** Ours: pauses before the tries that follow, doubled each time, half of each random: about 6 s in all. */
const pauseMinMs = 250
const pausesMax = 5

/** What a busy server does, and how long to put up with it. */
interface Patience {
  readonly clock: Clock
  readonly signal: AbortSignal
  /** True for the failure of a server that is there and has no place at the moment. */
  readonly isBusy: (error: unknown) => boolean
}

/**
 * Does the work again while a server turns callers away, as when many join at once: it closes connections beyond its
 * limits without a word. The work must bear being done twice. Throws the last failure.
 */
export async function whileBusy<T>(work: () => Promise<T>, { clock, signal, isBusy }: Patience): Promise<T> {
  for (let pauses = 0; ; pauses++) {
    try {
      return await work()
    } catch (error) {
      if (pauses >= pausesMax || !isBusy(error)) throw error
      const pauseMs = (pauseMinMs * 2 ** pauses * randomInt(500, 1_000)) / 1_000
      await pause(clock, pauseMs, signal)
      if (signal.aborted) throw error
    }
  }
}

/** True when somebody took the connection and closed it; false when nobody took it, or nothing came at all. */
export function isTurnedAway(error: unknown): boolean {
  return isUnreachable(error) && systemCode(error.cause) === 'ECONNRESET'
}

/** True when there was no answer, for whatever reason. */
export function isUnreachable(error: unknown): error is NsmError {
  return error instanceof NsmError && error.code === 'UNREACHABLE'
}
