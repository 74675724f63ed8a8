import { createServer as createTcpServer } from 'node:net'
import { createServer } from 'node:tls'
import { Client, credentials, Server, ServerCredentials } from '@grpc/grpc-js'
import { describe, expect, onTestFinished, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { createAuthoritySource } from '../../src/identity/authority-source.ts'
import type { Authority } from '../../src/identity/ca.ts'
import { fetchPinnedBundles } from '../../src/identity/first-contact.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { refusalReason } from '../../src/identity/refusal.ts'
import type { IdentityState } from '../../src/identity/source.ts'
import { type ClientSecurity, createClientSecurity } from '../../src/identity/tls-client.ts'
import { tlsMaterial } from '../../src/identity/tls-material.ts'
import { createTlsServer } from '../../src/identity/tls-server.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { authorityOf, identityOf, rejectionOf } from './fixtures.ts'

const bytes = (value: Buffer) => value
const method = {
  path: '/test.Echo/Say',
  requestStream: false,
  responseStream: false,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
}

/** A grpc-js server behind our TLS server; `Say` answers with the peer's ID. */
async function startGrpc(state: IdentityState) {
  const server = new Server()
  const peers: (string | undefined)[] = []
  server.addService(
    { say: method },
    {
      say: (
        call: { getAuthContext(): { sslPeerCertificate?: { raw: Buffer } } },
        done: (error: null, value: Buffer) => void,
      ) => {
        const isShown = call.getAuthContext().sslPeerCertificate !== undefined
        done(null, Buffer.from(`${peers.at(-1)} ${isShown}`))
      },
    },
  )
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
  const source = createFixedSource(state)
  const tls = createTlsServer({
    source,
    allowAnonymous: true,
    log: silentLog,
    onConnection: (socket, peer) => {
      peers.push(peer?.spiffeId)
      injector.injectConnection(socket)
    },
  })
  const { port } = await tls.listen({ host: '127.0.0.1', port: 0 })
  onTestFinished(async () => {
    server.forceShutdown()
    await tls.close()
  })
  return { port, source, peers }
}

function clientOf(port: number, security: ClientSecurity): Client {
  const channel = credentials.createFromSecureContext(security.secureContext, security.verifyOptions)
  const client = new Client(`127.0.0.1:${port}`, channel, { 'grpc.ssl_target_name_override': security.serverName })
  onTestFinished(() => client.close())
  return client
}

function say(client: Client): Promise<string> {
  return new Promise((resolve) => {
    client.makeUnaryRequest(
      method.path,
      bytes,
      bytes,
      Buffer.from('hi'),
      { deadline: Date.now() + 5000 },
      (error, value) => resolve(error ? `error ${error.code}` : String(value)),
    )
  })
}

describe('client security with grpc-js', () => {
  test('presents its SVID, believes the server and knows its ID after the handshake', async () => {
    const a = authorityOf('a.example')
    const { port } = await startGrpc(identityOf(a, '/server'))
    const source = createFixedSource(identityOf(a, '/alice'))
    const security = createClientSecurity({ as: { source }, expect: (id) => id === 'spiffe://a.example/server' })
    expect(security.serverIdentity()).toBe(undefined)
    expect(await say(clientOf(port, security))).toBe('spiffe://a.example/alice true')
    expect(security.serverIdentity()?.spiffeId).toBe('spiffe://a.example/server')
    expect(security.svid).toBe(source.current().svid)
    expect(security.refusal()).toBe(undefined)
  })

  test('works anonymously with the bundle of a first contact', async () => {
    const a = authorityOf('a.example')
    const { port } = await startGrpc(identityOf(a, '/server'))
    const bundles = await fetchPinnedBundles(contact(a, port), AbortSignal.timeout(120_000))
    expect(bundles).toEqual(new Map([['a.example', [Buffer.from(a.rootDer)]]]))
    const security = createClientSecurity({ as: { bundles } })
    expect(await say(clientOf(port, security))).toBe('undefined false')
    expect(security.serverIdentity()?.spiffeId).toBe('spiffe://a.example/server')
    expect(security.svid).toBe(undefined)
  })

  test('refuses a server that is another than expected, before anything is sent', async () => {
    const a = authorityOf('a.example')
    const { port } = await startGrpc(identityOf(a, '/other'))
    const security = createClientSecurity({
      as: { source: createFixedSource(identityOf(a, '/alice')) },
      expect: (id) => id.endsWith('/server'),
    })
    expect(await say(clientOf(port, security))).toBe('error 14')
    expect(refusalReason(security.refusal())).toBe('SVID_UNEXPECTED')
    expect(security.serverIdentity()).toBe(undefined)
  })

  test('refuses a server of an unknown authority, a forged one and an expired one', async () => {
    const [a, stranger] = [authorityOf('a.example'), authorityOf('a.example')]
    const alice = identityOf(a, '/alice')
    const { port } = await startGrpc(identityOf(stranger, '/server'))
    expect(await say(clientOf(port, createClientSecurity({ as: { source: createFixedSource(alice) } })))).toBe(
      'error 14',
    )

    const b = authorityOf('b.example')
    const both = new Map([
      ['a.example', a.bundles.get('a.example') ?? []],
      ['b.example', stranger.bundles.get('a.example') ?? []],
    ])
    const pooled = createClientSecurity({ as: { source: createFixedSource({ ...alice, bundles: both }) } })
    expect(await say(clientOf(port, pooled))).toBe('error 14')
    expect(refusalReason(pooled.refusal())).toBe('SVID_WRONG_DOMAIN')
    expect(b.trustDomain).toBe('b.example')

    const later = createFakeClock(Date.now() + 7_200_000)
    const good = await startGrpc(identityOf(a, '/server'))
    const longLived = identityOf(a, '/alice', undefined, 86_400_000)
    const expired = createClientSecurity({ as: { source: createFixedSource(longLived, later) }, clock: later })
    expect(await say(clientOf(good.port, expired))).toBe('error 14')
    expect(refusalReason(expired.refusal())).toBe('SVID_EXPIRED')
  })

  test('calls go on over a rotation of the server, and a new channel sees the new SVID', async () => {
    const a = authorityOf('a.example')
    const { port, source, peers } = await startGrpc(identityOf(a, '/server'))
    const alice = createFixedSource(identityOf(a, '/alice'))
    const first = createClientSecurity({ as: { source: alice } })
    const client = clientOf(port, first)
    expect(await say(client)).toBe('spiffe://a.example/alice true')
    const next = identityOf(a, '/server')
    source.set(next)
    expect(await say(client)).toBe('spiffe://a.example/alice true')
    const second = createClientSecurity({ as: { source: alice } })
    expect(await say(clientOf(port, second))).toBe('spiffe://a.example/alice true')
    expect(Buffer.from(second.serverIdentity()?.certificate ?? []).equals(next.svid.chain[0] ?? Buffer.alloc(0))).toBe(
      true,
    )
    expect(peers.length).toBe(2)
  })

  test('of an expired identity cannot be made', () => {
    const clock = createFakeClock()
    const a = authorityOf('a.example', clock)
    const source = createFixedSource(identityOf(a, '/alice', clock, 1000), clock)
    return clock.advance(1000).then(() => {
      expect(() => createClientSecurity({ as: { source } })).toThrowError(expect.objectContaining({ code: 'IDENTITY' }))
    })
  })
})

describe('first contact', () => {
  test('refuses a server without the pinned root', async () => {
    const [a, b] = [authorityOf('a.example'), authorityOf('a.example')]
    const { port, peers } = await startGrpc(identityOf(b, '/server'))
    expect(await rejectionOf(fetchPinnedBundles(contact(a, port), AbortSignal.timeout(120_000)))).toBe('PIN_MISMATCH')
    expect(peers).not.toContain('spiffe://a.example/alice')
  })

  test('refuses a server that shows the pinned root beside a chain that does not end in it', async () => {
    const [a, impostor] = [authorityOf('a.example'), authorityOf('a.example')]
    const { svid, bundles } = identityOf(impostor, '/server')
    const cert = certificatesToPem([...svid.chain, a.rootDer])
    const server = createServer({ ...tlsMaterial({ svid, bundles }), cert, ALPNProtocols: ['h2'] })
    const port = await listening(server)
    const reason = await rejectionOf(fetchPinnedBundles(contact(a, port), AbortSignal.timeout(120_000)))
    expect(['PIN_MISMATCH', 'SVID_UNTRUSTED']).toContain(reason)
  })

  test('refuses a server of another trust domain under the pinned root', async () => {
    const a = authorityOf('a.example')
    const { port } = await startGrpc(identityOf(a, '/server'))
    const wrong = { ...contact(a, port), trustDomain: 'b.example' }
    expect(await rejectionOf(fetchPinnedBundles(wrong, AbortSignal.timeout(120_000)))).toBe('SVID_UNKNOWN_DOMAIN')
  })

  test('tells a port where nobody listens, a peer that closes, and a passed deadline', async () => {
    const a = authorityOf('a.example')
    const closing = createTcpServer((socket) => socket.destroy())
    const silent = createTcpServer(() => {})
    const closingPort = await listening(closing)
    const silentPort = await listening(silent)
    await new Promise((resolve) => closing.close(resolve))
    const signal = AbortSignal.timeout(120_000)
    expect(await rejectionOf(fetchPinnedBundles(contact(a, closingPort), signal))).toBe('UNREACHABLE')
    expect(await rejectionOf(fetchPinnedBundles(contact(a, silentPort), AbortSignal.timeout(50)))).toBe('UNREACHABLE')
    expect(await rejectionOf(fetchPinnedBundles(contact(a, silentPort), AbortSignal.abort()))).toBe('UNREACHABLE')
  })
})

describe('authority source', () => {
  test('renews itself at half life with a new key and never expires while it runs', async () => {
    const clock = createFakeClock(Date.UTC(2026, 10, 21))
    const authority = authorityOf('a.example', clock)
    const source = createAuthoritySource({
      authority,
      spiffeId: 'spiffe://a.example/server',
      ttlMs: 3_600_000,
      clock,
      log: silentLog,
    })
    const keys = new Set([source.current().svid.privateKey])
    source.onChange(({ svid }) => void keys.add(svid.privateKey))
    for (let hour = 0; hour < 10; hour++) {
      await clock.advance(3_600_000)
      expect(source.current().svid.notAfterMs).toBeGreaterThan(clock.wallMs())
    }
    expect(keys.size).toBeGreaterThan(15)
    await source.close()
    expect(clock.waiting).toBe(0)
  })
})

function contact(authority: Authority, port: number) {
  return { address: '127.0.0.1', port, trustDomain: authority.trustDomain, pin: authority.rootSpkiPin }
}

function listening(server: ReturnType<typeof createTcpServer>): Promise<number> {
  onTestFinished(() => void server.close())
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const at = server.address()
      resolve(typeof at === 'object' && at ? at.port : 0)
    })
  })
}
