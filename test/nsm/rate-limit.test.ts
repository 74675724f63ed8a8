import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { ExchangeRate, RateLimit } from '../../src/nsm/rate-limit.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const guesses = { perSecond: 1, burst: 20 }

const triesOf = (limit: RateLimit, callers: readonly string[], nowMs = 0) =>
  callers.filter((caller) => {
    try {
      limit.take(caller, nowMs)
      return true
    } catch {
      return false
    }
  }).length

describe('a rate limit', () => {
  test('gives its burst at once and its rate each second', () => {
    const limit = new RateLimit(guesses)
    const tries = Array.from({ length: 30 }, () => '192.0.2.1')
    expect(triesOf(limit, tries)).toBe(20)
    expect(triesOf(limit, tries, 3_000)).toBe(3)
    expect(triesOf(limit, ['192.0.2.2'], 3_000)).toBe(1)
  })

  test('tells callers apart by what they are called and nothing else', () => {
    const limit = new RateLimit(guesses)
    const callers = Array.from({ length: 30 }, (_, i) => `2001:db8::${(i * 7).toString(16)}:1`)
    expect(triesOf(limit, callers)).toBe(30)
    const id = 'spiffe://test.internal/ci'
    expect(triesOf(limit, [...new Array(30).fill(id), `${id}%2`])).toBe(21)
  })

  test('counts callers without a name together', () => {
    const nobody = Array.from({ length: 30 }, () => '')
    expect(triesOf(new RateLimit(guesses), nobody)).toBe(20)
  })

  test('that gets places back never gives more than its burst at once', () => {
    const limit = new RateLimit(guesses)
    limit.take('192.0.2.1', 0)
    for (let i = 0; i < 50; i++) limit.giveBack('192.0.2.1')
    limit.giveBack('192.0.2.9')
    expect(triesOf(limit, new Array(30).fill('192.0.2.1'))).toBe(20)
    expect(triesOf(limit, new Array(30).fill('192.0.2.9'))).toBe(20)
  })
})

describe('the rate of exchanges', () => {
  const from = () => ({ address: '192.0.2.1', clock: createFakeClock() })
  const refusal = () => new NsmError('IDENTITY', 'no (TOKEN_UNKNOWN)', 'nothing')
  const outcomeOf = (rate: ExchangeRate, at: ReturnType<typeof from>, work: () => Promise<unknown>) =>
    rate.run(work, at).then(
      () => 'ok',
      (error: unknown) => (error instanceof NsmError ? error.code : 'other'),
    )
  const outcomesOf = async (
    count: number,
    rate: ExchangeRate,
    at: ReturnType<typeof from>,
    work: () => Promise<unknown>,
  ) => {
    const outcomes: string[] = []
    for (let i = 0; i < count; i++) outcomes.push(await outcomeOf(rate, at, work))
    return outcomes
  }
  const count = (outcomes: readonly string[], wanted: string) => outcomes.filter((outcome) => outcome === wanted).length

  test('lets a fleet behind one address in, one after the other, and holds it at a thousand', async () => {
    const outcomes = await outcomesOf(1_100, new ExchangeRate(), from(), async () => 'svid')
    expect([count(outcomes, 'ok'), count(outcomes, 'CONFLICT')]).toEqual([1_000, 100])
  })

  test('holds whoever fails at twenty and one a second, also for what would be good', async () => {
    const [rate, at] = [new ExchangeRate(), from()]
    const fail = () => Promise.reject(refusal())
    expect(count(await outcomesOf(30, rate, at, fail), 'IDENTITY')).toBe(20)
    expect(await outcomesOf(2, rate, at, async () => 'svid')).toEqual(['CONFLICT', 'CONFLICT'])
    await at.clock.advance(1_000)
    expect(await outcomesOf(3, rate, at, async () => 'svid')).toEqual(['ok', 'ok', 'ok'])
    expect(await outcomeOf(rate, { ...at, address: '192.0.2.2' }, async () => 'svid')).toBe('ok')
  })

  test('counts an IPv6 /64 as one source, and callers without an address together', async () => {
    const [rate, at] = [new ExchangeRate(), from()]
    const fail = () => Promise.reject(refusal())
    const outcomes: string[] = []
    for (let i = 0; i < 30; i++) {
      outcomes.push(await outcomeOf(rate, { ...at, address: `2001:db8::${(i * 7).toString(16)}:1` }, fail))
    }
    expect(count(outcomes, 'IDENTITY')).toBe(20)
    expect(await outcomeOf(rate, { ...at, address: '2001:db8:0:1::1' }, fail)).toBe('IDENTITY')
    expect(count(await outcomesOf(30, rate, { ...at, address: '' }, fail), 'IDENTITY')).toBe(20)
  })

  test('bounds tries at the same time before it knows what becomes of them', async () => {
    const [rate, at] = [new ExchangeRate(), from()]
    let started = 0
    const slow = Promise.withResolvers<string>()
    const all = Array.from({ length: 30 }, () =>
      outcomeOf(rate, at, () => {
        started++
        return slow.promise
      }),
    )
    expect(started).toBe(20)
    slow.reject(refusal())
    expect(count(await Promise.all(all), 'CONFLICT')).toBe(10)
  })

  test('does not hold an issuer that is away against the caller', async () => {
    const away = () => Promise.reject(new NsmError('UNREACHABLE', 'away (ISSUER_UNREACHABLE)', 'wait'))
    expect(count(await outcomesOf(100, new ExchangeRate(), from(), away), 'UNREACHABLE')).toBe(100)
  })
})
