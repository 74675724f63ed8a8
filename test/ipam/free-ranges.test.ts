import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { FreeRanges } from '../../src/ipam/free-ranges.ts'

const range = fc
  .tuple(fc.nat(63), fc.nat(15))
  .map(([first, extra]) => ({ first: BigInt(first), last: BigInt(Math.min(63, first + extra)) }))

describe('FreeRanges', () => {
  test('take, give and lowest agree with a set of numbers (model)', () => {
    const operation = fc.record({ take: fc.boolean(), range, size: fc.constantFrom(1n, 2n, 4n, 8n), excluded: range })
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
        const ranges = new FreeRanges({ first: 0n, last: 63n })
        const free = new Set(Array.from({ length: 64 }, (_, i) => BigInt(i)))
        for (const { take, range: one, size, excluded } of operations) {
          const numbers = numbersOf(one)
          if (take) {
            const all = numbers.every((number) => free.has(number))
            expect(ranges.take(one)).toBe(all)
            if (all) for (const number of numbers) free.delete(number)
          } else {
            ranges.give(one)
            for (const number of numbers) free.add(number)
          }
          expect(ranges.lowest(size, [excluded])).toBe(naiveLowest(free, size, new Set(numbersOf(excluded))))
        }
      }),
      { numRuns: 300 },
    )
  })

  test('a range that is only partly free is not taken and nothing changes', () => {
    const ranges = new FreeRanges({ first: 0n, last: 9n })
    ranges.take({ first: 5n, last: 5n })
    expect(ranges.take({ first: 4n, last: 6n })).toBe(false)
    expect(ranges.take({ first: 4n, last: 4n })).toBe(true)
  })
})

function numbersOf({ first, last }: { first: bigint; last: bigint }): bigint[] {
  return Array.from({ length: Number(last - first) + 1 }, (_, i) => first + BigInt(i))
}

function naiveLowest(free: ReadonlySet<bigint>, size: bigint, excluded: ReadonlySet<bigint>): bigint | undefined {
  for (let start = 0n; start + size <= 64n; start += size) {
    const block = numbersOf({ first: start, last: start + size - 1n })
    if (block.every((number) => free.has(number) && !excluded.has(number))) return start
  }
  return undefined
}
