import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import type { IdentityState } from '../../src/identity/source.ts'
import { SpiffeWorkloadAPI } from '../../src/nsm/generated/workload_pb.js'
import type { GrpcConnection } from '../../src/nsm/grpc-connection.ts'
import { serveLocally } from '../../src/nsm/local-connection.ts'
import type { StreamMethod, UnaryMethod } from '../../src/nsm/service-definition.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import type { JwtSource } from '../../src/nsm/workload-jwt.ts'
import { type ServedIdentity, workloadService } from '../../src/nsm/workload-service.ts'
import { authorityOf, identityOf } from '../identity/fixtures.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { methodDefinition } from '../support/grpc-js-method.ts'
import { scratchDir } from '../support/scratch.ts'

const a = authorityOf('a.example')
const b = authorityOf('b.example')
const { method: methods } = SpiffeWorkloadAPI
const { signal: never } = new AbortController()
const withHeader = new Metadata()
withHeader.set('workload.spiffe.io', 'true')

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

let served: readonly ServedIdentity[]
const listeners = new Set<() => void>()
const change = (next: readonly ServedIdentity[]) => {
  served = next
  for (const listener of [...listeners]) listener()
}
const identities = {
  current: () => served,
  onChange(listener: () => void) {
    listeners.add(listener)
    return () => void listeners.delete(listener)
  },
}

let path: string
const connections: GrpcConnection[] = []
const sockets: Socket[] = []
beforeEach(async () => {
  served = [identityOf(a, '/app')]
  listeners.clear()
  sockets.length = 0
  path = await serve()
})

async function serve(clock = systemClock) {
  const at = join(await scratchDir(), 'w.sock')
  const server = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    connections.push(serveLocally(socket, workloadService(identities), clock))
  })
  await once(server.listen(at), 'listening')
  closers.push(async () => {
    server.close()
    await Promise.all(connections.splice(0).map((connection) => connection.stop()))
  })
  return at
}

const dial = (at = path) => {
  const client = new Client(`unix://${at}`, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 })
  closers.push(() => client.close())
  return client
}

/** The one answer, or the status that the call ended with. */
function ask(method: UnaryMethod, request: Record<string, unknown>, metadata = withHeader): Promise<unknown> {
  const { path: name, requestSerialize, responseDeserialize } = methodDefinition(method)
  return new Promise((resolve) => {
    const onAnswer = (error: ServiceError | null, answer?: unknown) => resolve(error?.code ?? answer)
    dial().makeUnaryRequest(name, requestSerialize, responseDeserialize, request, metadata, onAnswer)
  })
}

/** The next answers of a stream; `next` gives the status once it is over. */
function open(method: StreamMethod, metadata = withHeader, client = dial()) {
  const { path: name, requestSerialize, responseDeserialize } = methodDefinition(method)
  const stream = client.makeServerStreamRequest(name, requestSerialize, responseDeserialize, {}, metadata)
  const answers = stream[Symbol.asyncIterator]()
  const next = () =>
    answers.next().then(
      ({ value, done }) => (done ? status.OK : value),
      ({ code }: ServiceError) => code,
    )
  return { stream, next }
}

const follow = async (choice = {}) => {
  const source = await openWorkloadApi({ socket: `unix://${path}`, choice, clock: systemClock, log: silentLog })
  closers.push(() => source.close())
  return source
}
/** The bundles of an answer, each in hexadecimal. */
const bundlesOf = (answer: unknown) =>
  Object.fromEntries(
    Object.entries<Uint8Array>(Reflect.get(Object(answer), 'bundles')).map(([id, der]) => [
      id,
      Buffer.from(der).toString('hex'),
    ]),
  )
const keyOf = ({ svid }: IdentityState) => svid.privateKey.export({ type: 'pkcs8', format: 'der' })
const federated = (state: IdentityState): IdentityState => ({
  ...state,
  bundles: new Map([...state.bundles, ['b.example', [b.rootDer]]]),
})

