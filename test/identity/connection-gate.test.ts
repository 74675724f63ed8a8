import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Caller, ConnectionGate } from '../../src/identity/connection-gate.ts'

const limits = {
  halfOpenMax: 3,
  totalMax: 5,
  perIdentityMax: 100,
  anonymousMax: 3,
  anonymousPerSourceMax: 2,
  perSecond: 2,
  burst: 4,
}
const member: Caller = { address: '192.0.2.1', spiffeId: 'spiffe://a.example/member' }
const anonymous = (address: string): Caller => ({ address, spiffeId: undefined })

describe('ConnectionGate', () => {
  test('admits until too many handshakes are unfinished', () => {
    const gate = new ConnectionGate(limits)
    const admit = () => gate.admit('192.0.2.1', 0)
    expect([admit(), admit(), admit(), admit()]).toEqual(['admitted', 'admitted', 'admitted', 'too-many-half-open'])
    gate.finish(member)
    expect(admit()).toBe('admitted')
    expect(gate.counts).toEqual({ total: 4, halfOpen: 3, anonymous: 0 })
  })

  test('admits no more than its total, and again after a release', () => {
    const gate = new ConnectionGate({ ...limits, burst: 100 })
    for (let i = 0; i < 5; i++) {
      expect(gate.admit('192.0.2.1', 0)).toBe('admitted')
      gate.finish(member)
    }
    expect(gate.admit('192.0.2.2', 0)).toBe('too-many')
    gate.release(member)
    expect(gate.admit('192.0.2.2', 0)).toBe('admitted')
    expect(gate.counts).toEqual({ total: 5, halfOpen: 1, anonymous: 0 })
  })

  test('gives anonymous callers a few places of their own and none of the members', () => {
    const gate = new ConnectionGate({ ...limits, burst: 100 })
    const meet = (caller: Caller) => {
      const admission = gate.admit(caller.address, 0)
      if (admission !== 'admitted') return admission
      const finished = gate.finish(caller)
      if (finished !== 'admitted') gate.release(undefined)
      return finished
    }
    expect(['2001:db8::1', '2001:db8::2', '2001:db8::3'].map((address) => meet(anonymous(address)))).toEqual([
      'admitted',
      'admitted',
      'too-many-of-source',
    ])
    expect(meet(anonymous('192.0.2.2'))).toBe('admitted')
    expect(meet(anonymous('192.0.2.3'))).toBe('too-many-anonymous')
    expect([1, 2, 3, 4, 5, 6].map(() => meet(member)).join(' ')).toBe(`${'admitted '.repeat(5)}too-many`)
    expect(gate.counts).toEqual({ total: 8, halfOpen: 0, anonymous: 3 })
    gate.release(anonymous('2001:db8::2'))
    gate.release(member)
    expect(meet(anonymous('2001:db8::9'))).toBe('admitted')
  })

  test('gives one identity no more than its share, and other identities theirs', () => {
    const gate = new ConnectionGate({ ...limits, perIdentityMax: 1, burst: 100 })
    const other = { ...member, spiffeId: 'spiffe://a.example/other' }
    for (let i = 0; i < 3; i++) gate.admit(member.address, 0)
    expect([gate.finish(member), gate.finish(member), gate.finish(other)]).toEqual([
      'admitted',
      'too-many-of-identity',
      'admitted',
    ])
    gate.release(undefined)
    gate.release(member)
    gate.admit(member.address, 0)
    expect(gate.finish(member)).toBe('admitted')
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
    const events = fc.array(fc.constantFrom('admit', 'finish', 'finish-anonymous', 'close-open', 'close-half'))
    fc.assert(
      fc.property(events, (steps) => {
        const gate = new ConnectionGate({ ...limits, burst: 1_000_000 })
        let half = 0
        const open: Caller[] = []
        for (const step of steps) {
          if (step === 'admit' && gate.admit('192.0.2.1', 0) === 'admitted') half++
          const caller = step === 'finish' ? member : anonymous('192.0.2.1')
          if (step.startsWith('finish') && half > 0 && gate.finish(caller) === 'admitted') {
            half--
            open.push(caller)
          }
          if (step === 'close-open' && open.length > 0) gate.release(open.pop())
          if (step === 'close-half' && half > 0) {
            gate.release(undefined)
            half--
          }
          const unknown = open.filter(({ spiffeId }) => spiffeId === undefined).length
          expect(gate.counts).toEqual({ total: half + open.length, halfOpen: half, anonymous: unknown })
          expect(half <= limits.halfOpenMax && half + open.length - unknown <= limits.totalMax).toBe(true)
          expect(unknown <= limits.anonymousPerSourceMax).toBe(true)
        }
      }),
    )
  })

  test('remembers a bounded number of sources', () => {
    const gate = new ConnectionGate({ ...limits, halfOpenMax: 1e6, totalMax: 1e6, perSecond: 1, burst: 1 })
    for (let i = 0; i < 10_500; i++) gate.admit(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`, 0)
    expect(gate.admit('10.0.41.3', 0)).toBe('too-fast')
    expect(gate.admit('10.0.0.0', 0)).toBe('admitted')
  })
})
