import { expect, test } from 'vitest'
import { watchSurroundings } from '../../src/connection/surroundings.ts'
import type { Other } from '../../src/connection/taken.ts'
import { createFakeClock } from '../support/fake-clock.ts'

function start(judgements: (boolean | Error)[] = []) {
  const clock = createFakeClock()
  const stop = new AbortController()
  const world = { changed: false, isOpen: false, judged: 0, upstreams: ['192.0.2.53'], others: [] as Other[] }
  const openHostChanges = async () => {
    world.isOpen = true
    const any = () => {
      const { changed } = world
      world.changed = false
      return changed
    }
    const close = () => {
      world.isOpen = false
    }
    return { any, close }
  }
  const names = { upstreams: async () => world.upstreams.map((address) => ({ address, port: 53 })) }
  const judge = async () => {
    world.judged++
    const judgement = judgements.shift() ?? false
    if (judgement instanceof Error) throw judgement
    return judgement
  }
  const parts = { clock, machine: { openHostChanges }, names, others: () => world.others }
  const ended = watchSurroundings(parts, judge, stop.signal).catch((error: unknown) => error)
  /** Judgements within so many seconds. */
  const within = async (seconds: number) => {
    const before = world.judged
    await clock.advance(seconds * 1_000)
    return world.judged - before
  }
  return { world, stop, ended, within }
}

test('watchSurroundings judges once, and never again while nothing changes', async () => {
  const { within } = start()
  expect([await within(1), await within(60)]).toEqual([1, 0])
})

test.each([
  ['the network', { changed: true }],
  ['a resolver', { upstreams: ['192.0.2.54'] }],
  [
    'another connection',
    { others: [{ service: 'red', interfaceName: 'r', prefixes: ['10.0.0.0/8'], addresses: [], mayOverlap: false }] },
  ],
])('watchSurroundings judges once more when %s changed', async (_what, change) => {
  const { world, within } = start()
  await within(5)
  Object.assign(world, change)
  expect([await within(1), await within(60)]).toEqual([1, 0])
})

test('watchSurroundings judges each second while a judgement asks for it', async () => {
  const { within } = start([true, true, true])
  expect([await within(1), await within(60)]).toEqual([1, 3])
})

test('watchSurroundings judges again after a judgement that failed', async () => {
  const { within } = start([new Error('the network cannot be read')])
  expect([await within(1), await within(60)]).toEqual([1, 1])
})

test('watchSurroundings listens no more when it is stopped', async () => {
  const { world, stop, ended, within } = start()
  await within(1)
  expect(world.isOpen).toBe(true)
  stop.abort()
  expect(await ended).toMatchObject({ name: 'AbortError' })
  expect(world.isOpen).toBe(false)
})