describe('the X.509 profile', () => {
  test('gives our own client the identity that is served, with its key and the bundles of every domain', async () => {
    const state = federated(identityOf(a, '/app'))
    change([state])
    const got = (await follow()).current()
    expect(got.svid.spiffeId).toBe('spiffe://a.example/app')
    expect(got.svid.chain.map((der) => Buffer.from(der))).toEqual(state.svid.chain.map((der) => Buffer.from(der)))
    expect(keyOf(got)).toEqual(keyOf(state))
    expect([...got.bundles.keys()].sort()).toEqual(['a.example', 'b.example'])
  })

  test('pushes each rotation to open streams', async () => {
    const source = await follow()
    const before = source.current()
    const rotated = new Promise<IdentityState>((resolve) => source.onChange(resolve))
    change([identityOf(a, '/app')])
    expect(keyOf(await rotated)).not.toEqual(keyOf(before))
  })

  test('says nothing where nothing of what it said has changed', async () => {
    const state = identityOf(a, '/app')
    change([state])
    const { next } = open(methods.fetchX509SVID)
    await next()
    change([{ svid: { ...state.svid }, bundles: new Map(state.bundles) }])
    await new Promise((resolve) => setImmediate(resolve))
    change([identityOf(b, '/app')])
    expect(await next()).toMatchObject({ svids: [{ spiffeId: 'spiffe://b.example/app' }] })
  })

  test('gives several identities, the first as the default', async () => {
    change([identityOf(a, '/one'), identityOf(b, '/two')])
    expect((await follow()).current().svid.spiffeId).toBe('spiffe://a.example/one')
    const other = (await follow({ spiffeId: 'spiffe://b.example/two' })).current()
    expect([...other.bundles.keys()]).toEqual(['b.example'])
    const { next } = open(methods.fetchX509SVID)
    expect(await next()).toMatchObject({ svids: [{}, {}], federatedBundles: {} })
  })

  test('gives bundles alone, the own domain among them', async () => {
    change([federated(identityOf(a, '/app'))])
    const { next } = open(methods.fetchX509Bundles)
    expect(Object.keys(bundlesOf(await next())).sort()).toEqual(['spiffe://a.example', 'spiffe://b.example'])
  })

  test('believes the identity of a domain about that domain, whoever else has an older bundle of it', async () => {
    const stale = {
      ...identityOf(a, '/one'),
      bundles: new Map([
        ['a.example', [a.rootDer]],
        ['b.example', [a.rootDer]],
      ]),
    }
    change([stale, identityOf(b, '/two')])
    const { next } = open(methods.fetchX509Bundles)
    expect(bundlesOf(await next())['spiffe://b.example']).toBe(Buffer.from(b.rootDer).toString('hex'))
  })

  test('sends who reads slowly the newest state, not each one', async () => {
    const { stream, next } = open(methods.fetchX509Bundles)
    await next()
    stream.pause()
    for (let i = 0; i < 1_000; i++) change([identityOf(i % 2 ? a : b, '/app')])
    change([federated(identityOf(a, '/last'))])
    stream.resume()
    let messages = 0
    for (let domains = 0; domains < 2; messages++) {
      domains = Object.keys(bundlesOf(await next())).length
    }
    expect(messages).toBeLessThan(20)
  })

  test('ends with PERMISSION_DENIED when the identity is withdrawn, and is refused until there is one', async () => {
    const { next } = open(methods.fetchX509SVID)
    await next()
    change([])
    expect(await next()).toBe(status.PERMISSION_DENIED)
    expect(await open(methods.fetchX509Bundles).next()).toBe(status.PERMISSION_DENIED)
    change([identityOf(a, '/app')])
    expect(await open(methods.fetchX509SVID).next()).toMatchObject({ svids: [{ spiffeId: 'spiffe://a.example/app' }] })
  })

  test('forgets who went away', async () => {
    const { stream, next } = open(methods.fetchX509SVID)
    await next()
    expect(listeners.size).toBe(1)
    stream.cancel()
    await expect.poll(() => listeners.size).toBe(0)
  })
})

describe('the security header', () => {
  const cases = [undefined, 'false', 'TRUE', ''].flatMap((value) =>
    Object.values(methods).map((one) => [value, one] as const),
  )
  test.each(cases.map(([value, method]) => [`${value}`, method.name, value, method] as const))(
    '%s is not enough for %s',
    async (_value, _name, value, method) => {
      const metadata = new Metadata()
      if (value !== undefined) metadata.set('workload.spiffe.io', value)
      const got = method.methodKind === 'unary' ? await ask(method, {}, metadata) : await open(method, metadata).next()
      expect(got).toBe(status.INVALID_ARGUMENT)
    },
  )
})

