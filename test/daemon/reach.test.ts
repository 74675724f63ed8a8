import { once } from 'node:events'
import { createServer } from 'node:net'
import { expect, test } from 'vitest'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { reach } from '../../src/daemon/reach.ts'

const { signal } = new AbortController()

async function listening() {
  const server = createServer((socket) => socket.on('error', () => {})).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const port = typeof address === 'object' && address ? address.port : 0
  return { server, url: `tcp://127.0.0.1:${port}` }
}

test('reach resolves when somebody takes the connection, and leaves it again', async () => {
  const { server, url } = await listening()
  const left = once(server, 'connection').then(([socket]) => once(socket.resume(), 'close'))
  await reach(url, { clock: systemClock, limitMs: 10_000 }, signal)
  await left
  server.close()
})

test('reach says UNREACHABLE at a port where nobody listens', async () => {
  const { server, url } = await listening()
  server.close()
  await once(server, 'close')
  await expect(reach(url, { clock: systemClock, limitMs: 10_000 }, signal)).rejects.toMatchObject({
    code: 'UNREACHABLE',
    message: expect.stringContaining('ECONNREFUSED'),
  })
})

test('reach gives up at its limit, and says how long that was', async () => {
  const { server, url } = await listening()
  const limits: number[] = []
  const impatient: Clock = {
    ...systemClock,
    after(limitMs, action) {
      limits.push(limitMs)
      action()
      return () => {}
    },
  }
  await expect(reach(url, { clock: impatient, limitMs: 5_000 }, signal)).rejects.toMatchObject({
    code: 'UNREACHABLE',
    message: `${url} cannot be reached: no answer within 5000 ms`,
  })
  expect(limits).toEqual([5_000])
  server.close()
})

test('reach ends with its signal', async () => {
  const { server, url } = await listening()
  const reason = new RangeError('enough')
  const reaching = reach(url, { clock: systemClock, limitMs: 10_000 }, AbortSignal.abort(reason))
  await expect(reaching).rejects.toBe(reason)
  server.close()
})
