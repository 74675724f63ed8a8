import type { Clock } from '../base/clock.ts'

/**
 * Calls `action` once when the wall clock reaches `atMs`, also when the machine slept meanwhile: timers stand still
 * then, so the wall clock is read again at least every 30 s. The result cancels it.
 */
export function atWallTime(clock: Clock, atMs: number, action: () => void): () => void {
  let cancel = () => {}
  const arm = () => {
    const leftMs = atMs - clock.wallMs()
    cancel = clock.after(Math.min(Math.max(leftMs, 0), recheckMs), () => (clock.wallMs() >= atMs ? action() : arm()))
  }
  arm()
  return () => cancel()
}

/** Ours: how late after a sleep of the machine a due action may come. */
const recheckMs = 30_000