/** An agent that signs tokens, and what it was asked. */
const agent = (): { jwt: JwtSource; asked: object[] } => {
  const asked: object[] = []
  const jwt: JwtSource = {
    async fetch(request) {
      asked.push(request)
      return {
        $typeName: 'JWTSVIDResponse',
        svids: [{ $typeName: 'JWTSVID', spiffeId: request.spiffeId, svid: 't', hint: '' }],
      }
    },
    async validate({ svid }) {
      if (svid !== 't') throw new NsmError('USAGE', 'the SPIFFE agent: token is malformed', 'ask again')
      return {
        $typeName: 'ValidateJWTSVIDResponse',
        spiffeId: 'spiffe://a.example/app',
        claims: { aud: ['x'], n: 1 },
      }
    },
    async *bundles() {
      yield { $typeName: 'JWTBundlesResponse', bundles: { 'spiffe://a.example': new Uint8Array([1]) } }
    },
  }
  return { jwt, asked }
}

describe('the JWT profile', () => {
  test('is not implemented where the authority signs no tokens', async () => {
    expect(await ask(methods.fetchJWTSVID, { audience: ['x'] })).toBe(status.UNIMPLEMENTED)
    expect(await ask(methods.validateJWTSVID, { audience: 'x', svid: 'a.b.c' })).toBe(status.UNIMPLEMENTED)
    expect(await open(methods.fetchJWTBundles).next()).toBe(status.UNIMPLEMENTED)
  })

  test('is the agent’s, for no other identity than the one that is served', async () => {
    const { jwt, asked } = agent()
    change([{ ...identityOf(a, '/app'), jwt }])
    const spiffeId = 'spiffe://a.example/app'
    expect(await ask(methods.fetchJWTSVID, { audience: ['x'] })).toMatchObject({ svids: [{ spiffeId, svid: 't' }] })
    expect(await ask(methods.fetchJWTSVID, { audience: ['x'], spiffeId })).toMatchObject({ svids: [{ spiffeId }] })
    const other = { audience: ['x'], spiffeId: 'spiffe://a.example/other' }
    expect(await ask(methods.fetchJWTSVID, other)).toBe(status.PERMISSION_DENIED)
    expect(await ask(methods.fetchJWTSVID, {})).toBe(status.INVALID_ARGUMENT)
    expect(asked).toEqual([
      { audience: ['x'], spiffeId },
      { audience: ['x'], spiffeId },
    ])
  })

  test('says what a token says, and what is wrong with one', async () => {
    change([{ ...identityOf(a, '/app'), jwt: agent().jwt }])
    const claims = { aud: ['x'], n: 1 }
    expect(await ask(methods.validateJWTSVID, { audience: 'x', svid: 't' })).toMatchObject({ claims })
    expect(await ask(methods.validateJWTSVID, { audience: 'x', svid: 'u' })).toBe(status.INVALID_ARGUMENT)
  })

  test('believes a token that one of several authorities believes, and says what the first found wrong else', async () => {
    const strict: JwtSource = {
      ...agent().jwt,
      validate: () => Promise.reject(new NsmError('PERMISSION', 'not ours', 'ask')),
    }
    const states = [identityOf(a, '/app'), identityOf(b, '/app')] as const
    change([
      { ...states[0], jwt: strict },
      { ...states[1], jwt: agent().jwt },
    ])
    expect(await ask(methods.validateJWTSVID, { audience: 'x', svid: 't' })).toMatchObject({ claims: { n: 1 } })
    expect(await ask(methods.validateJWTSVID, { audience: 'x', svid: 'u' })).toBe(status.PERMISSION_DENIED)
  })

  test('gives the keys', async () => {
    change([{ ...identityOf(a, '/app'), jwt: agent().jwt }])
    expect(bundlesOf(await open(methods.fetchJWTBundles).next())).toEqual({ 'spiffe://a.example': '01' })
  })
})

