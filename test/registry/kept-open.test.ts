import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { KeptOpen } from '../../src/registry/kept-open.ts'
import { createFakeClock } from '../support/fake-clock.ts'

function start(most = 2, mostEach = most) {
  const clock = createFakeClock()
  const closed: string[] = []
  let opened = 0
  const kept = new KeptOpen<string>({
    ...{ clock, most, mostEach },
    full: () => new NsmError('UNREACHABLE', 'full', 'wait'),
    close: (thing) => closed.push(thing),
  })
  const use = (key: string, asker?: string) => kept.use(key, () => `${key}-${++opened}`, asker)
  return { clock, closed, kept, use }
}

describe('things kept open', () => {
  test('are shared by key while they are used', () => {
    const { use } = start()
    expect([use('a').thing, use('a').thing, use('b').thing]).toEqual(['a-1', 'a-1', 'b-2'])
  })

  test('are closed a minute after the last use, not after the first', async () => {
    const { use, clock, closed } = start()
    const [first, second] = [use('a'), use('a')]
    first.done()
    await clock.advance(60_000)
    expect(closed).toEqual([])
    second.done()
    await clock.advance(59_999)
    expect(closed).toEqual([])
    await clock.advance(1)
    expect(closed).toEqual(['a-1'])
    expect(use('a').thing).toBe('a-2')
  })

  test('stay when they are used again within that minute', async () => {
    const { use, clock, closed } = start()
    use('a').done()
    await clock.advance(59_000)
    expect(use('a').thing).toBe('a-1')
    await clock.advance(120_000)
    expect(closed).toEqual([])
  })

  test('make room when nobody uses them, and are refused when all are in use', () => {
    const { use, closed } = start()
    use('a').done()
    use('b')
    use('c')
    expect(closed).toEqual(['a-1'])
    expect(() => use('d')).toThrow('full')
    expect(closed).toEqual(['a-1'])
  })

  test('are refused to an asker who has its share in use, and to nobody else', () => {
    const { use } = start(8, 2)
    const { done } = use('a', 'greedy')
    use('b', 'greedy')
    expect(() => use('c', 'greedy')).toThrow('full')
    expect(use('a', 'greedy').thing).toBe('a-1')
    expect(use('c', 'modest').thing).toBe('c-3')
    expect(use('c', 'greedy').thing).toBe('c-3')
    done()
    expect(() => use('d', 'greedy')).toThrow('full')
  })

  test('that an asker has given back do not count as its own', () => {
    const { use } = start(8, 2)
    for (const key of ['a', 'b', 'c']) use(key, 'often').done()
    expect(use('d', 'often').thing).toBe('d-4')
  })

  test('are forgotten without being closed when they are dropped, and only the dropped one', async () => {
    const { kept, use, clock, closed } = start()
    const { thing, done } = use('a')
    kept.drop('a', thing)
    done()
    expect(use('a').thing).toBe('a-2')
    kept.drop('a', thing)
    expect(use('a').thing).toBe('a-2')
    await clock.advance(60_000)
    expect(closed).toEqual([])
  })

  test('are all closed at the end, once, whatever is given back later', async () => {
    const { kept, use, clock, closed } = start()
    const { done } = use('a')
    use('b').done()
    kept.close()
    expect(closed.toSorted()).toEqual(['a-1', 'b-2'])
    done()
    await clock.advance(120_000)
    expect([closed.length, clock.waiting]).toEqual([2, 0])
  })
})
