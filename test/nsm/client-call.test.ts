import { describe, expect, test } from 'vitest'
import { Health } from '../../src/nsm/generated/health_pb.js'
import { IPAM } from '../../src/nsm/generated/ipam_pb.js'
import { frameMessage } from '../../src/nsm/grpc-message.ts'
import { flags, frameTypes } from '../../src/nsm/http2/frames.ts'
import { encodeHeaders } from '../../src/nsm/http2/hpack.ts'
import { callDuplex, callStream } from '../../src/nsm/line-calls.ts'
import { status } from '../../src/nsm/status-code.ts'
import { codeOf, detailsOf } from '../../src/nsm/workload-calls.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { freePort } from '../support/free-port.ts'
import { lineTo, serving, startServer } from './client-rig.ts'
import { answer, goaway, okHeader, reset, trailers } from './http2/client-rig.ts'
import { data, raw } from './http2/session-rig.ts'

/** Asks a server that answers with these frames; the status and text that the call ended with, or the answer. */
async function outcome(frames: readonly Buffer[], end: 'stay' | 'leave' = 'stay') {
  const server = await startServer()
  const asked = lineTo(server)
    .ask()
    .catch((error: unknown) => [codeOf(error), detailsOf(error)])
  const connection = await server.next()
  await connection.next(frameTypes.data)
  connection.say(...frames)
  if (end === 'leave') connection.socket.end()
  return asked
}

const header = (fields: Readonly<Record<string, string | number>>, isLast = false) =>
  answer(1, encodeHeaders(fields), isLast ? flags.endHeaders | flags.endStream : flags.endHeaders)
const ended = (fields: Readonly<Record<string, string | number>>) => trailers(1, encodeHeaders(fields))
const grpc = { ':status': 200, 'content-type': 'application/grpc' }
const compressed = Buffer.from(serving)
compressed[0] = 1
const long = encodeHeaders({ long: 'x'.repeat(15_000) })
const tooMuchHeader = [
  answer(1, okHeader, 0),
  ...[0, 0, flags.endHeaders].map((set) => raw(frameTypes.continuation, 1, long, set)),
]
const huge = Buffer.from(serving)
huge.writeUInt32BE(5 * 1024 * 1024, 1)

