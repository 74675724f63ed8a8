import { create } from '@bufbuild/protobuf'
import {
  type sendUnaryData as Done,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
} from '@grpc/grpc-js'
import { expect, onTestFinished, test } from 'vitest'
import type { Clock } from '../../src/base/clock.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { decodeToken } from '../../src/identity/token.ts'
import { ConnectionEventSchema, MonitorConnection } from '../../src/nsm/generated/connection_pb.js'
import { IPAM, type PrefixRequest, type PrefixResponse, PrefixResponseSchema } from '../../src/nsm/generated/ipam_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import {
  NetworkServiceRegistry,
  NetworkServiceSchema,
  type NetworkService as Service,
} from '../../src/nsm/generated/registry_pb.js'
import { status } from '../../src/nsm/status-code.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { methodDefinition } from '../support/grpc-js-method.ts'
import { TestMesh } from './mesh.ts'

/* Our client and the server of grpc-js, over mutual TLS. */

const { register } = NetworkServiceRegistry.method
const { monitorConnections } = MonitorConnection.method
const { managePrefixes } = IPAM.method

interface Handlers {
  readonly register?: (call: ServerUnaryCall<Service, Service>, done: Done<Service>) => void
  readonly monitor?: (stream: ServerWritableStream<unknown, object>) => void
  readonly prefixes?: (stream: ServerDuplexStream<PrefixRequest, PrefixResponse>) => void
}

async function serve(
  { register: onRegister = () => {}, monitor = () => {}, prefixes = () => {} }: Handlers,
  { clock, ...options }: { readonly clock?: Clock; readonly 'grpc.max_concurrent_streams'?: number } = {},
) {
  const mesh = new TestMesh(undefined, clock)
  const { svid } = mesh.issue('/manager')
  const server = new Server(options)
  server.addService({ Register: methodDefinition(register) }, { Register: onRegister })
  server.addService({ Monitor: methodDefinition(monitorConnections) }, { Monitor: monitor })
  server.addService({ Prefixes: methodDefinition(managePrefixes) }, { Prefixes: prefixes })
  const pair = {
    private_key: Buffer.from(svid.privateKey.export({ type: 'pkcs8', format: 'pem' })),
    cert_chain: Buffer.from(certificatesToPem(svid.chain)),
  }
  const roots = Buffer.from(certificatesToPem([mesh.authority.rootDer]))
  const credentials = ServerCredentials.createSsl(roots, [pair], true)
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', credentials, (error, bound) => (error ? reject(error) : resolve(bound))),
  )
  onTestFinished(async () => {
    await mesh.close()
    server.forceShutdown()
  })
  return { server, channel: mesh.channel({ address: '127.0.0.1', port }) }
}

test('a call and its answer, with metadata both ways and a token for the server', async () => {
  const tokens: unknown[] = []
  const { channel } = await serve({
    register(call, done) {
      tokens.push(...call.metadata.get('nsm-client-token'))
      call.metadata.set('answer', 'a')
      call.sendMetadata(call.metadata)
      done(null, create(NetworkServiceSchema, { name: `${call.request.name}!` }))
    },
  })
  const { message, header, server } = await channel.unary(register, { name: 'x' }, { metadata: { own: 'value' } })
  expect([message.name, header('own'), header('answer')]).toEqual(['x!', 'value', 'a'])
  expect(server.spiffeId).toBe('spiffe://test.internal/manager')
  expect(decodeToken(String(tokens[0])).aud).toEqual(['spiffe://test.internal/manager'])
})

test.each([0, 1, 16_379, 16_380, 65_530, 65_536, 1_000_000, 3_900_000])(
  'an answer of %d bytes and more',
  async (length) => {
    const { channel } = await serve({
      register: (call, done) => done(null, create(NetworkServiceSchema, { name: call.request.name.repeat(length) })),
    })
    expect((await channel.unary(register, { name: 'x' })).message.name).toHaveLength(length)
  },
)

test('a question of 3 MB', async () => {
  const { channel } = await serve({
    register: (call, done) => done(null, create(NetworkServiceSchema, { name: String(call.request.name.length) })),
  })
  expect((await channel.unary(register, { name: 'x'.repeat(3_000_000) })).message.name).toBe('3000000')
})

test('an answer over the limit is refused, and the next call works', async () => {
  const { channel } = await serve({
    register: (call, done) => done(null, create(NetworkServiceSchema, { name: 'x'.repeat(Number(call.request.name)) })),
  })
  await expect(channel.unary(register, { name: '5000000' })).rejects.toMatchObject({ code: 'REFUSED' })
  expect((await channel.unary(register, { name: '5' })).message.name).toBe('xxxxx')
})

