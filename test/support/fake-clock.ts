import type { Clock } from '../../src/base/clock.ts'

/** A clock that stands still until the test moves it. */
export interface FakeClock extends Clock {
  /** Moves time forward and runs what falls due, in order; lets pending promises settle between timers. */
  advance(byMs: number): Promise<void>
  /** Timers that wait. */
  readonly waiting: number
}

/** A fake clock that starts at `startMs` on both scales. */
export function createFakeClock(startMs = 1_800_000_000_000): FakeClock {
  let nowMs = startMs
  let timers: { readonly atMs: number; readonly action: () => void }[] = []
  const settle = async () => {
    for (let i = 0; i < 20; i++) await Promise.resolve()
    await new Promise((resolve) => setImmediate(resolve))
  }
  return {
    monotonicMs: () => nowMs,
    wallMs: () => nowMs,
    after(delayMs, action) {
      const timer = { atMs: nowMs + Math.max(0, delayMs), action }
      timers.push(timer)
      return () => {
        timers = timers.filter((other) => other !== timer)
      }
    },
    async advance(byMs) {
      const untilMs = nowMs + byMs
      await settle()
      for (;;) {
        const due = timers.filter((timer) => timer.atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0]
        if (!due) break
        timers = timers.filter((timer) => timer !== due)
        nowMs = Math.max(nowMs, due.atMs)
        due.action()
        await settle()
      }
      nowMs = untilMs
    },
    get waiting() {
      return timers.length
    },
  }
}
