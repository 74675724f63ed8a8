import { once } from 'node:events'
import { constants } from 'node:http2'
import { connect, createSecureContext } from 'node:tls'
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import { status } from '@grpc/grpc-js'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { tlsMaterial } from '../../src/identity/tls-material.ts'
import { createAnswerCache } from '../../src/nsm/encoded-answers.ts'
import {
  type Connection,
  ConnectionEventSchema,
  ConnectionSchema,
  MonitorConnection,
} from '../../src/nsm/generated/connection_pb.js'
import { IPAM, PrefixRequestSchema, PrefixResponseSchema } from '../../src/nsm/generated/ipam_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import {
  NetworkServiceEndpointRegistry,
  NetworkServiceEndpointResponseSchema,
} from '../../src/nsm/generated/registry_pb.js'
import { duplexStream, type MethodBinding, type PeerCall, serverStream, unary } from '../../src/nsm/grpc.ts'
import { frame, frames } from '../support/grpc-frames.ts'
import { bearer, type Sent, type WireCaller } from '../support/wire-caller.ts'
import { closing, start } from './grpc-rig.ts'
import { FakeClock } from './mesh.ts'

const closePath = '/networkservice.NetworkService/Close'
const watchPath = '/connection.MonitorConnection/MonitorConnections'
const duplexPath = '/ipam.IPAM/ManagePrefixes'
const message = (fields: Partial<Connection> = {}) =>
  toBinary(ConnectionSchema, { ...fromBinary(ConnectionSchema, new Uint8Array()), ...fields })

/** The unary method; remembers what it was called with. */
function recorder() {
  const seen: { readonly connection: Connection; readonly call: PeerCall }[] = []
  const binding = unary(NetworkService.method.close, async (connection, call) => {
    seen.push({ connection, call })
    return {}
  })
  return { seen, binding }
}

/** Sends these bytes as the body of a call and reads its status. */
async function send(caller: WireCaller, bytes: readonly Uint8Array[], { path = closePath, ends = true } = {}) {
  const [first = new Uint8Array(), ...rest] = bytes
  const stream = caller.begin(path, first)
  const header: Record<string, unknown> = {}
  stream.on('response', (values) => void Object.assign(header, values))
  stream.on('trailers', (values) => void Object.assign(header, values))
  for (const piece of rest) stream.write(piece)
  if (ends) stream.end()
  stream.resume()
  await once(stream, 'close')
  return { code: Number(header['grpc-status']), message: String(header['grpc-message'] ?? ''), rst: stream.rstCode }
}

