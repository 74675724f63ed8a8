import { createServer, type Server } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { afterEach, describe, expect, test } from 'vitest'
import type { Clock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { untilAborted } from '../../src/base/until-aborted.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { decodeToken, verifyToken } from '../../src/identity/token.ts'
import { MonitorConnection } from '../../src/nsm/generated/connection_pb.js'
import { Health, HealthCheckResponse_ServingStatus as Serving } from '../../src/nsm/generated/health_pb.js'
import { IPAM } from '../../src/nsm/generated/ipam_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { type MethodBinding, type PeerCall, serverStream, unary } from '../../src/nsm/grpc.ts'
import { FakeClock, TestMesh } from './mesh.ts'

const meshes: TestMesh[] = []
afterEach(async () => {
  for (const mesh of meshes.splice(0)) await mesh.close()
})
const startMesh = (trustDomain?: string, clock?: Clock) => {
  const mesh = new TestMesh(trustDomain, clock)
  meshes.push(mesh)
  return mesh
}

/** A service that remembers its calls. */
function recording(calls: PeerCall[], act: (call: PeerCall) => unknown = () => {}): MethodBinding[] {
  return [
    unary(NetworkService.method.close, async (_connection, call) => {
      calls.push(call)
      await act(call)
      return {}
    }),
  ]
}

describe('a channel', () => {
  test('ends its calls to a server whose domain is believed no longer, and no others', async () => {
    const [ours, theirs] = [startMesh('ours.test'), startMesh('theirs.test')]
    const both = new Map([...ours.authority.bundles, ...theirs.authority.bundles])
    const endless = [
      serverStream(MonitorConnection.method.monitorConnections, async function* (_selector, call) {
        yield {}
        await untilAborted(call.signal)
      }),
    ]
    const { svid } = ours.issue('/client')
    const source = createFixedSource({ svid, bundles: both })
    const watch = async (mesh: TestMesh, path: string) => {
      const server = createFixedSource({ ...mesh.issue(path), bundles: both })
      const stream = ours.channel(await mesh.serve(endless, server), source).stream(monitor, {})
      await stream.next()
      return () => stream.next()
    }
    const monitor = MonitorConnection.method.monitorConnections
    const nexts = [await watch(theirs, '/server'), await watch(ours, '/server')]
    const [left, stays] = nexts.map((next) => next())
    source.set({ svid, bundles: both })
    source.set({ svid, bundles: ours.authority.bundles })
    const ended = stays?.catch(() => 'ended')
    await expect(left).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(await Promise.race([ended, Promise.resolve('open')])).toBe('open')
  })

  test('lets a call end by itself when the root of the certificate it began with is gone, and a stream for 15 s', async () => {
    const clock = new FakeClock()
    const mesh = startMesh('ours.test', clock)
    const next = startMesh('ours.test', clock)
    const both = new Map([['ours.test', [next.authority.rootDer, mesh.authority.rootDer]]])
    const held = Promise.withResolvers<void>()
    const asked = Promise.withResolvers<void>()
    const monitor = MonitorConnection.method.monitorConnections
    const services = [
      ...recording([], () => {
        asked.resolve()
        return held.promise
      }),
      serverStream(monitor, async function* (_selector, call) {
        yield {}
        await untilAborted(call.signal)
      }),
    ]
    const server = await mesh.serve(services, createFixedSource({ ...mesh.issue('/server'), bundles: both }, clock))
    const source = createFixedSource({ ...next.issue('/client'), bundles: both }, clock)
    const channel = mesh.channel(server, source)
    const stream = channel.stream(monitor, {})
    await stream.next()
    const call = channel.unary(NetworkService.method.close, {}, { timeoutMs: 60_000 })
    await asked.promise
    source.set({ ...source.current(), bundles: next.authority.bundles })
    clock.advance(14_999)
    held.resolve()
    await expect(call).resolves.toBeDefined()
    await expect(channel.unary(NetworkService.method.close, {})).rejects.toMatchObject({ code: 'IDENTITY' })
    const ended = stream.next()
    clock.advance(1)
    await expect(ended).rejects.toMatchObject({ code: 'UNREACHABLE', message: expect.stringContaining('is closed') })
  })

  test('sends one token for the server on each call, signed with the key of its certificate', async () => {
    const mesh = startMesh()
    const calls: PeerCall[] = []
    const server = await mesh.serve(recording(calls))
    const channel = mesh.channel(server)
    await channel.unary(NetworkService.method.close, {})
    await channel.unary(NetworkService.method.close, {})
    expect(calls).toHaveLength(2)
    const { peer } = calls[1] ?? {}
    expect(peer?.spiffeId).toBe('spiffe://test.internal/client')
    expect(peer?.address).toBe('127.0.0.1')
    expect(peer?.localAddress).toBe('127.0.0.1')
    const claims = decodeToken(peer?.token ?? '')
    expect(claims).toMatchObject({ sub: peer?.spiffeId, aud: ['spiffe://test.internal/manager'] })
    expect(Math.floor((peer?.tokenExpiresMs ?? 0) / 1000)).toBe(claims.expMs / 1000)
    expect(verifyToken(peer?.token ?? '', peer?.certificate ?? new Uint8Array())).toBe(true)
  })

  test('dials anew when its SVID changes, and every token fits the certificate of its connection', async () => {
    const mesh = startMesh()
    const calls: PeerCall[] = []
    const server = await mesh.serve(recording(calls))
    const source = mesh.source('/client')
    const channel = mesh.channel(server, source)
    for (let i = 0; i < 4; i++) {
      await channel.unary(NetworkService.method.close, {})
      source.set(mesh.issue('/client'))
    }
    const certificates = new Set(calls.map(({ peer }) => Buffer.from(peer.certificate).toString('hex')))
    expect(certificates.size).toBe(4)
    for (const { peer } of calls) expect(verifyToken(peer.token ?? '', peer.certificate)).toBe(true)
  })

  test('a call that is under way survives the change of the SVID', async () => {
    const mesh = startMesh()
    const source = mesh.source('/client')
    const server = await mesh.serve(recording([], () => source.set(mesh.issue('/client'))))
    const channel = mesh.channel(server, source)
    await expect(channel.unary(NetworkService.method.close, {})).resolves.toBeDefined()
  })

  test('answers signed by the server fit the certificate the client saw, also after the server rotates', async () => {
    const mesh = startMesh()
    const own: { token: string }[] = []
    const source = mesh.source('/manager')
    const server = await mesh.serve(
      recording([], (call) => own.push(call.own.token(call.peer.spiffeId))),
      source,
    )
    const channel = mesh.channel(server)
    for (let i = 0; i < 3; i++) {
      const answer = await channel.unary(NetworkService.method.close, {})
      expect(verifyToken(own.at(-1)?.token ?? '', answer.server.certificate)).toBe(true)
      source.set(mesh.issue('/manager'))
    }
  })

  test('says IDENTITY at once when the server belongs to another domain', async () => {
    const server = await startMesh('other.internal').serve([])
    const channel = startMesh().channel(server)
    await expect(channel.unary(Health.method.check, {})).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test('says IDENTITY of each call, also of one that does not wait for the next attempt to connect', async () => {
    const channel = startMesh().channel(await startMesh('other.internal').serve([]))
    const find = () => channel.stream(MonitorConnection.method.monitorConnections, {}).next()
    for (let call = 0; call < 3; call++) await expect(find()).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test('says IDENTITY when the server does not accept it', async () => {
    const mesh = startMesh()
    const server = await mesh.serve([])
    const stranger = startMesh('stranger.internal')
    const known = { ...stranger.issue('/client'), bundles: mesh.authority.bundles }
    const source = stranger.source('/client')
    source.set(known)
    await expect(stranger.channel(server, source).unary(Health.method.check, {})).rejects.toMatchObject({
      code: 'IDENTITY',
    })
  })

  test('says UNREACHABLE at its deadline when nobody answers, and names the server', async () => {
    const silent = await listenSilently()
    const { port } = silent
    const channel = startMesh().channel({ address: '127.0.0.1', port })
    const asked = channel.unary(Health.method.check, {}, { timeoutMs: 200 })
    await expect(asked).rejects.toMatchObject({
      code: 'UNREACHABLE',
      exitCode: 7,
      message: `no answer from 127.0.0.1:${port} within 0.2 s`,
    })
    await silent.close()
  })

  test('waits for a server that is starting', async () => {
    const mesh = startMesh()
    const silent = await listenSilently()
    const { port } = silent
    await silent.close()
    const channel = mesh.channel({ address: '127.0.0.1', port })
    const asked = channel.unary(Health.method.check, {})
    const early = channel.unary(Health.method.check, {}, { wait: false })
    await expect(early).rejects.toMatchObject({ code: 'UNREACHABLE' })
    await expect(asked.constructor).toBe(Promise)
    channel.close()
    await expect(asked).rejects.toBeInstanceOf(NsmError)
  })

  test('stops a call when its signal is aborted, and tells the server', async () => {
    const mesh = startMesh()
    const stop = new AbortController()
    const gone = Promise.withResolvers<void>()
    const hold = (call: PeerCall) => {
      call.signal.addEventListener('abort', () => gone.resolve())
      stop.abort(new NsmError('USAGE', 'enough', ''))
      return gone.promise
    }
    const channel = mesh.channel(await mesh.serve(recording([], hold)))
    const asked = channel.unary(NetworkService.method.close, {}, { signal: stop.signal })
    await expect(asked).rejects.toMatchObject({ message: 'enough' })
    await gone.promise
  })

  test('a stream ends for the server when the loop is left', async () => {
    const mesh = startMesh()
    const gone = Promise.withResolvers<void>()
    const endless = serverStream(MonitorConnection.method.monitorConnections, async function* (_selector, call) {
      call.signal.addEventListener('abort', () => gone.resolve())
      for (;;) {
        yield {}
        await new Promise((resolve) => setImmediate(resolve))
      }
    })
    const channel = mesh.channel(await mesh.serve([endless]))
    let seen = 0
    for await (const _event of channel.stream(MonitorConnection.method.monitorConnections, {})) if (++seen === 3) break
    await gone.promise
    expect(seen).toBe(3)
  })

  test('refuses calls after close', async () => {
    const mesh = startMesh()
    const channel = mesh.channel(await mesh.serve([]))
    channel.close()
    await expect(channel.unary(Health.method.check, {})).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})

describe('the server', () => {
  test('tells the health of what it serves', async () => {
    const mesh = startMesh()
    const channel = mesh.channel(await mesh.serve(recording([])))
    const ask = async (service: string) => (await channel.unary(Health.method.check, { service })).message.status
    expect(await ask('')).toBe(Serving.SERVING)
    expect(await ask('networkservice.NetworkService')).toBe(Serving.SERVING)
    expect(await ask(IPAM.typeName)).toBe(Serving.SERVICE_UNKNOWN)
  })

  test('cuts garbage and keeps serving', async () => {
    const mesh = startMesh()
    const server = await mesh.serve(recording([]))
    for (const bytes of [
      Buffer.alloc(100_000, 0x41),
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.from([22, 3, 1, 255, 255]),
    ]) {
      await sendRaw(server.port, bytes)
    }
    await expect(mesh.channel(server).unary(NetworkService.method.close, {})).resolves.toBeDefined()
  })

  test('survives garbage and cut frames inside TLS, from anybody', async () => {
    const mesh = startMesh()
    const server = await mesh.serve(recording([]))
    const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
    const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])
    const hugeFrame = Buffer.from([0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1])
    const resets = Buffer.concat(
      Array.from({ length: 300 }, (_, i) => Buffer.from([0, 0, 4, 3, 0, 0, 0, 0, 2 * i + 1, 0, 0, 0, 8])),
    )
    const inputs = [
      Buffer.alloc(50_000, 0x5a),
      preface,
      Buffer.concat([preface, settings, hugeFrame]),
      Buffer.concat([preface, settings, resets]),
    ]
    for (const input of inputs) await sendInsideTls(server.port, input)
    await expect(mesh.channel(server).unary(NetworkService.method.close, {})).resolves.toBeDefined()
  })

  test('refuses a message over the limit and keeps the connection', async () => {
    const mesh = startMesh()
    const channel = mesh.channel(await mesh.serve(recording([])))
    const labels = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`l${i}`, 'x'.repeat(100_000)]))
    await expect(channel.unary(NetworkService.method.close, { labels })).rejects.toBeInstanceOf(NsmError)
    await expect(channel.unary(NetworkService.method.close, {})).resolves.toBeDefined()
  })

  test('gives CONFLICT for a port that is taken', async () => {
    const mesh = startMesh()
    const { startNsmServer } = await import('../../src/nsm/server.ts')
    const { silentLog } = await import('../../src/base/log.ts')
    const { port } = await mesh.serve([])
    const second = startNsmServer({
      source: mesh.source('/manager'),
      listen: { address: '127.0.0.1', port },
      services: [],
      clock: mesh.clock,
      log: silentLog,
    })
    await expect(second).rejects.toMatchObject({ code: 'CONFLICT' })
  })
})

function listenSilently(): Promise<{ readonly port: number; close(): Promise<void> }> {
  const sockets = new Set<{ destroy(): unknown }>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
  })
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const bound = server.address()
      const port = typeof bound === 'object' && bound ? bound.port : 0
      const close = () => {
        for (const socket of sockets) socket.destroy()
        return new Promise<void>((done) => server.close(() => done()))
      }
      resolve({ port, close })
    })
  })
}

/** Sends bytes after a handshake without a certificate, and waits for the server to cut it or 100 ms of its silence. */
function sendInsideTls(port: number, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['h2'] })
    socket.on('secureConnect', () => socket.write(bytes))
    socket.on('error', () => {})
    socket.on('data', () => {})
    socket.setTimeout(100, () => socket.destroy())
    socket.on('close', () => resolve())
  })
}

async function sendRaw(port: number, bytes: Uint8Array): Promise<void> {
  const { connect } = await import('node:net')
  await new Promise<void>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes))
    socket.on('error', () => resolve())
    socket.on('close', () => resolve())
    socket.on('data', () => {})
  })
}
