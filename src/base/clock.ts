/** Time and timers as a seam: engines get times as arguments, drivers get a `Clock`. */
export interface Clock {
  /** Monotonic milliseconds, fractional. */
  monotonicMs(): number
  /** Wall clock, milliseconds since the Unix epoch. */
  wallMs(): number
  /** Calls `action` once after `delayMs`; the result cancels it. Does not keep the process alive. */
  after(delayMs: number, action: () => void): () => void
}

/** The clock of the machine. */
export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  after(delayMs, action) {
    const timer = setTimeout(action, Math.min(Math.max(delayMs, 0), timerMaxMs))
    timer.unref()
    return () => clearTimeout(timer)
  },
}

/** The clock of the machine whose timers keep the process alive. */
export const keepingClock: Clock = {
  ...systemClock,
  after(delayMs, action) {
    const timer = setTimeout(action, Math.min(Math.max(delayMs, 0), timerMaxMs))
    return () => clearTimeout(timer)
  },
}

/** Node's limit: a longer delay fires at once. 2^31 - 1 ms = 24.8 days. */
const timerMaxMs = 2_147_483_647

/** Resolves after `delayMs`, or as soon as the signal is aborted. */
export async function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  await sleep(clock, delayMs, signal).catch(() => {})
}

/** Resolves after `delayMs`, rejects with the signal's reason when it is aborted first. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const onAbort = () => {
      cancel()
      reject(signal?.reason)
    }
    const cancel = clock.after(delayMs, () => {
      signal?.removeEventListener('abort', onAbort)
      resolve()
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}