describe('a call with one answer', () => {
  test('sends what gRPC asks for, and understands the answer', async () => {
    const server = await startServer()
    const asked = lineTo(server, createFakeClock()).ask({ timeoutMs: 90_000, metadata: { own: 'value' } })
    const connection = await server.next()
    const { fields, streamId } = await connection.next(frameTypes.headers)
    const sent = Object.fromEntries(fields.flatMap((name, i) => (i % 2 === 0 ? [[name, fields[i + 1]]] : [])))
    expect(sent).toMatchObject({
      ':method': 'POST',
      ':scheme': 'http',
      ':path': '/grpc.health.v1.Health/Check',
      ':authority': 'localhost',
      te: 'trailers',
      'content-type': 'application/grpc',
      'grpc-timeout': '90000m',
      own: 'value',
    })
    const { payload, flags: set } = await connection.next(frameTypes.data)
    expect([payload, set]).toEqual([frameMessage(Buffer.from('\x0a\x02it')), flags.endStream])
    connection.say(
      header({ ':status': 103 }),
      header({ ...grpc, key: 'old', other: 'x' }),
      data(streamId, serving.subarray(0, 3)),
    )
    connection.say(data(streamId, serving.subarray(3)), trailers(streamId))
    const { message, header: headerOf } = await asked
    expect([message.status, headerOf('other'), headerOf('none')]).toEqual([1, 'x', undefined])
  })

  test.each<[string, Buffer[], status, string]>([
    [
      'trailers alone',
      [header({ ...grpc, 'grpc-status': 5, 'grpc-message': 'not%20there%E2%82%AC' }, true)],
      status.NOT_FOUND,
      'not there€',
    ],
    [
      'trailers after a header',
      [header(grpc), ended({ 'grpc-status': 7, 'grpc-message': '100%' })],
      status.PERMISSION_DENIED,
      '100%',
    ],
    [
      'trailers of an HTTP failure that say a status',
      [header({ ':status': 503, 'grpc-status': 5 }, true)],
      status.NOT_FOUND,
      '',
    ],
    ['no status', [header(grpc), ended({ other: 1 })], status.UNKNOWN, 'without a status'],
    ['a status beyond those there are', [header(grpc), ended({ 'grpc-status': 99 })], status.UNKNOWN, ''],
    ['a status that is no number', [header(grpc), ended({ 'grpc-status': 'ok' })], status.UNKNOWN, ''],
    ['the end with the body', [header(grpc), data(1, serving, flags.endStream)], status.UNKNOWN, 'without a status'],
    ['no message', [header(grpc), ended({ 'grpc-status': 0 })], status.INTERNAL, 'one message'],
    ['two messages', [header(grpc), data(1, Buffer.concat([serving, serving]))], status.INTERNAL, 'one message'],
    [
      'half a message',
      [header(grpc), data(1, serving.subarray(0, 4)), ended({ 'grpc-status': 0 })],
      status.INTERNAL,
      'not whole',
    ],
    [
      'a message of another type',
      [header(grpc), data(1, frameMessage(Buffer.from('\x0f'))), ended({ 'grpc-status': 0 })],
      status.INTERNAL,
      'cannot be read',
    ],
    ['a compressed message', [header(grpc), data(1, compressed)], status.INTERNAL, 'compressed'],
    ['a message over the limit', [header(grpc), data(1, huge)], status.RESOURCE_EXHAUSTED, 'larger than max'],
    ['a header over the limit', tooMuchHeader, status.RESOURCE_EXHAUSTED, 'header larger than max'],
    ['a body without a header', [data(1, serving)], status.INTERNAL, 'not whole'],
    ['a second header', [header(grpc), header(grpc)], status.INTERNAL, 'not whole'],
    ['trailers with the status of HTTP', [header(grpc), ended(grpc)], status.INTERNAL, 'not whole'],
    [
      'another content type',
      [header({ ':status': 200, 'content-type': 'text/html' })],
      status.UNKNOWN,
      'content type text/html',
    ],
    ['no content type', [header({ ':status': 200 })], status.UNKNOWN, 'content type none'],
    ['HTTP 400', [header({ ':status': 400 }, true)], status.INTERNAL, 'HTTP status 400'],
    ['HTTP 401', [header({ ':status': 401 })], status.UNAUTHENTICATED, 'HTTP status 401'],
    ['HTTP 403', [header({ ':status': 403 })], status.PERMISSION_DENIED, 'HTTP status 403'],
    ['HTTP 404', [header({ ':status': 404 })], status.UNIMPLEMENTED, 'HTTP status 404'],
    ['HTTP 429', [header({ ':status': 429 })], status.UNAVAILABLE, 'HTTP status 429'],
    ['HTTP 502', [header({ ':status': 502 })], status.UNAVAILABLE, 'HTTP status 502'],
    ['HTTP 500', [header({ ':status': 500 })], status.UNKNOWN, 'HTTP status 500'],
    ['a reset without an error', [reset(1, 0)], status.INTERNAL, 'code 0'],
    ['a reset as if we had cancelled', [reset(1, 8)], status.CANCELLED, 'code 8'],
    ['a reset for calm', [reset(1, 11)], status.RESOURCE_EXHAUSTED, 'code 11'],
    ['a reset for weak ciphers', [reset(1, 12)], status.PERMISSION_DENIED, 'code 12'],
    ['a reset that nobody knows', [reset(1, 4_711)], status.INTERNAL, 'code 4711'],
    ['garbage', [Buffer.alloc(100, 0xff)], status.UNAVAILABLE, 'the connection was lost'],
  ])('ends with the right status after %s', async (_what, frames, code, text) => {
    expect(await outcome(frames)).toEqual([code, expect.stringContaining(text)])
  })

  test('is lost with its connection, also when a goaway said that it would be answered', async () => {
    const lost = [status.UNAVAILABLE, 'the connection was lost']
    expect(await outcome([], 'leave')).toEqual(lost)
    expect(await outcome([goaway(1)], 'leave')).toEqual(lost)
  })

  test('keeps the text of a server that speaks of a deadline: it is not our own', async () => {
    const server = await startServer()
    const asked = lineTo(server).ask()
    const connection = await server.next()
    await connection.next(frameTypes.data)
    connection.say(header(grpc), ended({ 'grpc-status': 4, 'grpc-message': 'too late upstream' }))
    await expect(asked).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('too late upstream'),
    })
  })

  test('tells the server when the caller has aborted it, and keeps the reason', async () => {
    const server = await startServer()
    const stop = new AbortController()
    const asked = lineTo(server).ask({ signal: stop.signal })
    const connection = await server.next()
    await connection.next(frameTypes.data)
    stop.abort(new TypeError('enough'))
    await expect(asked).rejects.toThrow('enough')
    expect((await connection.next(frameTypes.reset)).payload.readUInt32BE()).toBe(8)
  })
})

