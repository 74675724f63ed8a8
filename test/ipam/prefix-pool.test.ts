import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatPrefix, type Prefix, parsePrefix, prefixCovers, prefixesOverlap, prefixOf } from '../../src/base/ip.ts'
import { PrefixPool, restingPerOwnerMax } from '../../src/ipam/prefix-pool.ts'

const restMs = 1_200_000

const open = (text: string) => new PrefixPool({ prefix: parsePrefix(text), restMs })

const ask = (pool: PrefixPool, wish: Partial<Parameters<PrefixPool['allocate']>[0]> = {}): string => {
  const length = pool.prefix.family === 4 ? 32 : 128
  const given = pool.allocate({ length, owner: 'a', excluded: [], nowMs: 0, ...wish })
  return typeof given === 'string' ? given : formatPrefix(given)
}

describe('PrefixPool', () => {
  test.each([
    ['10.64.0.0/30', ['10.64.0.1/32', '10.64.0.2/32', 'exhausted', 'exhausted']],
    ['10.64.0.0/31', ['10.64.0.1/32', 'exhausted']],
    ['10.64.0.0/32', ['exhausted']],
    ['fd00::/126', ['fd00::1/128', 'fd00::2/128', 'fd00::3/128', 'exhausted']],
    ['fd00::/128', ['exhausted']],
  ])('%s gives the lowest free address, never the base address, then says exhausted', (prefix, given) => {
    const pool = open(prefix)
    expect(given.map((_, i) => ask(pool, { owner: `member-${i}` }))).toEqual(given)
  })

  test('lets no owner use it up by refusing what it had: others still get addresses', () => {
    const pool = open('10.64.0.0/16')
    const excluded: Prefix[] = []
    const given = Array.from({ length: restingPerOwnerMax + 2 }, () => {
      const address = ask(pool, { owner: 'greedy', excluded })
      if (address === 'too-many-resting') return address
      excluded.push(parsePrefix(address))
      pool.release(parsePrefix(address), 0)
      return address
    })
    expect(given.filter((address) => address !== 'too-many-resting')).toHaveLength(restingPerOwnerMax)
    expect(ask(pool, { owner: 'greedy' })).toBe('10.64.0.1/32')
    expect(ask(pool, { owner: 'honest' })).toBe('10.64.0.129/32')
    expect(ask(pool, { owner: 'greedy', excluded, nowMs: restMs })).toBe('10.64.0.130/32')
  })

  test('gives the lowest free prefix and never an excluded one', () => {
    const pool = open('10.64.0.0/16')
    const excluded = ['10.64.0.0/24', '10.64.2.0/23', '192.168.0.0/16', 'fd00::/8'].map(parsePrefix)
    expect(ask(pool, { length: 24, excluded })).toBe('10.64.1.0/24')
    expect(ask(pool, { length: 24, excluded })).toBe('10.64.4.0/24')
    expect(ask(pool, { length: 32, excluded: [] })).toBe('10.64.0.1/32')
    expect(ask(pool, { length: 32, excluded: [parsePrefix('10.64.0.0/16')] })).toBe('exhausted')
  })

  test('aligns prefixes: a /28 after one address starts at the next 16', () => {
    const pool = open('10.64.0.0/24')
    expect(ask(pool)).toBe('10.64.0.1/32')
    expect(ask(pool, { length: 28 })).toBe('10.64.0.16/28')
    expect(ask(pool)).toBe('10.64.0.2/32')
  })

  test('refuses a prefix wider than the pool and one longer than the family', () => {
    expect(ask(open('10.64.0.0/24'), { length: 16 })).toBe('exhausted')
    expect(ask(open('10.64.0.0/24'), { length: 33 })).toBe('exhausted')
  })

  test('a released address rests for others and returns to its owner at once', () => {
    const pool = open('10.64.0.0/29')
    expect(ask(pool)).toBe('10.64.0.1/32')
    expect(pool.release(parsePrefix('10.64.0.1'), 0)).toBe(true)
    expect(pool.release(parsePrefix('10.64.0.1'), 0)).toBe(false)
    expect(ask(pool, { owner: 'b', nowMs: restMs - 1 })).toBe('10.64.0.2/32')
    expect(pool.reserve({ prefix: parsePrefix('10.64.0.1'), owner: 'b', nowMs: restMs - 1 })).toBe(false)
    expect(ask(pool, { owner: 'a', nowMs: restMs - 1 })).toBe('10.64.0.1/32')
    pool.release(parsePrefix('10.64.0.1'), restMs)
    expect(ask(pool, { owner: 'c', nowMs: 2 * restMs })).toBe('10.64.0.1/32')
  })

  test('the address that rests for its owner is not given back when it is excluded', () => {
    const pool = open('10.64.0.0/29')
    ask(pool)
    pool.release(parsePrefix('10.64.0.1'), 0)
    expect(ask(pool, { excluded: [parsePrefix('10.64.0.0/31')] })).toBe('10.64.0.2/32')
  })

  test('a withdrawn address is free at once, or rests on as before', () => {
    const pool = open('10.64.0.0/29')
    const first = parsePrefix('10.64.0.1')
    ask(pool)
    pool.withdraw(first)
    pool.withdraw(first)
    expect(ask(pool, { owner: 'b' })).toBe('10.64.0.1/32')
    pool.release(first, 0)
    expect(ask(pool, { owner: 'b', nowMs: 1 })).toBe('10.64.0.1/32')
    pool.withdraw(first)
    expect(ask(pool, { owner: 'a', nowMs: restMs - 1 })).toBe('10.64.0.2/32')
    expect(ask(pool, { owner: 'a', nowMs: restMs })).toBe('10.64.0.1/32')
  })

  test.each([
    ['10.64.0.0/32', 'the gateway'],
    ['10.64.0.255/32', 'the broadcast address'],
    ['10.64.0.7/32', 'a live one'],
    ['10.64.0.0/28', 'a prefix with a live one inside'],
    ['10.65.0.1/32', 'one outside'],
    ['fd00::1/128', 'one of the other family'],
  ])('reserve refuses %s (%s)', (text) => {
    const pool = open('10.64.0.0/24')
    expect(pool.reserve({ prefix: parsePrefix('10.64.0.7'), owner: 'a', nowMs: 0 })).toBe(true)
    expect(pool.reserve({ prefix: parsePrefix(text), owner: 'b', nowMs: 0 })).toBe(false)
    expect(pool.liveCount).toBe(1)
  })

  test('a /64 gives 20,000 addresses and takes one from its far end', () => {
    const pool = open('fd00::/64')
    for (let i = 1; i <= 20_000; i++) ask(pool)
    expect(ask(pool)).toBe('fd00::4e21/128')
    expect(pool.reserve({ prefix: parsePrefix('fd00::ffff:ffff:ffff:ffff'), owner: 'a', nowMs: 0 })).toBe(true)
    expect(pool.liveCount).toBe(20_002)
  })

  test('behaves like a list of every address (model)', () => {
    fc.assert(
      fc.property(fc.constantFrom('10.0.0.0/27', 'fd00::/123'), fc.array(step, { maxLength: 60 }), (text, steps) => {
        const pool = open(text)
        const model = new Model(pool.prefix)
        for (const wish of steps) model.check(pool, wish)
      }),
      { numRuns: 300 },
    )
  })
})

