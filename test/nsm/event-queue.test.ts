import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { createEventQueue } from '../../src/nsm/event-queue.ts'

const queuedMax = 1_024

function open(present: readonly number[] = []) {
  const stop = new AbortController()
  let ends = 0
  const queue = createEventQueue(present, { signal: stop.signal, onEnd: () => void ends++ })
  return { queue, stop, ends: () => ends }
}

async function readAll(events: AsyncIterable<number>): Promise<number[]> {
  const read: number[] = []
  for await (const event of events) read.push(event)
  return read
}

describe('an event queue', () => {
  test('gives what is there first, then what comes, in order, and what is queued at its end', async () => {
    const { queue } = open([1, 2])
    const reading = readAll(queue.events)
    queue.push(3)
    await Promise.resolve()
    queue.push(4)
    queue.end()
    queue.push(5)
    expect(await reading).toEqual([1, 2, 3, 4])
  })

  test('loses nothing and changes no order, however reading and writing take turns', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(fc.constant('read'), fc.constant('write')), { maxLength: 60 }),
        async (turns) => {
          const { queue } = open()
          const reader = queue.events[Symbol.asyncIterator]()
          const reads: Promise<IteratorResult<number>>[] = []
          let written = 0
          for (const turn of turns) {
            if (turn === 'read') reads.push(reader.next())
            else queue.push(written++)
            await Promise.resolve()
          }
          queue.end()
          const seen = (await Promise.all(reads)).flatMap(({ done, value }) => (done ? [] : [value]))
          for (let next = await reader.next(); !next.done; next = await reader.next()) seen.push(next.value)
          expect(seen).toEqual(Array.from({ length: written }, (_, i) => i))
        },
      ),
      { numRuns: 50 },
    )
  })

  test('ends with its signal, once, for a reader that waits and for one that comes later', async () => {
    const { queue, stop, ends } = open()
    const reading = readAll(queue.events)
    stop.abort()
    expect(await reading).toEqual([])
    queue.end()
    expect(ends()).toBe(1)
    const late = open([7])
    late.stop.abort()
    expect(await readAll(late.queue.events)).toEqual([7])
    const early = new AbortController()
    early.abort()
    let told = 0
    expect(await readAll(createEventQueue([1], { signal: early.signal, onEnd: () => void told++ }).events)).toEqual([1])
    expect(told).toBe(1)
  })

  test('hands an error on after what is queued', async () => {
    const { queue } = open([1])
    queue.end(new NsmError('LOST', 'the server stops', 'watch again'))
    const read: number[] = []
    const reading = (async () => {
      for await (const event of queue.events) read.push(event)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'LOST' })
    expect(read).toEqual([1])
  })

  test('ends when its reader leaves', async () => {
    const { queue, ends } = open([1, 2])
    for await (const _ of queue.events) break
    expect(ends()).toBe(1)
  })

  test('takes the stream from a reader that does not read, and keeps what was there at its beginning apart', async () => {
    const present = Array.from({ length: 10 }, (_, i) => -i)
    const { queue, ends } = open(present)
    for (let i = 0; i < queuedMax; i++) queue.push(i)
    expect(ends()).toBe(0)
    queue.push(queuedMax)
    expect(ends()).toBe(1)
    await expect(readAll(queue.events)).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: 'the watcher does not keep up',
    })
  })
})
