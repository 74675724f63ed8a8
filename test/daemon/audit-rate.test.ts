import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { AuditRate } from '../../src/daemon/audit-rate.ts'

const event = (id?: string): AuditEvent => ({ event: 'conn.heal', id })
const admitted = (rate: AuditRate, events: readonly AuditEvent[], nowMs = 0) =>
  events.filter((one) => rate.admits(one, nowMs)).length

describe('the rate of the audit log', () => {
  test('writes ten of one event and ID a minute and says how many it left out', () => {
    const rate = new AuditRate()
    expect(admitted(rate, new Array(25).fill(event('a')))).toBe(10)
    expect(admitted(rate, [event('b'), { event: 'conn.down', id: 'a' }])).toBe(2)
    expect(rate.ended(59_999)).toEqual([])
    expect(rate.ended(60_000)).toEqual([{ event: 'conn.heal', id: 'a', suppressed: 15 }])
    expect(rate.ended(60_000)).toEqual([])
    expect(admitted(rate, [event('a')], 60_000)).toBe(1)
  })

  test('says what it left out also when the next minute has begun', () => {
    const rate = new AuditRate()
    admitted(rate, new Array(12).fill(event('a')))
    expect(admitted(rate, [event('a')], 61_000)).toBe(1)
    expect(rate.ended(61_000)).toEqual([{ event: 'conn.heal', id: 'a', suppressed: 2 }])
  })

  test('takes the address where there is no ID', () => {
    const from = (address: string): AuditEvent => ({ event: 'exchange.deny', address })
    const rate = new AuditRate()
    expect(admitted(rate, [...new Array(12).fill(from('192.0.2.1')), from('192.0.2.2')])).toBe(11)
  })

  test.each(['peer.reject', 'exchange.deny'] as const)(
    'lets strangers cause 60 lines of %s a minute, whatever they call themselves',
    (name) => {
      const rate = new AuditRate()
      const strangers = Array.from({ length: 500 }, (_, i): AuditEvent => ({ event: name, id: `spiffe://x/${i}` }))
      expect(admitted(rate, strangers)).toBe(60)
      expect(admitted(rate, [{ event: 'exchange.ok', id: 'spiffe://a/b' }])).toBe(1)
      expect(rate.ended(60_000)).toEqual([{ event: name, id: '*', suppressed: 440 }])
    },
  )

  test.each([
    ['more IDs than it remembers', 30_000, 1],
    ['each ID too often', 300, 30],
  ])('lets strangers cause no more lines by %s', (_what, ids, times) => {
    const rate = new AuditRate()
    const all = Array.from({ length: ids * times }, (_, i): AuditEvent => {
      return { event: 'peer.reject', id: `spiffe://x/${i % ids}` }
    })
    expect(admitted(rate, all)).toBe(60)
    expect(rate.ended(60_000)).toEqual([{ event: 'peer.reject', id: '*', suppressed: ids * times - 60 }])
    expect(rate.ended(60_000)).toEqual([])
  })

  test('does not hold back a thousand members that join at once', () => {
    const joins = Array.from({ length: 1_000 }, (_, i): AuditEvent => ({ event: 'conn.up', id: `spiffe://a/${i}` }))
    expect(admitted(new AuditRate(), joins)).toBe(1_000)
  })

  test('loses no count: what is written and what is left out are all there were', () => {
    const step = fc.record({ id: fc.integer({ min: 0, max: 3 }), afterMs: fc.integer({ min: 0, max: 20_000 }) })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const rate = new AuditRate()
        let [nowMs, written, left] = [0, 0, 0]
        const count = (events: readonly AuditEvent[]) => {
          for (const { suppressed } of events) left += Number(suppressed)
        }
        for (const { id, afterMs } of steps) {
          nowMs += afterMs
          if (rate.admits(event(`${id}`), nowMs)) written++
          if (id === 0) count(rate.ended(nowMs))
        }
        count(rate.ended(Number.POSITIVE_INFINITY))
        expect(written + left).toBe(steps.length)
      }),
    )
  })

  test('remembers a bounded number of IDs', () => {
    const rate = new AuditRate()
    const flood = Array.from({ length: 30_000 }, (_, i) => event(`spiffe://x/${i}`))
    admitted(rate, new Array(11).fill(event('first')))
    admitted(rate, flood)
    expect(rate.ended(0)).toEqual([{ event: 'conn.heal', id: 'first', suppressed: 1 }])
  })
})
