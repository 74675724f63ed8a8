import { expect, test } from 'vitest'
import { RateLimit } from '../../src/nsm/rate-limit.ts'

const triesOf = (limit: RateLimit, addresses: readonly string[], nowMs = 0) =>
  addresses.filter((address) => {
    try {
      limit.count(address, nowMs)
      return true
    } catch {
      return false
    }
  }).length

test('a rate limit gives 20 tries at once and one more each second', () => {
  const limit = new RateLimit()
  const tries = Array.from({ length: 30 }, () => '192.0.2.1')
  expect(triesOf(limit, tries)).toBe(20)
  expect(triesOf(limit, tries, 3_000)).toBe(3)
  expect(triesOf(limit, ['192.0.2.2'], 3_000)).toBe(1)
})

test('a rate limit counts an IPv6 /64 as one source', () => {
  const limit = new RateLimit()
  const addresses = Array.from({ length: 30 }, (_, i) => `2001:db8::${(i * 7).toString(16)}:1`)
  expect(triesOf(limit, addresses)).toBe(20)
  expect(triesOf(limit, ['2001:db8:0:1::1'])).toBe(1)
})

test('a rate limit counts callers without an address together', () => {
  expect(
    triesOf(
      new RateLimit(),
      Array.from({ length: 30 }, () => ''),
    ),
  ).toBe(20)
})
