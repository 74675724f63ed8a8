import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatPrefix, type Prefix, parsePrefix, prefixContains, prefixOf } from '../../src/base/ip.ts'
import { comparePrefixes, findCover, findOverlap, mergePrefixes } from '../../src/ipam/excluded-prefixes.ts'

const merge = (...texts: string[]) => mergePrefixes(texts.map(parsePrefix)).map(formatPrefix)

describe('mergePrefixes', () => {
  test.each([
    [[], []],
    [['10.0.0.0/8', '10.1.0.0/16', '10.0.0.0/8'], ['10.0.0.0/8']],
    [['10.0.1.0/24', '10.0.0.0/24'], ['10.0.0.0/23']],
    [
      ['10.0.1.0/24', '10.0.2.0/24'],
      ['10.0.1.0/24', '10.0.2.0/24'],
    ],
    [['0.0.0.0/1', '128.0.0.0/2', '192.0.0.0/2'], ['0.0.0.0/0']],
    [
      ['fd00::/9', '10.0.0.0/8', 'fd80::/9'],
      ['10.0.0.0/8', 'fd00::/8'],
    ],
  ])('%j becomes %j', (given, expected) => {
    expect(merge(...given)).toEqual(expected)
  })

  test('keeps exactly the same addresses, sorted and disjoint (property)', () => {
    const small = fc
      .tuple(fc.nat(255), fc.integer({ min: 24, max: 32 }))
      .map(([host, length]): Prefix => prefixOf({ family: 4, bits: 0x0a00_0000n + BigInt(host) }, length))
    fc.assert(
      fc.property(fc.array(small, { maxLength: 20 }), (prefixes) => {
        const merged = mergePrefixes(prefixes)
        for (let host = 0n; host < 256n; host++) {
          const address = { family: 4 as const, bits: 0x0a00_0000n + host }
          const holders = merged.filter((prefix) => prefixContains(prefix, address))
          expect(holders.length).toBe(prefixes.some((prefix) => prefixContains(prefix, address)) ? 1 : 0)
        }
        expect(merged).toEqual(merged.toSorted(comparePrefixes))
        expect(mergePrefixes(merged)).toEqual(merged)
      }),
    )
  })
})

describe('findOverlap', () => {
  test('names both sides of the first overlap', () => {
    const ours = ['10.64.0.0/16', 'fd00::/64'].map(parsePrefix)
    const found = findOverlap(ours, ['192.168.0.0/16', 'fd00::/8'].map(parsePrefix))
    expect(found && [formatPrefix(found.ours), formatPrefix(found.theirs)]).toEqual(['fd00::/64', 'fd00::/8'])
    expect(findOverlap(ours, [parsePrefix('10.65.0.0/16')])).toBeUndefined()
  })
})

describe('findCover', () => {
  test('finds what leaves no address, also when two halves do it together', () => {
    const whole = parsePrefix('10.64.0.0/16')
    const cover = findCover(['10.64.0.0/17', '10.64.128.0/17'].map(parsePrefix), whole)
    expect(cover && formatPrefix(cover)).toBe('10.64.0.0/16')
    expect(findCover([parsePrefix('10.64.0.0/17')], whole)).toBeUndefined()
    expect(findCover([parsePrefix('::/0')], whole)).toBeUndefined()
  })
})
