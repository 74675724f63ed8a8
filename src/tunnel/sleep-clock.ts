import { type Clock, systemClock } from '../base/clock.ts'

/** A clock that goes on while the machine sleeps: sessions and handshakes age meanwhile [WG 6.1], and the system's own stands still. */
export interface SleepClock extends Clock {
  /** Takes in how long the machine has slept; until then its time does not move by it. */
  look(): void
}

/** `sleptMs` tells for how long the machine has slept since any moment. */
export function createSleepClock(sleptMs: () => number, clock: Clock = systemClock): SleepClock {
  const before = sleptMs()
  let slept = 0
  return {
    ...clock,
    monotonicMs: () => clock.monotonicMs() + slept,
    look() {
      slept = Math.max(slept, sleptMs() - before)
    },
  }
}