interface Step {
  readonly do: 'allocate' | 'reserve' | 'release'
  readonly owner: string
  readonly offset: number
  readonly lengthen: number
  readonly excludeFrom: number | undefined
  readonly afterMs: number
}

const step: fc.Arbitrary<Step> = fc.record({
  do: fc.constantFrom('allocate' as const, 'reserve' as const, 'release' as const),
  owner: fc.constantFrom('a', 'b', 'c'),
  offset: fc.nat(31),
  lengthen: fc.nat(2),
  excludeFrom: fc.option(fc.nat(31), { nil: undefined }),
  afterMs: fc.constantFrom(0, 1, restMs / 2, restMs),
})

/** Knows every address by itself: who has it, or for whom it rests and how long. */
class Model {
  readonly #pool: Prefix
  readonly #taken: { prefix: Prefix; owner: string; untilMs: number | undefined }[] = []
  #nowMs = 0

  constructor(pool: Prefix) {
    this.#pool = pool
  }

  check(pool: PrefixPool, wish: Step): void {
    this.#nowMs += wish.afterMs
    const nowMs = this.#nowMs
    for (const entry of [...this.#taken]) {
      if (entry.untilMs !== undefined && entry.untilMs <= nowMs) this.#taken.splice(this.#taken.indexOf(entry), 1)
    }
    const bits = this.#pool.family === 4 ? 32 : 128
    const prefix = prefixOf(
      { family: this.#pool.family, bits: this.#pool.bits + BigInt(wish.offset) },
      bits - wish.lengthen,
    )
    const { owner } = wish
    if (wish.do === 'release') {
      const entry = this.#taken.find((other) => other.untilMs === undefined && same(other.prefix, prefix))
      expect(pool.release(prefix, nowMs)).toBe(entry !== undefined)
      if (entry) {
        this.#taken.splice(this.#taken.indexOf(entry), 1)
        this.#taken.push({ ...entry, untilMs: nowMs + restMs })
      }
      return
    }
    if (wish.do === 'reserve') {
      expect(pool.reserve({ prefix, owner, nowMs })).toBe(this.#take(prefix, owner))
      return
    }
    const excluded =
      wish.excludeFrom === undefined
        ? []
        : [prefixOf({ family: this.#pool.family, bits: this.#pool.bits + BigInt(wish.excludeFrom) }, bits - 2)]
    const expected = this.#lowest(bits - wish.lengthen, owner, excluded)
    const given = pool.allocate({ length: bits - wish.lengthen, owner, excluded, nowMs })
    expect(typeof given === 'string' ? given : formatPrefix(given)).toBe(
      expected ? formatPrefix(expected) : 'exhausted',
    )
    if (expected) this.#take(expected, owner)
  }

  #take(prefix: Prefix, owner: string): boolean {
    const resting = this.#taken.find((entry) => entry.untilMs !== undefined && same(entry.prefix, prefix))
    if (resting && resting.owner === owner) this.#taken.splice(this.#taken.indexOf(resting), 1)
    if (!this.#isFree(prefix)) {
      if (resting && resting.owner === owner) this.#taken.push(resting)
      return false
    }
    this.#taken.push({ prefix, owner, untilMs: undefined })
    return true
  }

  #isFree(prefix: Prefix): boolean {
    const last = this.#pool.bits + 31n
    const end = this.#pool.family === 4 ? last : undefined
    if (prefixCovers(prefix, { ...this.#pool, length: this.#pool.family === 4 ? 32 : 128 })) return false
    if (end !== undefined && prefixCovers(prefix, { family: 4, bits: end, length: 32 })) return false
    return !this.#taken.some((entry) => prefixesOverlap(entry.prefix, prefix))
  }

  #lowest(length: number, owner: string, excluded: readonly Prefix[]): Prefix | undefined {
    const allowed = (prefix: Prefix) => !excluded.some((other) => prefixesOverlap(other, prefix))
    const rested = this.#taken.find(
      (entry) =>
        entry.untilMs !== undefined && entry.owner === owner && entry.prefix.length === length && allowed(entry.prefix),
    )
    if (rested) return rested.prefix
    const size = 1n << BigInt((this.#pool.family === 4 ? 32 : 128) - length)
    for (let bits = this.#pool.bits; bits < this.#pool.bits + 32n; bits += size) {
      const prefix = { family: this.#pool.family, bits, length }
      if (allowed(prefix) && this.#isFree(prefix)) return prefix
    }
    return undefined
  }
}

const same = (a: Prefix, b: Prefix) => formatPrefix(a) === formatPrefix(b)