describe('a call with a stream of answers', () => {
  async function watch() {
    const server = await startServer()
    const { line } = lineTo(server)
    const stop = new AbortController()
    const call = { method: Health.method.watch, request: {}, settings: { signal: stop.signal } }
    const stream = callStream(line, call)
    const first = stream.next()
    const connection = await server.next()
    await connection.next(frameTypes.headers)
    connection.say(header(grpc), data(1, serving))
    expect(await first).toMatchObject({ value: { status: 1 } })
    return { connection, stream, stop }
  }

  test('gives what arrived before its failure, and then the failure', async () => {
    const { connection, stream } = await watch()
    connection.say(data(1, Buffer.concat([serving, serving])), ended({ 'grpc-status': 14, 'grpc-message': 'gone' }))
    expect((await stream.next()).value).toMatchObject({ status: 1 })
    expect((await stream.next()).value).toMatchObject({ status: 1 })
    await expect(stream.next()).rejects.toMatchObject({ code: 'UNREACHABLE', message: expect.stringContaining('gone') })
  })

  test('has no deadline of its own: the text of a server that speaks of one stays', async () => {
    const { connection, stream } = await watch()
    connection.say(ended({ 'grpc-status': 4, 'grpc-message': 'too late upstream' }))
    await expect(stream.next()).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('too late upstream'),
    })
  })

  test('ends with the status OK', async () => {
    const { connection, stream } = await watch()
    connection.say(ended({ 'grpc-status': 0 }))
    expect(await stream.next()).toEqual({ done: true, value: undefined })
  })

  test('ends at once with the reason of its signal, and with the loop', async () => {
    const one = await watch()
    const next = one.stream.next()
    one.stop.abort(new TypeError('enough'))
    await expect(next).rejects.toThrow('enough')
    await one.connection.next(frameTypes.reset)
    const other = await watch()
    await other.stream.return()
    await other.connection.next(frameTypes.reset)
  })

  test('has the server wait while nobody reads, and go on when somebody does', async () => {
    const { connection, stream } = await watch()
    const message = frameMessage(Buffer.from('\x08\x01'.repeat(7_500)))
    const credits = () =>
      connection.seen.filter(({ type, streamId }) => type === frameTypes.windowUpdate && streamId === 1).length
    const sayMany = async (count: number) => {
      connection.say(...Array.from({ length: count }, () => data(1, message)), raw(frameTypes.ping, 0, '12345678'))
      await connection.next(frameTypes.ping)
    }
    await sayMany(4)
    expect(credits()).toBe(0)
    for (let i = 0; i < 4; i++) expect((await stream.next()).value).toMatchObject({ status: 1 })
    void stream.next().catch(() => {})
    await expect.poll(credits).toBe(1)
  })
})

describe('a call with streams both ways', () => {
  /** Its requests: this many, and then a wait that nothing ends. */
  function start(count: number, server: { readonly port: number }) {
    const left = Promise.withResolvers<void>()
    let given = 0
    const next = async () => {
      if (given++ < count) return { done: false as const, value: { prefix: `q${given}` } }
      return new Promise<never>(() => {})
    }
    const end = async () => {
      left.resolve()
      return { done: true as const, value: undefined }
    }
    const requests = { [Symbol.asyncIterator]: () => ({ next, return: end }) }
    const { line } = lineTo(server)
    const answers = callDuplex(line, { method: IPAM.method.managePrefixes, requests, settings: {} })
    return { answers, left: left.promise, given: () => given }
  }

  test('lets the requests go when the server has ended it, also while one is waited for', async () => {
    const server = await startServer()
    const { answers, left } = start(1, server)
    const first = answers.next()
    const connection = await server.next()
    await connection.next(frameTypes.data)
    connection.say(header(grpc), ended({ 'grpc-status': 0 }))
    expect(await first).toEqual({ done: true, value: undefined })
    await left
  })

  test('lets the requests go with the loop', async () => {
    const server = await startServer()
    const { answers, left } = start(0, server)
    const first = answers.next()
    const connection = await server.next()
    await connection.next(frameTypes.headers)
    connection.say(header(grpc), data(1, frameMessage(Buffer.from('\x0a\x02it'))))
    await first
    await answers.return()
    await left
    await connection.next(frameTypes.reset)
  })

  test('lets the requests go that it never asked for, as nobody answers', async () => {
    const { answers, left, given } = start(1, { port: await freePort() })
    await expect(answers.next()).rejects.toMatchObject({ code: 'UNREACHABLE' })
    await left
    expect(given()).toBe(0)
  })
})
