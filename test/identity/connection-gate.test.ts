import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ConnectionGate } from '../../src/identity/connection-gate.ts'

const limits = { halfOpenMax: 3, totalMax: 5, perSecond: 2, burst: 4 }

describe('ConnectionGate', () => {
  test('admits until too many handshakes are unfinished', () => {
    const gate = new ConnectionGate(limits)
    const admit = () => gate.admit('192.0.2.1', 0)
    expect([admit(), admit(), admit(), admit()]).toEqual(['admitted', 'admitted', 'admitted', 'too-many-half-open'])
    gate.finish()
    expect(admit()).toBe('admitted')
    expect(gate.counts).toEqual({ total: 4, halfOpen: 3 })
  })

  test('admits no more than its total, and again after a release', () => {
    const gate = new ConnectionGate({ ...limits, burst: 100 })
    for (let i = 0; i < 5; i++) {
      expect(gate.admit('192.0.2.1', 0)).toBe('admitted')
      gate.finish()
    }
    expect(gate.admit('192.0.2.2', 0)).toBe('too-many')
    gate.release(false)
    expect(gate.admit('192.0.2.2', 0)).toBe('admitted')
    expect(gate.counts).toEqual({ total: 5, halfOpen: 1 })
  })

  test('slows one source down and no other', () => {
    const gate = new ConnectionGate({ ...limits, halfOpenMax: 100, totalMax: 100 })
    for (let i = 0; i < 4; i++) expect(gate.admit('192.0.2.1', 0)).toBe('admitted')
    expect(gate.admit('192.0.2.1', 0)).toBe('too-fast')
    expect(gate.admit('192.0.2.2', 0)).toBe('admitted')
    expect(gate.admit('192.0.2.1', 499)).toBe('too-fast')
    expect(gate.admit('192.0.2.1', 500)).toBe('admitted')
    expect(gate.admit('192.0.2.1', 500)).toBe('too-fast')
  })

  test.each([
    ['2001:db8::1', '2001:db8::ffff', true],
    ['2001:db8::1', '2001:db8:0:1::1', false],
    ['::ffff:192.0.2.1', '192.0.2.1', true],
    ['fe80::1%eth0', 'fe80::2%eth0', true],
    ['192.0.2.1', '192.0.2.2', false],
  ])('%s and %s are one source: %s', (first, second, isOne) => {
    const gate = new ConnectionGate({ ...limits, burst: 1 })
    gate.admit(first, 0)
    expect(gate.admit(second, 0)).toBe(isOne ? 'too-fast' : 'admitted')
  })

  test('counts right through any order of events and never exceeds its limits', () => {
    const events = fc.array(fc.constantFrom('admit', 'finish', 'close-open', 'close-half'))
    fc.assert(
      fc.property(events, (steps) => {
        const gate = new ConnectionGate({ ...limits, burst: 1_000_000 })
        let [half, open] = [0, 0]
        for (const step of steps) {
          if (step === 'admit' && gate.admit('192.0.2.1', 0) === 'admitted') half++
          if (step === 'finish' && half > 0) {
            gate.finish()
            half--
            open++
          }
          if (step === 'close-open' && open > 0) {
            gate.release(false)
            open--
          }
          if (step === 'close-half' && half > 0) {
            gate.release(true)
            half--
          }
          expect(gate.counts).toEqual({ total: half + open, halfOpen: half })
          expect(half <= limits.halfOpenMax && half + open <= limits.totalMax).toBe(true)
        }
      }),
    )
  })

  test('remembers a bounded number of sources', () => {
    const gate = new ConnectionGate({ halfOpenMax: 1e6, totalMax: 1e6, perSecond: 1, burst: 1 })
    for (let i = 0; i < 10_500; i++) gate.admit(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`, 0)
    expect(gate.admit('10.0.41.3', 0)).toBe('too-fast')
    expect(gate.admit('10.0.0.0', 0)).toBe('admitted')
  })
})
