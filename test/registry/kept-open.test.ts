import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { KeptOpen } from '../../src/registry/kept-open.ts'
import { createFakeClock } from '../support/fake-clock.ts'

function start(most = 2) {
  const clock = createFakeClock()
  const closed: string[] = []
  let opened = 0
  const kept = new KeptOpen<string>({
    ...{ clock, most },
    full: () => new NsmError('UNREACHABLE', 'full', 'wait'),
    close: (thing) => closed.push(thing),
  })
  const use = (key: string) => kept.use(key, () => `${key}-${++opened}`)
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
