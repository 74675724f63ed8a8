import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createTurns } from '../../src/base/turns.ts'

describe('turns', () => {
  test('works of one key never overlap and keep their order, works of different keys overlap', async () => {
    const jobs = fc.array(fc.record({ key: fc.constantFrom('a', 'b', 'c'), steps: fc.nat({ max: 5 }) }), {
      maxLength: 20,
    })
    await fc.assert(
      fc.asyncProperty(jobs, async (wanted) => {
        const turns = createTurns()
        const running = new Set<string>()
        const done: number[] = []
        const all = wanted.map(({ key, steps }, at) =>
          turns.run(key, async () => {
            expect(running.has(key)).toBe(false)
            running.add(key)
            for (let step = 0; step < steps; step++) await Promise.resolve()
            running.delete(key)
            done.push(at)
          }),
        )
        await Promise.all(all)
        for (const key of ['a', 'b', 'c']) {
          const ofKey = done.filter((at) => wanted[at]?.key === key)
          expect(ofKey).toEqual(ofKey.toSorted((a, b) => a - b))
        }
        expect(done).toHaveLength(wanted.length)
      }),
    )
  })

  test('a work of another key does not wait for one that hangs', async () => {
    const turns = createTurns()
    void turns.run('a', () => new Promise(() => {}))
    expect(await turns.run('b', async () => 'done')).toBe('done')
  })

  test('a work begins in the call itself when nobody is before it', () => {
    const begun: string[] = []
    void createTurns().run('a', async () => void begun.push('a'))
    expect(begun).toEqual(['a'])
  })

  test('a work that fails, at once or later, tells its caller and lets the next one go', async () => {
    const turns = createTurns()
    const failing = [
      turns.run('a', async () => Promise.reject(new RangeError('later'))),
      turns.run('a', () => {
        throw new RangeError('at once')
      }),
    ]
    const next = turns.run('a', async () => 'next')
    expect(await Promise.allSettled(failing)).toMatchObject([
      { status: 'rejected', reason: { message: 'later' } },
      { status: 'rejected', reason: { message: 'at once' } },
    ])
    expect(await next).toBe('next')
    expect(await turns.run('a', async () => 'again')).toBe('again')
  })

  test('settled waits for what was begun, also for what fails', async () => {
    const turns = createTurns()
    const gate = Promise.withResolvers<void>()
    const ended: string[] = []
    void turns.run('a', async () => gate.promise.then(() => void ended.push('a')))
    const failing = turns.run('b', async () => gate.promise.then(() => Promise.reject(new RangeError('b'))))
    const settled = turns.settled().then(() => ended.push('settled'))
    gate.resolve()
    await expect(failing).rejects.toThrow('b')
    await settled
    expect(ended).toEqual(['a', 'settled'])
  })

  test('keys are those with a work that runs or waits, and no longer', async () => {
    const turns = createTurns()
    const gate = Promise.withResolvers<void>()
    const works = ['a', 'b', 'a'].map((key) => turns.run(key, () => gate.promise))
    expect(turns.keys().toSorted()).toEqual(['a', 'b'])
    gate.resolve()
    await Promise.all(works)
    expect(turns.keys()).toEqual([])
  })
})
