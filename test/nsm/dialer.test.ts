import { describe, expect, test } from 'vitest'
import type { Clock } from '../../src/base/clock.ts'
import { flags, frameTypes, settingIds } from '../../src/nsm/http2/frames.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { freePort } from '../support/free-port.ts'
import { greeting } from '../support/raw-server.ts'
import { lineTo, startServer, wholeAnswer } from './client-rig.ts'
import { goaway, reset } from './http2/client-rig.ts'
import { raw } from './http2/session-rig.ts'

/** What a call that failed says. */
const textOf = (asked: Promise<unknown>) => asked.then(String, (error: Error) => error.message)

describe('a dialer', () => {
  test('makes one connection for many calls, and answers may come in any order', async () => {
    const server = await startServer()
    const { ask } = lineTo(server)
    const asked = [ask(), ask(), ask()]
    const connection = await server.next()
    const ids = []
    for (const _call of asked) ids.push((await connection.next(frameTypes.headers)).streamId)
    for (const id of ids.reverse()) connection.say(...wholeAnswer(id))
    await Promise.all(asked)
    expect([ids.reverse(), server.count]).toEqual([[1, 3, 5], 1])
  })

  test('begins no more calls than the server allows, and the next one when one has ended', async () => {
    const server = await startServer({ settings: [[settingIds.maxStreams, 1]] })
    const { ask } = lineTo(server)
    const asked = [ask(), ask()]
    const connection = await server.next()
    await connection.next(frameTypes.data)
    expect(connection.seen.filter(({ type }) => type === frameTypes.headers)).toHaveLength(1)
    connection.say(...wholeAnswer(1))
    await asked[0]
    await connection.next(frameTypes.data)
    connection.say(...wholeAnswer(3))
    await asked[1]
  })

  test('says why nobody answers to a call that does not wait, and to all others at their deadline', async () => {
    const port = await freePort()
    const clock = createFakeClock()
    const { ask } = lineTo({ port }, clock)
    const waiting = textOf(ask({ timeoutMs: 1_000 }))
    expect(await textOf(ask({ wait: false }))).toBe(`nothing answers at 127.0.0.1:${port}: connection refused`)
    expect(await textOf(ask({ wait: false }))).toBe(`nothing answers at 127.0.0.1:${port}: connection refused`)
    await clock.advance(1_000)
    expect(await waiting).toBe(`no answer from 127.0.0.1:${port} within 1 s`)
  })

  test('pauses longer after each failure, and never longer than its limit', async () => {
    const clock = createFakeClock()
    const delays: number[] = []
    const noting: Clock = {
      ...clock,
      after(delayMs, action) {
        delays.push(delayMs)
        return clock.after(delayMs, action)
      },
    }
    const asked = textOf(lineTo({ port: await freePort() }, noting).ask({ timeoutMs: 100_000 }))
    const pauses = () => delays.filter((delayMs) => delayMs < 2_000)
    const expected = [200, 320, 512, 819.2, 1_000, 1_000]
    for (const [i] of expected.entries()) {
      await expect.poll(() => pauses().length).toBe(i + 1)
      await clock.advance(pauses()[i] ?? 0)
    }
    for (const [i, ms] of expected.entries()) expect(Math.abs((pauses()[i] ?? 0) - ms)).toBeLessThan(ms * 0.2 + 1)
    await clock.advance(100_000)
    expect(await asked).toContain('within 100 s')
  })

  test('reaches a server that starts later', async () => {
    const port = await freePort()
    const clock = createFakeClock()
    const { ask } = lineTo({ port }, clock)
    const asked = ask({ timeoutMs: 60_000 })
    expect(await textOf(ask({ wait: false }))).toContain('connection refused')
    const server = await startServer({ port })
    await clock.advance(2_000)
    const connection = await server.next()
    await connection.next(frameTypes.data)
    connection.say(...wholeAnswer(1))
    expect((await asked).message.status).toBe(1)
  })

  test('gives up a server that takes the connection and says nothing, and tries again', async () => {
    const server = await startServer({ settings: 'silent' })
    const clock = createFakeClock()
    const { ask } = lineTo(server, clock)
    const asked = ask({ timeoutMs: 60_000 })
    const impatient = textOf(ask({ wait: false, timeoutMs: 60_000 }))
    await (await server.next()).next(frameTypes.settings)
    await clock.advance(20_000)
    expect(await impatient).toBe(`nothing answers at 127.0.0.1:${server.port}: no answer`)
    await clock.advance(2_000)
    const connection = await server.next()
    connection.say(greeting())
    await connection.next(frameTypes.data)
    connection.say(...wholeAnswer(1))
    await asked
  })

  test('sends new calls over a new connection after a goaway, while the old one finishes', async () => {
    const server = await startServer()
    const { ask } = lineTo(server)
    const first = ask()
    const old = await server.next()
    await old.next(frameTypes.data)
    old.say(goaway(2 ** 31 - 1), raw(frameTypes.ping, 0, '12345678'))
    await old.next(frameTypes.ping)
    const second = ask()
    const next = await server.next()
    await next.next(frameTypes.data)
    next.say(...wholeAnswer(1))
    await second
    const isOldOver = new Promise((resolve) => old.socket.once('close', resolve))
    old.say(...wholeAnswer(1))
    await first
    await isOldOver
  })

  test('sends a call that a goaway leaves out over another connection, once', async () => {
    const server = await startServer()
    const asked = lineTo(server).ask()
    for (let round = 0; round < 2; round++) {
      const connection = await server.next()
      await connection.next(frameTypes.data)
      connection.say(goaway(0))
    }
    await expect(asked).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(server.count).toBe(2)
  })

  test('sends a call whose stream was refused once more', async () => {
    const server = await startServer()
    const asked = lineTo(server).ask()
    const connection = await server.next()
    for (const id of [1, 3]) {
      expect((await connection.next(frameTypes.data)).streamId).toBe(id)
      connection.say(reset(id, 7))
    }
    await expect(asked).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })

  test('makes a new connection when one is lost, for the next call', async () => {
    const server = await startServer()
    const { ask } = lineTo(server)
    const lost = textOf(ask())
    const first = await server.next()
    await first.next(frameTypes.data)
    first.socket.resetAndDestroy()
    expect(await lost).toContain('the connection was lost')
    const asked = ask()
    const second = await server.next()
    await second.next(frameTypes.data)
    second.say(...wholeAnswer(1))
    await asked
  })

  test('asks a server that is silent in a call, and leaves it when it does not answer', async () => {
    const server = await startServer()
    const clock = createFakeClock()
    const { ask } = lineTo(server, clock)
    const asked = textOf(ask({ timeoutMs: 1_000_000 }))
    const connection = await server.next()
    await connection.next(frameTypes.data)
    await clock.advance(310_000)
    const { payload } = await connection.next(frameTypes.ping)
    connection.say(raw(frameTypes.ping, 0, payload, flags.ack), raw(frameTypes.ping, 0, '12345678'))
    expect((await connection.next(frameTypes.ping)).flags).toBe(flags.ack)
    await clock.advance(310_000)
    await connection.next(frameTypes.ping)
    await clock.advance(20_000)
    expect(await asked).toContain('the connection was lost')
  })

  test('ends every call when it is closed, and takes no more', async () => {
    const server = await startServer()
    const { ask, line } = lineTo(server)
    const asked = textOf(ask())
    const connection = await server.next()
    await connection.next(frameTypes.data)
    const isGone = new Promise((resolve) => connection.socket.once('close', resolve))
    line.close()
    expect(await asked).toContain('the connection was lost')
    await isGone
    expect(await textOf(ask())).toContain('the channel is closed')
  })
})
