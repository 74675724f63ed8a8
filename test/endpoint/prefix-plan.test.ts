import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatPrefix, parsePrefix, prefixCovers, prefixesOverlap } from '../../src/base/ip.ts'
import { PrefixPlan, siteLengthOf } from '../../src/endpoint/prefix-plan.ts'

const restMs = 1_000

function planOf(prefixes: readonly string[], siteLength = 24): PrefixPlan {
  return new PrefixPlan({ prefixes: prefixes.map(parsePrefix), siteLength, restMs }, [])
}

interface Wish {
  readonly wanted?: string
  readonly excluded?: readonly string[]
  readonly nowMs?: number
}

function take(plan: PrefixPlan, owner: string, { wanted, excluded = [], nowMs = 0 }: Wish = {}): string {
  const request = { owner, excluded: excluded.map(parsePrefix), nowMs }
  const given = plan.allocate(wanted === undefined ? request : { ...request, wanted: parsePrefix(wanted) })
  return given === 'exhausted' ? given : formatPrefix(given)
}

describe('PrefixPlan', () => {
  test('gives the lowest parts in turn, the first with the base address of the whole', () => {
    const plan = planOf(['10.64.0.0/16'])
    expect([take(plan, 'a'), take(plan, 'b'), take(plan, 'a')]).toEqual([
      '10.64.0.0/24',
      '10.64.1.0/24',
      '10.64.2.0/24',
    ])
  })

  test.each([
    ['the part it had', { wanted: '10.64.7.0/24' }, '10.64.7.0/24'],
    ['not one of another length', { wanted: '10.64.7.0/25' }, '10.64.1.0/24'],
    ['not one outside the whole', { wanted: '10.65.0.0/24' }, '10.64.1.0/24'],
    ['not one of somebody else', { wanted: '10.64.0.0/24' }, '10.64.1.0/24'],
    ['not one that it excludes', { wanted: '10.64.7.0/24', excluded: ['10.64.7.9/32'] }, '10.64.1.0/24'],
    ['nothing that is excluded', { excluded: ['10.64.0.0/22'] }, '10.64.4.0/24'],
    ['nothing at all when all is excluded', { excluded: ['0.0.0.0/0'] }, 'exhausted'],
  ])('gives %s', (_what, wish: Wish, expected) => {
    const plan = planOf(['10.64.0.0/16'])
    take(plan, 'other')
    expect(take(plan, 'site', wish)).toBe(expected)
  })

  test('a part that was released rests for its owner, and is anybody’s afterwards', () => {
    const plan = planOf(['10.64.0.0/23'])
    const part = take(plan, 'a')
    take(plan, 'b')
    expect(plan.release(parsePrefix(part), 'a', 0)).toBe(true)
    expect(take(plan, 'c', { nowMs: restMs - 1 })).toBe('exhausted')
    expect(take(plan, 'a', { nowMs: restMs - 1 })).toBe(part)
    plan.release(parsePrefix(part), 'a', restMs)
    expect(take(plan, 'c', { nowMs: 2 * restMs })).toBe(part)
  })

  test('a part that was given back is free at once; nobody gives back or releases another’s', () => {
    const plan = planOf(['10.64.0.0/24'])
    const part = parsePrefix(take(plan, 'a'))
    expect([plan.free(part, 'b'), plan.release(part, 'b', 0), plan.ownerOf(part)]).toEqual([false, false, 'a'])
    expect(plan.free(part, 'a')).toBe(true)
    expect(take(plan, 'b')).toBe('10.64.0.0/24')
  })

  test('a site has 64 parts at most', () => {
    const plan = planOf(['10.64.0.0/16'])
    for (let i = 0; i < 64; i++) take(plan, 'a')
    expect(() => take(plan, 'a')).toThrowError(expect.objectContaining({ code: 'REFUSED' }))
    expect(take(plan, 'b')).toBe('10.64.64.0/24')
  })

  test('who asks without a wish gets a part of each family before a second one of any', () => {
    const plan = planOf(['10.64.0.0/16', 'fd64::/48'])
    expect([take(plan, 'a'), take(plan, 'a'), take(plan, 'a'), take(plan, 'b')]).toEqual([
      '10.64.0.0/24',
      'fd64::/64',
      '10.64.1.0/24',
      '10.64.2.0/24',
    ])
  })

  test('excluding one family gives a part of the other', () => {
    const plan = planOf(['10.64.0.0/16', 'fd70::/64'])
    expect(take(plan, 'a', { excluded: ['10.64.0.0/16'] })).toBe('fd70::/80')
    expect(take(plan, 'b', { excluded: ['10.64.0.0/16'] })).toBe('fd70::1:0:0:0/80')
    expect(take(plan, 'b')).toBe('10.64.0.0/24')
  })

  test('knows the parts of the last run, also of another length, but none outside its prefixes', () => {
    const known = ['10.64.3.0/26', '10.99.0.0/24'].map((text) => ({
      prefix: parsePrefix(text),
      owner: 'a',
      releasedMs: 0,
    }))
    const plan = new PrefixPlan({ prefixes: [parsePrefix('10.64.0.0/16')], siteLength: 24, restMs }, known)
    expect(plan.entries().length).toBe(1)
    expect(take(plan, 'a', { wanted: '10.64.3.0/26' })).toBe('10.64.3.0/26')
  })

  test.each([
    ['10.64.0.0/16', 24, 24],
    ['192.168.50.0/24', 24, 24],
    ['10.64.0.0/28', 24, 28],
    ['fd70::/48', 24, 64],
    ['fd70::/64', 24, 80],
    ['fd70::/112', 24, 120],
    ['fd70::/124', 24, 124],
  ])('a part of %s with length %i has /%i', (whole, siteLength, expected) => {
    expect(siteLengthOf(parsePrefix(whole), siteLength)).toBe(expected)
  })

  test('whatever sites do, no two parts overlap and all lie in the whole', () => {
    const owner = fc.constantFrom('a', 'b', 'c')
    const prefix = fc
      .tuple(fc.integer({ min: 0, max: 15 }), fc.constantFrom(24, 25, 26, 28))
      .map(([third, length]) => `10.64.${third}.0/${length}`)
    const action = fc.oneof(
      fc.record({ kind: fc.constant('take' as const), owner, excluded: fc.array(prefix, { maxLength: 3 }) }),
      fc.record({ kind: fc.constant('keep' as const), owner, wanted: prefix }),
      fc.record({ kind: fc.constant('release' as const), owner, wanted: prefix }),
      fc.record({ kind: fc.constant('free' as const), owner, wanted: prefix }),
    )
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), fc.constantFrom(22, 24, 26), (actions, siteLength) => {
        const whole = parsePrefix('10.64.0.0/20')
        const plan = new PrefixPlan({ prefixes: [whole], siteLength, restMs }, [])
        let nowMs = 0
        for (const done of actions) {
          nowMs += 200
          if (done.kind === 'take') {
            const given = take(plan, done.owner, { excluded: done.excluded, nowMs })
            const excluded = done.excluded.map(parsePrefix)
            if (given !== 'exhausted') {
              expect(excluded.some((other) => prefixesOverlap(other, parsePrefix(given)))).toBe(false)
            }
          } else if (done.kind === 'keep') take(plan, done.owner, { wanted: done.wanted, nowMs })
          else if (done.kind === 'release') plan.release(parsePrefix(done.wanted), done.owner, nowMs)
          else plan.free(parsePrefix(done.wanted), done.owner)
          const parts = plan.entries().map((entry) => entry.prefix)
          for (const [i, part] of parts.entries()) {
            expect(prefixCovers(whole, part)).toBe(true)
            expect(parts.slice(i + 1).some((other) => prefixesOverlap(part, other))).toBe(false)
          }
        }
      }),
    )
  })
})
