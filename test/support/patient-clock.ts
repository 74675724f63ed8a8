import type { Clock } from '../../src/base/clock.ts'
import { createFakeClock } from './fake-clock.ts'

/** Between two looks at the machine's clock. */
const stepMs = 5
/** What goes by at most between two looks. */
const stepMaxMs = 20

/**
 * The machine's time without its gaps: a process that got no core for a second sees 20 ms go by, and what came meanwhile is
 * read before the next ones do. So nothing times out that has come.
 */
export function createPatientClock(): Clock {
  const clock = createFakeClock()
  let beforeMs = performance.now()
  const step = async () => {
    const nowMs = performance.now()
    const byMs = Math.min(nowMs - beforeMs, stepMaxMs)
    beforeMs = nowMs
    await clock.advance(byMs)
    setTimeout(step, stepMs).unref()
  }
  setTimeout(step, stepMs).unref()
  return clock
}