test.each([
  [status.NOT_FOUND, 'nothing: 100 % of ä€😀\n', 'NOT_FOUND'],
  [status.PERMISSION_DENIED, 'no sufficient privileges', 'REFUSED'],
  [status.UNAVAILABLE, 'later', 'UNREACHABLE'],
  [status.UNAUTHENTICATED, 'who', 'IDENTITY'],
])('the status %i and its text', async (code, details, expected) => {
  const { channel } = await serve({ register: (_call, done) => done({ code, details }) })
  await expect(channel.unary(register, {})).rejects.toMatchObject({
    code: expected,
    message: expect.stringContaining(details.trim()),
  })
})

test('a method that is not there', async () => {
  const { channel } = await serve({})
  await expect(channel.unary(NetworkService.method.request, {})).rejects.toMatchObject({ code: 'REFUSED' })
})

test('hundreds of calls at once, where the server allows ten', async () => {
  let [open, most] = [0, 0]
  const { channel } = await serve(
    {
      register(call, done) {
        most = Math.max(most, ++open)
        setImmediate(() => {
          open--
          done(null, create(NetworkServiceSchema, { name: call.request.name }))
        })
      },
    },
    { 'grpc.max_concurrent_streams': 10 },
  )
  const ids = Array.from({ length: 300 }, (_, i) => `c${i}`)
  const answers = await Promise.all(ids.map((id) => channel.unary(register, { name: id })))
  expect(answers.map(({ message }) => message.name)).toEqual(ids)
  expect(most).toBeLessThanOrEqual(10)
})

test('a long stream, read slowly', async () => {
  const { channel } = await serve({
    async monitor(stream) {
      for (let i = 0; i < 500; i++) {
        const event = create(ConnectionEventSchema, { connections: { [`c${i}`]: { id: 'x'.repeat(1_000) } } })
        if (!stream.write(event)) await new Promise((resolve) => stream.once('drain', resolve))
      }
      stream.end()
    },
  })
  const seen: string[] = []
  for await (const { connections } of channel.stream(monitorConnections, {})) {
    seen.push(...Object.keys(connections))
    if (seen.length % 50 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  expect(seen).toEqual(Array.from({ length: 500 }, (_, i) => `c${i}`))
})

test('a stream whose loop is left is cancelled at the server', async () => {
  const cancelled = Promise.withResolvers<void>()
  const { channel } = await serve({
    monitor(stream) {
      stream.once('cancelled', () => cancelled.resolve())
      stream.write(create(ConnectionEventSchema, {}))
    },
  })
  for await (const _event of channel.stream(monitorConnections, {})) break
  await cancelled.promise
})

test('streams both ways, each answer before the next question, and the end of ours first', async () => {
  const { channel } = await serve({
    prefixes(stream) {
      stream.on('data', ({ prefix }: PrefixRequest) =>
        stream.write(create(PrefixResponseSchema, { prefix: `${prefix}!` })),
      )
      stream.on('end', () => stream.end())
    },
  })
  const turns = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  async function* questions() {
    for (const [i, { promise }] of turns.entries()) {
      yield { prefix: `q${i}` }
      await promise
    }
  }
  const answers: string[] = []
  for await (const { prefix } of channel.duplex(managePrefixes, questions())) {
    turns[answers.length]?.resolve()
    answers.push(prefix)
  }
  expect(answers).toEqual(['q0!', 'q1!'])
})

test('a server that ends in the middle of a stream, and of a call', async () => {
  const begun = Promise.withResolvers<void>()
  const { channel, server } = await serve({
    monitor: (stream) => void stream.write(create(ConnectionEventSchema, {})),
    register: () => begun.resolve(),
  })
  const stream = channel.stream(monitorConnections, {})
  await stream.next()
  const asked = channel.unary(register, {})
  await begun.promise
  const [next, call] = [stream.next(), asked].map((one) => one.catch((error: unknown) => error))
  server.forceShutdown()
  expect(await next).toMatchObject({ code: 'UNREACHABLE' })
  expect(await call).toMatchObject({ code: 'UNREACHABLE' })
})

test('the deadline of a call reaches the server, which ends it too', async () => {
  const clock = createFakeClock(Date.now())
  const begun = Promise.withResolvers<unknown>()
  const ended = Promise.withResolvers<void>()
  const { channel } = await serve(
    {
      register(call) {
        call.once('cancelled', () => ended.resolve())
        begun.resolve(call.getDeadline())
      },
    },
    { clock },
  )
  const asked = channel.unary(register, {}, { timeoutMs: 200_000 }).catch((error: unknown) => error)
  expect(await begun.promise).toBeLessThan(Number.POSITIVE_INFINITY)
  await clock.advance(200_000)
  expect(await asked).toMatchObject({ code: 'UNREACHABLE', message: expect.stringContaining('within 200 s') })
  await ended.promise
})
