import { once } from 'node:events'
import { constants } from 'node:http2'
import { create, toBinary } from '@bufbuild/protobuf'
import { status } from '@grpc/grpc-js'
import { describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { openAnonymousChannel } from '../../src/nsm/channel.ts'
import { ConnectionEventSchema, MonitorConnection } from '../../src/nsm/generated/connection_pb.js'
import { ExchangeRequestSchema, IdentityService } from '../../src/nsm/generated/identity_pb.js'
import { IPAM, PrefixRequestSchema, Type } from '../../src/nsm/generated/ipam_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { duplexStream, openUnary, serverStream, unary } from '../../src/nsm/grpc.ts'
import { frame } from '../support/grpc-frames.ts'
import { closing, start } from './grpc-rig.ts'
import { FakeClock } from './mesh.ts'

const { request: requestMethod, close: closeMethod } = NetworkService.method
const requestPath = '/networkservice.NetworkService/Request'
const watchPath = '/connection.MonitorConnection/MonitorConnections'
const closer = unary(closeMethod, async () => ({}))

describe('a request of many small parts', () => {
  const parts = (bytes: number) => Buffer.alloc(bytes, Buffer.from([0x12, 0]))

  test('is read up to 256 KiB and refused beyond, before it is read', async () => {
    const counts: number[] = []
    const seen = unary(requestMethod, async ({ mechanismPreferences }) => {
      counts.push(mechanismPreferences.length)
      return {}
    })
    const { caller } = await start([seen])
    expect((await caller.call(requestPath, parts(256 * 1024))).code).toBe(status.OK)
    expect((await caller.call(requestPath, parts(256 * 1024 + 2))).code).toBe(status.RESOURCE_EXHAUSTED)
    expect(counts).toEqual([128 * 1024])
  })

  test('is refused to our own client too, however much of it is still to be sent', async () => {
    const { mesh, server } = await start([closer])
    const labels = { large: 'x'.repeat(1024 * 1024) }
    await expect(mesh.channel(server).unary(closeMethod, { labels })).rejects.toThrow('larger than this server reads')
  })

  test('is refused beyond 32 KiB without a certificate', async () => {
    const exchange = openUnary(IdentityService.method.exchange, async () => ({}))
    const { server, mesh } = await start([exchange])
    const channel = openAnonymousChannel({ target: server, bundles: mesh.issue('/x').bundles, clock: systemClock })
    closing.push(() => channel.close())
    const asked = (bytes: number) =>
      channel.unary(IdentityService.method.exchange, create(ExchangeRequestSchema, { csr: new Uint8Array(bytes) }))
    await asked(30 * 1024)
    await expect(asked(33 * 1024)).rejects.toThrow('larger than this server reads')
  })

  test('is refused beyond 64 KiB where the call may last', async () => {
    const watch = serverStream(MonitorConnection.method.monitorConnections, async function* () {})
    const { caller } = await start([watch])
    expect((await caller.call(watchPath, parts(64 * 1024))).code).toBe(status.OK)
    expect((await caller.call(watchPath, parts(64 * 1024 + 2))).code).toBe(status.RESOURCE_EXHAUSTED)
  })

  test('stays bytes until it is the turn of its handler', async () => {
    const go = Promise.withResolvers<void>()
    const begun = Promise.withResolvers<void>()
    const slow = duplexStream(IPAM.method.managePrefixes, async function* (requests) {
      for await (const { prefix } of requests) {
        begun.resolve()
        await go.promise
        yield { prefix }
      }
    })
    const { caller } = await start([slow, closer])
    const good = frame(toBinary(PrefixRequestSchema, create(PrefixRequestSchema, { type: Type.ALLOCATE })))
    const stream = caller.begin('/ipam.IPAM/ManagePrefixes', Buffer.concat([good, frame(Buffer.from([0x0a, 0xff]))]))
    const trailers = once(stream, 'trailers')
    let isEnded = false
    void trailers.then(() => {
      isEnded = true
    })
    stream.resume()
    await begun.promise
    expect((await caller.call('/networkservice.NetworkService/Close', Buffer.alloc(0))).code).toBe(status.OK)
    expect(isEnded).toBe(false)
    go.resolve()
    expect((await trailers)[0]).toMatchObject({ 'grpc-status': String(status.INTERNAL) })
  })

  test('without any bytes each cannot wait in thousands', async () => {
    const deaf = duplexStream(IPAM.method.managePrefixes, async function* (_requests, call) {
      await new Promise((resolve) => call.signal.addEventListener('abort', resolve))
      yield {}
    })
    const { caller } = await start([deaf])
    const empty = Buffer.alloc(60_000)
    const streams = Array.from({ length: 5 }, () => caller.begin('/ipam.IPAM/ManagePrefixes', empty))
    const [header] = await Promise.race(streams.map((stream) => once(stream, 'response')))
    expect(header).toMatchObject({ 'grpc-status': String(status.RESOURCE_EXHAUSTED) })
  })
})

describe('a caller that takes nothing', () => {
  const full = serverStream(MonitorConnection.method.monitorConnections, async function* () {
    yield create(ConnectionEventSchema, { connections: { one: { labels: { large: 'x'.repeat(100_000) } } } })
  })

  test('loses its call after a minute at most', async () => {
    const clock = new FakeClock()
    const { caller } = await start([full], clock)
    const stream = caller.begin(watchPath, frame(Buffer.alloc(0)))
    stream.end()
    const closed = new Promise((resolve) => stream.on('close', resolve))
    await once(stream, 'response')
    for (let looks = 0; looks < 2; looks++) {
      expect(stream.destroyed).toBe(false)
      clock.advance(30_000)
    }
    stream.resume()
    await closed
    expect(stream.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  })
})

test('a caller whose HTTP/2 keeps no table of headers is served', async () => {
  const { caller } = await start([closer])
  caller.session.settings({ headerTableSize: 0 })
  await once(caller.session, 'localSettings')
  for (let i = 0; i < 3; i++) {
    expect((await caller.call('/networkservice.NetworkService/Close', Buffer.alloc(0))).code).toBe(status.OK)
  }
})

test('a server that stops says so to callers that have nothing but watches', async () => {
  const hanging = serverStream(MonitorConnection.method.monitorConnections, async function* (_selector, call) {
    yield {}
    await new Promise((resolve) => call.signal.addEventListener('abort', resolve))
  })
  const { server, caller } = await start([hanging])
  const answered = caller.call(watchPath, Buffer.alloc(0))
  const stream = caller.begin(watchPath, frame(Buffer.alloc(0)))
  stream.end()
  stream.resume()
  await once(stream, 'response')
  const stopped = server.stop()
  expect(await answered).toMatchObject({ code: status.UNAVAILABLE, message: 'the server is stopping' })
  await stopped
})
