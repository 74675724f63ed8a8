import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Deadlines } from '../../src/nsm/deadlines.ts'
import { createFakeClock } from '../support/fake-clock.ts'

function start() {
  const clock = createFakeClock()
  const due: string[] = []
  return { clock, due, deadlines: new Deadlines<string>(clock, (call) => due.push(call)) }
}

describe('deadlines', () => {
  test('come in their order, with one timer', async () => {
    const { clock, due, deadlines } = start()
    deadlines.add('late', 300)
    deadlines.add('early', 100)
    deadlines.add('middle', 200)
    expect(clock.waiting).toBe(1)
    await clock.advance(99)
    expect(due).toEqual([])
    await clock.advance(1)
    expect(due).toEqual(['early'])
    await clock.advance(1_000)
    expect(due).toEqual(['early', 'middle', 'late'])
    expect(clock.waiting).toBe(0)
  })

  test('do not come for a call that has ended, and the next one is not missed', async () => {
    const { clock, due, deadlines } = start()
    deadlines.add('done', 100)
    deadlines.remove('done')
    deadlines.add('next', 150)
    await clock.advance(150)
    expect(due).toEqual(['next'])
  })

  test('leave no timer when they are closed', async () => {
    const { clock, due, deadlines } = start()
    deadlines.add('a', 100)
    deadlines.close()
    await clock.advance(200)
    expect([due, clock.waiting]).toEqual([[], 0])
  })

  test('come once, never early and at their time, whatever is added and removed', async () => {
    const step = fc.record({
      call: fc.nat(5).map(String),
      inMs: fc.integer({ min: 1, max: 50 }),
      isAdded: fc.boolean(),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 20 }), async (steps) => {
        const { clock, due, deadlines } = start()
        const expected = new Map<string, number>()
        for (const { call, inMs, isAdded } of steps) {
          if (isAdded && !expected.has(call)) {
            deadlines.add(call, inMs)
            expected.set(call, clock.monotonicMs() + inMs)
          } else {
            deadlines.remove(call)
            expected.delete(call)
          }
          await clock.advance(7)
          for (const [one, atMs] of expected) if (atMs <= clock.monotonicMs()) expect(due).toContain(one)
          for (const one of due.splice(0)) {
            expect(expected.get(one)).toBeLessThanOrEqual(clock.monotonicMs())
            expected.delete(one)
          }
        }
      }),
      { numRuns: 30 },
    )
  })
})