describe('the keys of an agent', () => {
  test('end with its identity, though another one is served', async () => {
    const bundles = async function* (signal: AbortSignal) {
      yield* agent().jwt.bundles(signal)
      await untilAborted(signal)
    }
    const known = { ...identityOf(a, '/app'), jwt: { ...agent().jwt, bundles } }
    const other = identityOf(b, '/other')
    change([known, other])
    const { next } = open(methods.fetchJWTBundles)
    await next()
    change([known])
    change([other])
    expect(await next()).toBe(status.UNAVAILABLE)
    expect(listeners.size).toBe(0)
    expect(await open(methods.fetchJWTBundles).next()).toBe(status.UNIMPLEMENTED)
  })
})

describe('the JWT profile of our own client', () => {
  const spiffeId = 'spiffe://a.example/app'
  const source = async (jwt?: JwtSource) => {
    change([{ ...identityOf(a, '/app'), ...(jwt ? { jwt } : {}) }])
    const { jwt: tokens } = await follow()
    if (!tokens) throw new Error('the client has no tokens')
    return tokens
  }

  test('fetches and validates tokens, and follows the keys', async () => {
    const jwt = await source(agent().jwt)
    expect((await jwt.fetch({ audience: ['x'], spiffeId }, never)).svids).toMatchObject([{ spiffeId, svid: 't' }])
    expect(await jwt.validate({ audience: 'x', svid: 't' }, never)).toMatchObject({ spiffeId, claims: { n: 1 } })
    const seen: object[] = []
    for await (const keys of jwt.bundles(never)) seen.push(bundlesOf(keys))
    expect(seen).toEqual([{ 'spiffe://a.example': '01' }])
  })

  test.each([
    ['a token that is not valid', 'USAGE', agent, 'token is malformed'],
    ['an agent that signs none', 'USAGE', undefined, 'signs no JWT-SVIDs'],
  ] as const)('says what is wrong: %s', async (_what, code, made, said) => {
    const jwt = await source(made?.().jwt)
    const asked = jwt.validate({ audience: 'x', svid: 'u' }, never)
    await expect(asked).rejects.toMatchObject({ code, message: expect.stringContaining(said) })
  })

  test('is refused an identity that is not served', async () => {
    const jwt = await source(agent().jwt)
    const asked = jwt.fetch({ audience: ['x'], spiffeId: 'spiffe://a.example/other' }, never)
    await expect(asked).rejects.toMatchObject({ code: 'PERMISSION' })
  })

  test('ends with its caller', async () => {
    const hangs: JwtSource = {
      fetch: (_request, signal) => untilAborted(signal),
      validate: (_request, signal) => untilAborted(signal),
      async *bundles(signal) {
        yield await untilAborted(signal)
      },
    }
    const jwt = await source(hangs)
    const stop = new AbortController()
    const asked = [jwt.fetch({ audience: ['x'], spiffeId }, stop.signal), firstOf(jwt.bundles(stop.signal))]
    stop.abort()
    for (const one of asked) await expect(one).rejects.toMatchObject({ code: 'UNREACHABLE' })
    const late = [jwt.fetch({ audience: ['x'], spiffeId }, stop.signal), firstOf(jwt.bundles(stop.signal))]
    for (const one of late) await expect(one).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})

function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
}

async function firstOf<T>(answers: AsyncIterable<T>): Promise<T | undefined> {
  for await (const one of answers) return one
  return undefined
}

describe('a connection', () => {
  test('is not renewed: no certificate grows old on it', async () => {
    const clock = createFakeClock(Date.now())
    const client = dial(await serve(clock))
    const { next } = open(methods.fetchX509SVID, withHeader, client)
    await next()
    const isCut = sockets[0] && once(sockets[0], 'close')
    for (let minutes = 0; minutes < 45; minutes++) {
      await clock.advance(60_000)
      await new Promise((resolve) => setImmediate(resolve))
      change([identityOf(a, '/app')])
      expect(await Promise.race([next(), isCut])).toMatchObject({ svids: [{}] })
    }
  })

  test('of something that speaks no HTTP/2 is closed', async () => {
    const socket = connect(path)
    socket.on('error', () => {})
    socket.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n')
    socket.resume()
    await once(socket, 'close')
  })
})
