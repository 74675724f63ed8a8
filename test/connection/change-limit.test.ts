import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ChangeLimit, changeGapMs, changesPerMinuteMax } from '../../src/connection/change-limit.ts'

describe('ChangeLimit', () => {
  test('lets the first change pass, and healing soon after it', () => {
    const limit = new ChangeLimit()
    expect(limit.waitMs(0, false)).toBe(0)
    limit.note(0)
    expect(limit.waitMs(1_000, true)).toBe(0)
    expect(limit.waitMs(1_000, false)).toBe(9_000)
    expect(limit.waitMs(changeGapMs, false)).toBe(0)
  })

  test('who keeps to it never makes more than six changes in any minute', () => {
    const wish = fc.record({ afterMs: fc.nat(5_000), isHealing: fc.boolean() })
    fc.assert(
      fc.property(fc.array(wish, { maxLength: 60 }), (wishes) => {
        const limit = new ChangeLimit()
        const madeMs: number[] = []
        let nowMs = 0
        for (const { afterMs, isHealing } of wishes) {
          nowMs += afterMs
          nowMs += limit.waitMs(nowMs, isHealing)
          limit.note(nowMs)
          madeMs.push(nowMs)
        }
        for (const fromMs of madeMs) {
          const inMinute = madeMs.filter((atMs) => atMs >= fromMs && atMs < fromMs + 60_000)
          expect(inMinute.length).toBeLessThanOrEqual(changesPerMinuteMax)
        }
      }),
    )
  })
})
