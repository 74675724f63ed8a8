import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Cache, cacheBytesMax, cacheEntriesMax } from '../../src/dns/cache.ts'
import { type Reply, type ReplyClass, withoutBody } from '../../src/dns/classify.ts'
import { parseQuery } from '../../src/dns/message.ts'
import { questionBytes } from '../support/dns-client.ts'

const query = parseQuery(questionBytes('a.test'))

function replyOf(parts: Partial<Reply>): Reply {
  if (query.kind !== 'query') throw new TypeError('not a query')
  return { ...withoutBody(query, 0), class: 'positive', ttlSeconds: 60, ...parts }
}

/** For how many seconds a reply is kept. */
function keptSeconds(reply: Reply, partial = false): number {
  const cache = new Cache()
  cache.set('k', reply, { nowMs: 0, fromDefault: false, partial })
  let seconds = 0
  while (cache.get('k', seconds * 1000)) seconds++
  return seconds
}

describe('Cache', () => {
  test.each<[string, Partial<Reply>, boolean, number]>([
    ['a positive reply for its time to live', { ttlSeconds: 60 }, false, 60],
    ['a positive reply for an hour at most', { ttlSeconds: 86_400 }, false, 3_600],
    ['a positive reply of no life never', { ttlSeconds: 0 }, false, 0],
    ['a "no" for 30 s at most', { class: 'nxdomain', hasSoa: true, ttlSeconds: 900 }, false, 30],
    ['a "no" for its SOA', { class: 'nodata', hasSoa: true, ttlSeconds: 12 }, false, 12],
    ['a partial "no" for 5 s', { class: 'nxdomain', hasSoa: true, ttlSeconds: 900 }, true, 5],
    ['a "no" without SOA never', { class: 'nodata', hasSoa: false, ttlSeconds: 900 }, false, 0],
    ['a failure for 1 s', { class: 'failure' }, false, 1],
    ['a refusal never', { class: 'refused' }, false, 0],
    ['a truncated reply never', { class: 'truncated' }, false, 0],
  ])('keeps %s', (_what, parts, partial, seconds) => {
    expect(keptSeconds(replyOf(parts), partial)).toBe(seconds)
  })

  test('takes a failure long after the last one as a new one', () => {
    const cache = new Cache()
    const failure = replyOf({ class: 'failure' })
    const lifeMs = (nowMs: number) => {
      cache.set('k', failure, { nowMs, fromDefault: false, partial: true })
      return (cache.get('k', nowMs)?.expiresAtMs ?? 0) - nowMs
    }
    expect([lifeMs(0), lifeMs(1_500), lifeMs(100_000), lifeMs(101_000)]).toEqual([1_000, 2_000, 1_000, 2_000])
  })

  test('doubles the life of a failure while it lasts, up to 30 s', () => {
    const cache = new Cache()
    let nowMs = 0
    const lives: number[] = []
    for (let i = 0; i < 7; i++) {
      cache.set('k', replyOf({ class: 'failure' }), { nowMs, fromDefault: false, partial: true })
      const before = nowMs
      while (cache.get('k', nowMs)) nowMs += 1_000
      lives.push((nowMs - before) / 1000)
    }
    expect(lives).toEqual([1, 2, 4, 8, 16, 30, 30])
  })

  test('never holds more entries or bytes than its bounds, and keeps the newest', () => {
    const cache = new Cache()
    const reply = replyOf({ bytes: Buffer.alloc(2_000) })
    for (let i = 0; i < 10_000; i++) cache.set(`k${i}`, reply, { nowMs: 0, fromDefault: false, partial: false })
    expect(cache.size).toBeLessThanOrEqual(cacheEntriesMax)
    expect(cache.bytes).toBeLessThanOrEqual(cacheBytesMax)
    expect(cache.get('k9999', 1)).toBeDefined()
    expect(cache.get('k0', 1)).toBeUndefined()
  })

  test('counts its bytes right through any sequence of changes', () => {
    const classes: ReplyClass[] = ['positive', 'nxdomain', 'failure', 'refused']
    const step = fc.record({
      key: fc.constantFrom('a', 'b', 'c'),
      size: fc.nat(100),
      class: fc.constantFrom(...classes),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const cache = new Cache()
        const model = new Map<string, number>()
        for (const { key, size, class: of } of steps) {
          const reply = replyOf({ class: of, hasSoa: true, bytes: Buffer.alloc(size) })
          cache.set(key, reply, { nowMs: 0, fromDefault: false, partial: false })
          if (of !== 'refused') model.set(key, size)
        }
        expect(cache.bytes).toBe([...model.values()].reduce((sum, size) => sum + size, 0))
        cache.clear()
        expect([cache.size, cache.bytes]).toEqual([0, 0])
      }),
    )
  })
})
