import { createServer } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { fetchPinnedBundles } from '../../src/identity/first-contact.ts'
import { isTurnedAway, isUnreachable, whileBusy } from '../../src/nsm/while-busy.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const away = () => new NsmError('UNREACHABLE', 'no answer', 'wait')
const soon = { ...systemClock, after: (_ms: number, action: () => void) => systemClock.after(0, action) }
const { signal } = new AbortController()

function failing(times: number, error: () => Error) {
  let tries = 0
  const work = async () => {
    if (++tries <= times) throw error()
    return 'done'
  }
  return { work, tries: () => tries }
}

describe('work for which a server has no place', () => {
  test('is done again, after longer and longer pauses', async () => {
    const clock = createFakeClock()
    const { work, tries } = failing(3, away)
    const done = whileBusy(work, { clock, signal, isBusy: isUnreachable })
    const seen: number[] = []
    for (const waitMs of [0, 250, 500, 1_000]) {
      await clock.advance(waitMs)
      seen.push(tries())
    }
    expect(seen).toEqual([1, 2, 3, 4])
    expect(await done).toBe('done')
  })

  test('is given up with its last failure', async () => {
    const { work, tries } = failing(100, away)
    await expect(whileBusy(work, { clock: soon, signal, isBusy: isUnreachable })).rejects.toMatchObject({
      code: 'UNREACHABLE',
    })
    expect(tries()).toBe(6)
  })

  test('is not done again when it was refused for a reason', async () => {
    const { work, tries } = failing(1, () => new NsmError('IDENTITY', 'no', 'ask'))
    await expect(whileBusy(work, { clock: soon, signal, isBusy: isUnreachable })).rejects.toMatchObject({
      code: 'IDENTITY',
    })
    expect(tries()).toBe(1)
  })

  test('ends with its failure when the caller gives up meanwhile', async () => {
    const caller = new AbortController()
    const { work } = failing(9, away)
    const done = whileBusy(work, { clock: createFakeClock(), signal: caller.signal, isBusy: isUnreachable })
    setImmediate(() => caller.abort())
    await expect(done).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})

describe('a first contact', () => {
  const contact = { address: '127.0.0.1', trustDomain: 'a.example', pin: 'sha256-x' }
  const failureAt = async (port: number) =>
    fetchPinnedBundles({ ...contact, port }, signal).then(
      () => undefined,
      (error: unknown) => error,
    )

  test('was turned away when somebody took the connection and closed it', async () => {
    const server = createServer((socket) => socket.destroy())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    const bound = server.address()
    const port = typeof bound === 'object' && bound ? bound.port : 0
    expect(isTurnedAway(await failureAt(port))).toBe(true)
    await new Promise((resolve) => server.close(resolve))
    expect(isTurnedAway(await failureAt(port))).toBe(false)
  })
})