describe('a call', () => {
  test('reaches its method however its message is cut into DATA', async () => {
    const { seen, binding } = recorder()
    const { caller } = await start([binding])
    const bytes = frame(message({ id: 'one', labels: { a: 'x'.repeat(300) } }))
    const pieces = [...bytes].map((byte) => Buffer.from([byte]))
    expect(await send(caller, pieces)).toMatchObject({ code: status.OK })
    expect(await send(caller, [bytes])).toMatchObject({ code: status.OK })
    expect(seen.map(({ connection }) => connection.id)).toEqual(['one', 'one'])
    expect(seen[0]?.connection.labels).toEqual({ a: 'x'.repeat(300) })
  })

  test.each<[string, number, Uint8Array[]]>([
    ['without a message', status.INTERNAL, [Buffer.alloc(0)]],
    ['cut in its prefix', status.INTERNAL, [Buffer.from([0, 0])]],
    ['cut in its message', status.INTERNAL, [frame(message({ id: 'x' })).subarray(0, 6)]],
    ['with two messages', status.INTERNAL, [frame(message()), frame(message())]],
    ['with bytes that are no message', status.INTERNAL, [frame(Buffer.from([0x0a, 0xff]))]],
    ['with a compressed message', status.UNIMPLEMENTED, [Buffer.from([1, 0, 0, 0, 0])]],
    ['that says it has 4 GiB', status.RESOURCE_EXHAUSTED, [Buffer.from([0, 255, 255, 255, 255])]],
  ])('%s gets %i, its method hears nothing and the connection lives', async (_what, code, bytes) => {
    const { seen, binding } = recorder()
    const { caller } = await start([binding])
    expect(await send(caller, bytes)).toMatchObject({ code })
    expect(seen).toHaveLength(0)
    expect((await caller.call(closePath, message())).code).toBe(status.OK)
  })

  test('with a message over the limit is refused before it is sent, and told to stop', async () => {
    const { caller } = await start([recorder().binding])
    const answer = await send(caller, [Buffer.from([0, 0, 4, 0, 1])], { ends: false })
    expect(answer).toMatchObject({ code: status.RESOURCE_EXHAUSTED, rst: constants.NGHTTP2_NO_ERROR })
  })

  test.each([
    ['unfinished', 4],
    ['whole, but not the last word', 3],
  ])('cannot hold more than its share of messages: %s', async (_what, size) => {
    const { seen, binding } = recorder()
    const { caller } = await start([binding])
    const piece = Buffer.concat([Buffer.from([0, 0, size, 0, 0]), Buffer.alloc(0x30000)])
    const answers = Array.from({ length: 30 }, () => send(caller, [piece], { ends: false }))
    expect((await Promise.race(answers)).code).toBe(status.RESOURCE_EXHAUSTED)
    expect((await caller.call(closePath, message())).code).toBe(status.OK)
    expect(seen).toHaveLength(1)
  })

  test.each<[string, Sent, string, object]>([
    ['of a method that nobody has', {}, '/a.B/C%', { code: status.UNIMPLEMENTED, message: 'unknown method /a.B/C%' }],
    ['of a name of every object', {}, 'constructor', { code: status.UNIMPLEMENTED }],
    ['with a timeout that is none', { 'grpc-timeout': '1s' }, closePath, { code: status.INTERNAL }],
    ['with another media type', { 'content-type': 'application/json' }, closePath, { header: { ':status': '415' } }],
    ['with another method of HTTP', { ':method': 'PUT' }, closePath, { header: { ':status': '405' } }],
  ])('%s is answered at once', async (_what, metadata, path, expected) => {
    const { caller } = await start([recorder().binding])
    expect(await caller.call(path, message(), metadata)).toMatchObject(expected)
    expect((await caller.call(closePath, message())).code).toBe(status.OK)
  })

  test('whose headers are larger than ours may be is reset, and the next one is served', async () => {
    const { caller } = await start([recorder().binding])
    const large = caller.session.request({ ':method': 'POST', ':path': closePath, a: 'x'.repeat(40_000) })
    large.on('error', () => {})
    await new Promise((resolve) => large.on('close', resolve))
    expect(large.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
    expect((await caller.call(closePath, message())).code).toBe(status.OK)
  })

  test('has the metadata that the compressor of another HTTP/2 sent, call after call', async () => {
    const { seen, binding } = recorder()
    const { caller } = await start([binding])
    const key = fc.constantFrom('a', 'path', 'x-long-name', 'accept', 'via')
    const value = fc.oneof(
      fc.stringMatching(/^[!-~]([ -~]{0,60}[!-~])?$/),
      fc.constantFrom('x'.repeat(3_000), '0'.repeat(127)),
    )
    await fc.assert(
      fc.asyncProperty(fc.dictionary(key, value, { maxKeys: 5 }), async (metadata) => {
        expect((await caller.call(closePath, message(), metadata)).code).toBe(status.OK)
        const { call } = seen.at(-1) ?? {}
        for (const [name, sent] of Object.entries(metadata)) expect(call?.metadata(name)).toBe(sent)
      }),
    )
  })

  test('that fails has its text in percent code and our code beside it', async () => {
    const { caller } = await start([
      unary(NetworkService.method.close, async () => {
        throw new NsmError('NOT_FOUND', 'no 100 % Zürich\nhere', '')
      }),
    ])
    const answer = await caller.call(closePath, message())
    expect(answer).toMatchObject({ code: status.NOT_FOUND, message: 'no 100 % Zürich\nhere' })
    expect(answer.header).toMatchObject({ ':status': '200', 'nsm-error-code': 'NOT_FOUND' })
    expect(answer.header['grpc-message']).toBe('no 100 %25 Z%C3%BCrich%0Ahere')
  })

  test('gets the header that its method sets, on success and on failure, however long', async () => {
    const long = 'x'.repeat(20_000)
    const { caller } = await start([
      unary(NetworkService.method.close, async ({ id }, call) => {
        call.setHeader('path', long)
        if (id === 'bad') throw new NsmError('CONFLICT', 'taken', '')
        return {}
      }),
    ])
    expect((await caller.call(closePath, message())).header['path']).toBe(long)
    expect((await caller.call(closePath, message({ id: 'bad' }))).header['path']).toBe(long)
  })

  test('with a deadline knows what is left, and ends when it has passed though its method goes on', async () => {
    const clock = new FakeClock()
    const begun = Promise.withResolvers<PeerCall>()
    const { caller } = await start(
      [
        unary(NetworkService.method.close, async (_connection, call) => {
          begun.resolve(call)
          await new Promise(() => {})
          return {}
        }),
      ],
      clock,
    )
    const answer = caller.call(closePath, message(), { 'grpc-timeout': '5S' })
    const call = await begun.promise
    expect(call.remainingMs(clock.wallMs() + 1_000)).toBe(4_000)
    clock.advance(4_999)
    expect(call.signal.aborted).toBe(false)
    clock.advance(1)
    expect(await answer).toMatchObject({ code: status.DEADLINE_EXCEEDED })
    expect(call.signal.aborted).toBe(true)
  })

  test('that is cancelled aborts its signal, and what its method says then goes nowhere', async () => {
    const begun = Promise.withResolvers<PeerCall>()
    const goOn = Promise.withResolvers<object>()
    const { caller } = await start([
      unary(NetworkService.method.close, (_connection, call) => {
        begun.resolve(call)
        return goOn.promise
      }),
      recordedWatch([]),
    ])
    const stream = caller.begin(closePath, frame(message()))
    stream.end()
    const call = await begun.promise
    stream.close(constants.NGHTTP2_CANCEL)
    await new Promise((resolve) => call.signal.addEventListener('abort', resolve))
    goOn.resolve({})
    expect((await caller.call(watchPath, Buffer.alloc(0))).code).toBe(status.OK)
  })

  test('over the 100 of one connection waits for a place', async () => {
    const waiting: (() => void)[] = []
    const { caller } = await start([
      unary(NetworkService.method.close, () => new Promise((resolve) => waiting.push(() => resolve({})))),
    ])
    const answers = Array.from({ length: 130 }, () => caller.call(closePath, message()))
    await expect.poll(() => waiting.length).toBe(100)
    for (const go of waiting.splice(0)) go()
    await expect.poll(() => waiting.length).toBe(30)
    for (const go of waiting.splice(0)) go()
    expect((await Promise.all(answers)).every(({ code }) => code === status.OK)).toBe(true)
  })
})

/** A watch that gives these events and ends. */
function recordedWatch(ids: readonly string[]): MethodBinding {
  return serverStream(MonitorConnection.method.monitorConnections, async function* () {
    for (const id of ids) yield { connections: { [id]: { id } } }
  })
}

describe('a stream of answers', () => {
  const idsOf = (messages: readonly Buffer[]) =>
    messages.flatMap((one) => Object.keys(fromBinary(ConnectionEventSchema, one).connections))

  test('gives each answer and ends', async () => {
    const { caller } = await start([recordedWatch(['a', 'b', 'c'])])
    const answer = await caller.call(watchPath, Buffer.alloc(0))
    expect([answer.code, idsOf(answer.messages)]).toEqual([status.OK, ['a', 'b', 'c']])
  })

  test('keeps what it gave when it fails', async () => {
    const { caller } = await start([
      serverStream(MonitorConnection.method.monitorConnections, async function* () {
        yield { connections: { a: {} } }
        throw new NsmError('LOST', 'gone', '')
      }),
    ])
    const answer = await caller.call(watchPath, Buffer.alloc(0))
    expect([answer.code, answer.message, idsOf(answer.messages)]).toEqual([status.UNAVAILABLE, 'gone', ['a']])
  })

  test('stops its method while the caller does not read, and gives all when it does', async () => {
    let made = 0
    const total = 400
    const { caller } = await start([
      serverStream(MonitorConnection.method.monitorConnections, async function* () {
        for (; made < total; made++) yield { connections: { [made]: { id: 'x'.repeat(10_000) } } }
      }),
    ])
    const stream = caller.begin(watchPath, frame(new Uint8Array()))
    stream.end()
    await once(stream, 'response')
    await caller.session
      .request({ ':method': 'PUT', ':path': '/' })
      .resume()
      .once('close', () => {})
    await expect.poll(() => made).toBeGreaterThan(0)
    expect(made).toBeLessThan(total / 2)
    let read = 0
    for await (const _one of frames(stream)) read++
    expect(read).toBe(total)
  })

  test('ends its method when the caller leaves', async () => {
    const ended = Promise.withResolvers<void>()
    const { caller } = await start([
      serverStream(MonitorConnection.method.monitorConnections, async function* (_selector, call) {
        try {
          yield { connections: {} }
          await new Promise((resolve) => call.signal.addEventListener('abort', resolve))
        } finally {
          ended.resolve()
        }
      }),
    ])
    const events = caller.watch(watchPath, new Uint8Array())
    await events.next()
    await events.return()
    await ended.promise
  })

  test('lets its method go at the deadline, though the caller does not read', async () => {
    const clock = new FakeClock()
    const ended = Promise.withResolvers<void>()
    let made = 0
    const { mesh, caller } = await start(
      [
        serverStream(MonitorConnection.method.monitorConnections, async function* () {
          try {
            for (;;) yield { connections: { [made++]: { id: 'x'.repeat(10_000) } } }
          } finally {
            ended.resolve()
          }
        }),
      ],
      clock,
    )
    const own = bearer(mesh.issue('/client').svid, 'spiffe://test.internal/manager')
    const wanted = { ':method': 'POST', ':path': watchPath, 'content-type': 'application/grpc', 'grpc-timeout': '2S' }
    const stream = caller.session.request({ ...wanted, ...own })
    stream.on('error', () => {})
    stream.end(frame(new Uint8Array()))
    await expect.poll(() => made).toBeGreaterThan(5)
    clock.advance(2_000)
    await ended.promise
  })

  test('that is encoded already arrives whole, also when it is larger than one piece', async () => {
    const entries = Array.from({ length: 3_000 }, (_, i) => ({ name: `nse-${i}`, url: 'u'.repeat(200) }))
    let encoded = 0
    const answers = createAnswerCache(
      NetworkServiceEndpointResponseSchema,
      ({ name, url }: { name: string; url: string }) => {
        encoded++
        return { networkServiceEndpoint: { name, url } }
      },
    )
    const { caller } = await start([serverStream(NetworkServiceEndpointRegistry.method.find, () => answers(entries))])
    for (const _ of [1, 2]) {
      const { code, messages } = await caller.call('/registry.NetworkServiceEndpointRegistry/Find', Buffer.alloc(0))
      const names = messages.map(
        (one) => fromBinary(NetworkServiceEndpointResponseSchema, one).networkServiceEndpoint?.name,
      )
      expect([code, names]).toEqual([status.OK, entries.map(({ name }) => name)])
    }
    expect(encoded).toBe(3_000)
  })
})

describe('streams both ways', () => {
  const asked = (...prefixes: string[]) =>
    Buffer.concat(prefixes.map((prefix) => frame(toBinary(PrefixRequestSchema, { ...blank, prefix }))))
  const blank = fromBinary(PrefixRequestSchema, new Uint8Array())
  const echo = duplexStream(IPAM.method.managePrefixes, async function* (requests) {
    for await (const { prefix } of requests) yield { prefix }
  })

  test('answer each request, several in one piece and one in several, and end with the caller', async () => {
    const { caller } = await start([echo])
    const stream = caller.begin(duplexPath, asked('1', '2'))
    const [head, tail] = [asked('3').subarray(0, 4), asked('3').subarray(4)]
    stream.write(head)
    stream.end(tail)
    const found: string[] = []
    for await (const one of frames(stream)) found.push(fromBinary(PrefixResponseSchema, one).prefix)
    expect(found).toEqual(['1', '2', '3'])
  })

  test('hold up a caller whose requests nobody reads, and lose none', async () => {
    const go = Promise.withResolvers<void>()
    const { caller } = await start([
      duplexStream(IPAM.method.managePrefixes, async function* (requests) {
        await go.promise
        let count = 0
        for await (const _request of requests) count++
        yield { prefix: String(count) }
      }),
    ])
    const stream = caller.begin(duplexPath, asked('first'))
    for (let i = 0; i < 999; i++) stream.write(asked('x'.repeat(1_000)))
    stream.end()
    await new Promise((resolve) => caller.session.ping(resolve))
    expect(stream.writableLength).toBeGreaterThan(500_000)
    go.resolve()
    const found: string[] = []
    for await (const one of frames(stream)) found.push(fromBinary(PrefixResponseSchema, one).prefix)
    expect(found).toEqual(['1000'])
  })

  test('end with a status when a request cannot be read', async () => {
    const { caller } = await start([echo])
    expect(await send(caller, [asked('1'), frame(Buffer.from([0x0a, 0xff]))], { path: duplexPath })).toMatchObject({
      code: status.INTERNAL,
    })
  })

  test('throw into their method when the caller goes, which is not the end of the requests', async () => {
    const outcome = Promise.withResolvers<string>()
    const { caller } = await start([
      duplexStream(IPAM.method.managePrefixes, async function* (requests) {
        yield { prefix: 'ready' }
        try {
          for await (const _request of requests);
          outcome.resolve('ended')
        } catch (error) {
          outcome.resolve(error instanceof NsmError ? error.code : 'strange')
        }
      }),
    ])
    const stream = caller.begin(duplexPath, asked('1'))
    await once(stream, 'data')
    caller.close()
    expect(await outcome.promise).toBe('UNREACHABLE')
  })
})

describe('a connection', () => {
  test('is asked to be renewed after half an hour, and closed when its calls have had their time', async () => {
    const clock = new FakeClock()
    const { caller } = await start([hanging()], clock)
    const goaways: number[] = []
    caller.session.on('goaway', (_code, lastStreamId) => goaways.push(lastStreamId))
    const stream = caller.begin(watchPath, frame(new Uint8Array()))
    stream.end()
    stream.resume()
    await once(stream, 'response')
    for (let pings = 1; pings < 1_800_000 / 120_000; pings++) await passPing(clock, caller)
    clock.advance(120_000)
    await expect.poll(() => goaways).toEqual([2 ** 31 - 1])
    clock.advance(5_000)
    await expect.poll(() => goaways).toHaveLength(2)
    expect(stream.closed).toBe(false)
    clock.advance(30_000)
    await once(stream, 'close')
  })

  test('is asked to be renewed while the certificate of its caller has a quarter of its life left', async () => {
    const clock = new FakeClock()
    const { dial } = await start([hanging()], clock)
    const caller = await dial(240_000)
    let isAsked = false
    caller.session.on('goaway', () => {
      isAsked = true
    })
    const stream = caller.begin(watchPath, frame(new Uint8Array()))
    stream.end()
    stream.resume()
    await once(stream, 'response')
    await passPing(clock, caller)
    clock.advance(59_000)
    await caller.call('/nothing', message())
    expect(isAsked).toBe(false)
    clock.advance(1_000)
    await expect.poll(() => isAsked).toBe(true)
    expect(stream.closed).toBe(false)
  })

  test('is closed when its other side does not answer pings any more', async () => {
    const clock = new FakeClock()
    const { mesh, server } = await start([recorder().binding], clock)
    const socket = connect({
      ...{ host: '127.0.0.1', port: server.port, ALPNProtocols: ['h2'], servername: 'x.internal' },
      secureContext: createSecureContext(tlsMaterial(mesh.issue('/member'))),
      checkServerIdentity: () => undefined,
    })
    closing.push(() => socket.destroy())
    const closed = once(socket, 'close')
    await once(socket, 'data')
    clock.advance(120_000)
    await once(socket, 'data')
    clock.advance(19_999)
    expect(socket.destroyed).toBe(false)
    clock.advance(1)
    await closed
  })

  test('lives as long as its other side answers pings', async () => {
    const clock = new FakeClock()
    const { caller } = await start([recorder().binding], clock)
    for (let i = 0; i < 5; i++) {
      expect((await caller.call(closePath, message())).code).toBe(status.OK)
      await passPing(clock, caller)
      clock.advance(19_000)
    }
    expect((await caller.call(closePath, message())).code).toBe(status.OK)
  })

  /** Goes to the next ping, and waits until its answer has arrived. */
  async function passPing(clock: FakeClock, caller: WireCaller) {
    const pinged = once(caller.session, 'ping')
    clock.advance(120_000)
    await pinged
    await caller.call('/nothing', message())
  }
})

/** A watch that says one thing and then nothing. */
function hanging(): MethodBinding {
  return serverStream(MonitorConnection.method.monitorConnections, async function* (_selector, call) {
    yield { connections: {} }
    await new Promise((resolve) => call.signal.addEventListener('abort', resolve))
  })
}

describe('a server that stops', () => {
  test('ends streams with UNAVAILABLE, lets calls finish, takes no new ones and is gone', async () => {
    const begun = Promise.withResolvers<void>()
    const go = Promise.withResolvers<object>()
    const { server, caller } = await start([
      hanging(),
      unary(NetworkService.method.close, () => {
        begun.resolve()
        return go.promise
      }),
    ])
    const call = caller.call(closePath, message())
    const watch = caller.call(watchPath, new Uint8Array())
    await begun.promise
    const stopped = server.stop()
    expect(await watch).toMatchObject({ code: status.UNAVAILABLE, message: 'the server is stopping' })
    go.resolve({})
    expect((await call).code).toBe(status.OK)
    await stopped
    await server.stop()
  })

  test('does not wait for a call that hangs', async () => {
    const clock = new FakeClock()
    const begun = Promise.withResolvers<void>()
    const { server, caller } = await start(
      [
        unary(NetworkService.method.close, () => {
          begun.resolve()
          return new Promise(() => {})
        }),
      ],
      clock,
    )
    const closed = once(caller.session, 'close')
    void caller.call(closePath, message()).catch(() => {})
    await begun.promise
    const stopped = server.stop()
    clock.advance(1_000)
    await stopped
    await closed
  })
})
