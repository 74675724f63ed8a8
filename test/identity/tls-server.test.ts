import { connect as connectTcp } from 'node:net'
import { type ConnectionOptions, connect, createSecureContext, type TLSSocket } from 'node:tls'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { silentLog } from '../../src/base/log.ts'
import { defaultConnectionLimits } from '../../src/identity/connection-gate.ts'
import { createFixedSource, type FixedSource } from '../../src/identity/fixed-source.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import type { IdentityState, Svid, TrustBundles } from '../../src/identity/source.ts'
import { tlsMaterial, trustMaterial } from '../../src/identity/tls-material.ts'
import { createTlsServer, type TlsServerSettings } from '../../src/identity/tls-server.ts'
import type { PeerIdentity } from '../../src/identity/verify.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { authorityOf, identityOf, leafBelow, rootSigner } from './fixtures.ts'

interface Met {
  readonly socket: TLSSocket
  readonly peer: PeerIdentity | undefined
  readonly own: Svid
}

async function startServer(source: FixedSource, change: Partial<TlsServerSettings> = {}) {
  const met: Met[] = []
  const reasons: string[] = []
  const server = createTlsServer({
    source,
    allowAnonymous: true,
    onConnection: (socket, peer, own) => {
      met.push({ socket, peer, own })
      socket.write('hello')
    },
    log: { ...silentLog, warn: (_sentence, fields) => void reasons.push(String(fields?.['reason'])) },
    ...change,
  })
  onTestFinished(() => server.close())
  const { port } = await server.listen({ host: '127.0.0.1', port: 0 })
  return { server, met, reasons, port }
}

/** Dials and resolves with what the server wrote, or with the way it ended without. */
function dial(port: number, options: ConnectionOptions): Promise<string> {
  return new Promise((resolve) => {
    const socket = open(port, options)
    socket.once('data', (data) => resolve(data.toString()))
    socket.once('close', () => resolve('cut'))
  })
}

function open(port: number, options: ConnectionOptions): TLSSocket {
  const socket = connect({
    host: '127.0.0.1',
    port,
    ALPNProtocols: ['h2'],
    servername: 'x.internal',
    checkServerIdentity: () => undefined,
    ...options,
  })
  socket.on('error', () => {})
  onTestFinished(() => void socket.destroy())
  return socket
}

function closed(socket: TLSSocket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.destroyed) resolve()
    else socket.once('close', () => resolve())
  })
}

/** A TLS client with a chain and bundles, whatever a verifier would say of them. */
function presenting(state: IdentityState): ConnectionOptions {
  return { secureContext: createSecureContext(tlsMaterial(state)) }
}

describe('TLS server', () => {
  test('hands on a peer of its own domain and a peer of a federated one, each with its ID', async () => {
    const [a, b] = [authorityOf('a.example'), authorityOf('b.example')]
    const bundles: TrustBundles = new Map([...a.bundles, ...b.bundles])
    const { met, port } = await startServer(createFixedSource({ ...identityOf(a, '/server'), bundles }))
    const alice = identityOf(a, '/alice')
    const bob = identityOf(b, '/bob')
    expect(await dial(port, presenting(alice))).toBe('hello')
    expect(await dial(port, presenting({ ...bob, bundles }))).toBe('hello')
    expect(met.map(({ peer }) => peer?.spiffeId)).toEqual(['spiffe://a.example/alice', 'spiffe://b.example/bob'])
    expect(Buffer.from(met[0]?.peer?.certificate ?? []).equals(alice.svid.chain[0] ?? Buffer.alloc(0))).toBe(true)
    expect(met[0]?.peer?.notAfterMs).toBe(alice.svid.notAfterMs)
  })

  test('hands on every certificate that a peer sent above its own', async () => {
    const a = authorityOf('a.example')
    const { met, port } = await startServer(createFixedSource(identityOf(a, '/server')))
    const { svid, bundles } = identityOf(a, '/alice')
    const chain = [...svid.chain, a.rootDer, identityOf(a, '/beside').svid.chain[0] ?? Buffer.alloc(0)]
    expect(await dial(port, presenting({ svid: { ...svid, chain }, bundles }))).toBe('hello')
    expect(met[0]?.peer?.intermediates.map((der) => Buffer.from(der))).toEqual(
      chain.slice(1).map((der) => Buffer.from(der)),
    )
  })

  test('hands on a client without a certificate as anonymous, or cuts it when that is not allowed', async () => {
    const a = authorityOf('a.example')
    const anonymous = { secureContext: createSecureContext(trustMaterial(a.bundles)) }
    const open = await startServer(createFixedSource(identityOf(a, '/server')))
    expect(await dial(open.port, anonymous)).toBe('hello')
    expect(open.met.map(({ peer }) => peer)).toEqual([undefined])
    const strict = await startServer(createFixedSource(identityOf(a, '/server')), { allowAnonymous: false })
    expect(await dial(strict.port, anonymous)).toBe('cut')
    expect(strict.met).toEqual([])
  })

  test('cuts a leaf that names one domain and was signed by the authority of another it also trusts', async () => {
    const a = authorityOf('a.example')
    const times = { notBeforeMs: Date.now() - 60_000, notAfterMs: Date.now() + 600_000 }
    const rootOfB = rootSigner({ spiffeId: 'spiffe://b.example', ...times })
    const bundles: TrustBundles = new Map([...a.bundles, ['b.example', [rootOfB.der]]])
    const audited: AuditEvent[] = []
    const audit = { record: (event: AuditEvent) => void audited.push(event) }
    const source = createFixedSource({ ...identityOf(a, '/server'), bundles })
    const { met, reasons, port } = await startServer(source, { audit })
    const { privateKey, der } = leafBelow(rootOfB, { spiffeId: 'spiffe://a.example/admin', ...times })
    const forged: Svid = { spiffeId: 'spiffe://a.example/admin', chain: [der], privateKey, ...times }
    expect(await dial(port, presenting({ svid: forged, bundles }))).toBe('cut')
    expect(met).toEqual([])
    expect(reasons).toEqual(['SVID_WRONG_DOMAIN'])
    const { spiffeId: id } = forged
    expect(audited).toMatchObject([{ event: 'peer.reject', id, reason: 'SVID_WRONG_DOMAIN' }])
  })

  test('cuts a client of a domain it does not know and one with an expired SVID', async () => {
    const [a, c] = [authorityOf('a.example'), authorityOf('c.example')]
    const { reasons, met, port } = await startServer(createFixedSource(identityOf(a, '/server')))
    const stranger = identityOf(c, '/eve')
    expect(await dial(port, presenting({ ...stranger, bundles: a.bundles }))).toBe('cut')
    const before = createFakeClock(Date.now() - 7_200_000)
    const old = authorityOf('a.example', before)
    const late = await startServer(createFixedSource({ ...identityOf(a, '/server'), bundles: old.bundles }))
    expect(await dial(late.port, presenting({ ...identityOf(old, '/late', before), bundles: a.bundles }))).toBe('cut')
    expect([...reasons, ...late.reasons]).toEqual(['SVID_UNKNOWN_DOMAIN', 'SVID_EXPIRED'])
    expect([...met, ...late.met]).toEqual([])
  })

  test('refuses TLS 1.2 and a client that does not offer HTTP/2', async () => {
    const a = authorityOf('a.example')
    const { met, port } = await startServer(createFixedSource(identityOf(a, '/server')))
    const alice = identityOf(a, '/alice')
    const tls12 = createSecureContext({ ...tlsMaterial(alice), minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' })
    expect(await dial(port, { secureContext: tls12 })).toBe('cut')
    expect(await dial(port, { ...presenting(alice), ALPNProtocols: ['http/1.1'] })).toBe('cut')
    expect(await dial(port, { ...presenting(alice), ALPNProtocols: [] })).toBe('cut')
    expect(met).toEqual([])
  })

  test('gives no session to resume: a second connection cannot skip the certificate', async () => {
    const a = authorityOf('a.example')
    const { met, port } = await startServer(createFixedSource(identityOf(a, '/server')))
    const { secureOptions: _, ...material } = tlsMaterial(identityOf(a, '/alice'))
    const sessions: Buffer[] = []
    const first = open(port, { secureContext: createSecureContext(material) })
    first.on('session', (session) => void sessions.push(session))
    await new Promise((resolve) => first.once('data', resolve))
    first.end()
    await closed(first)
    const session = sessions[0] ?? first.getSession()
    const anonymous = createSecureContext({ ca: certificatesToPem([a.rootDer]) })
    expect(await dial(port, { secureContext: anonymous, ...(session ? { session } : {}) })).toBe('hello')
    expect(met[1]?.socket.isSessionReused()).toBe(false)
    expect(met.map(({ peer }) => peer?.spiffeId)).toEqual(['spiffe://a.example/alice', undefined])
  })

  test('shows a new SVID to new connections, keeps the old ones, and says which one each peer saw', async () => {
    const a = authorityOf('a.example')
    const [before, after] = [identityOf(a, '/server'), identityOf(a, '/server')]
    const source = createFixedSource(before)
    const { met, port } = await startServer(source)
    const alice = presenting(identityOf(a, '/alice'))
    const old = open(port, alice)
    await new Promise((resolve) => old.once('data', resolve))
    source.set(after)
    const young = open(port, alice)
    await new Promise((resolve) => young.once('data', resolve))
    expect(old.destroyed).toBe(false)
    expect(met.map(({ own }) => own)).toEqual([before.svid, after.svid])
    expect(young.getPeerCertificate().raw.equals(after.svid.chain[0] ?? Buffer.alloc(0))).toBe(true)
  })

  test('says which SVID a peer saw whose handshake began before a new one came', async () => {
    const a = authorityOf('a.example')
    const [before, after] = [identityOf(a, '/server'), identityOf(a, '/server')]
    const source = createFixedSource(before)
    const { server, met, port } = await startServer(source)
    const socket = connectTcp(port, '127.0.0.1')
    await expect.poll(() => server.counts.halfOpen).toBe(1)
    source.set(after)
    const slow = open(port, { ...presenting(identityOf(a, '/alice')), socket })
    await new Promise((resolve) => slow.once('data', resolve))
    expect(slow.getPeerCertificate().raw.equals(before.svid.chain[0] ?? Buffer.alloc(0))).toBe(true)
    expect(met.map(({ own }) => own)).toEqual([before.svid])
  })

  test('cuts the open connections of a domain whose bundle is gone', async () => {
    const [a, b] = [authorityOf('a.example'), authorityOf('b.example')]
    const own = identityOf(a, '/server')
    const bundles: TrustBundles = new Map([...a.bundles, ...b.bundles])
    const source = createFixedSource({ ...own, bundles })
    const { reasons, port } = await startServer(source)
    const alice = open(port, presenting(identityOf(a, '/alice')))
    const bob = open(port, presenting({ ...identityOf(b, '/bob'), bundles }))
    for (const socket of [alice, bob]) await new Promise((resolve) => socket.once('data', resolve))
    source.set(own)
    await closed(bob)
    expect(alice.destroyed).toBe(false)
    expect(reasons).toEqual(['SVID_UNKNOWN_DOMAIN'])
  })

  test('cuts an open connection when the SVID of its peer expires', async () => {
    const clock = createFakeClock(Date.now())
    const a = authorityOf('a.example', clock)
    const source = createFixedSource(identityOf(a, '/server', clock, 86_400_000), clock)
    const { reasons, port } = await startServer(source, { clock })
    const alice = open(port, presenting(identityOf(a, '/alice', clock, 600_000)))
    await new Promise((resolve) => alice.once('data', resolve))
    await clock.advance(590_000)
    expect(alice.destroyed).toBe(false)
    await clock.advance(20_000)
    await closed(alice)
    expect(reasons).toEqual(['SVID_EXPIRED'])
    expect(clock.waiting).toBe(0)
  })

  test('closes connections beyond its limits and counts the others until they are gone', async () => {
    const a = authorityOf('a.example')
    const limits = { ...defaultConnectionLimits, halfOpenMax: 2, totalMax: 10 }
    const { server, port } = await startServer(createFixedSource(identityOf(a, '/server')), { limits })
    const silent = [connectTcp(port, '127.0.0.1'), connectTcp(port, '127.0.0.1')]
    for (const socket of silent) await new Promise((resolve) => socket.once('connect', resolve))
    expect(await dial(port, presenting(identityOf(a, '/alice')))).toBe('cut')
    expect(server.counts).toEqual({ total: 2, halfOpen: 2, anonymous: 0 })
    for (const socket of silent) socket.destroy()
    await expect.poll(() => server.counts).toEqual({ total: 0, halfOpen: 0, anonymous: 0 })
    const alice = open(port, presenting(identityOf(a, '/alice')))
    await new Promise((resolve) => alice.once('data', resolve))
    expect(server.counts).toEqual({ total: 1, halfOpen: 0, anonymous: 0 })
  })

  test('lets no number of callers without a certificate take the place of a member', async () => {
    const a = authorityOf('a.example')
    const { server, port } = await startServer(createFixedSource(identityOf(a, '/server')), {
      limits: { ...defaultConnectionLimits, totalMax: 5 },
    })
    const anonymous = { secureContext: createSecureContext(trustMaterial(a.bundles)) }
    const outcomes: string[] = []
    for (let i = 0; i < 12; i++) outcomes.push(await dial(port, anonymous))
    expect(outcomes.filter((outcome) => outcome === 'hello')).toHaveLength(8)
    expect(outcomes.slice(8)).toEqual(['cut', 'cut', 'cut', 'cut'])
    expect(await dial(port, presenting(identityOf(a, '/alice')))).toBe('hello')
    await expect.poll(() => server.counts).toEqual({ total: 9, halfOpen: 0, anonymous: 8 })
  })

  test('gives one identity its share of connections and no more', async () => {
    const a = authorityOf('a.example')
    const { met, port } = await startServer(createFixedSource(identityOf(a, '/server')), {
      limits: { ...defaultConnectionLimits, perIdentityMax: 2 },
    })
    const alice = presenting(identityOf(a, '/alice'))
    const first = open(port, alice)
    await new Promise((resolve) => first.once('data', resolve))
    expect(await dial(port, alice)).toBe('hello')
    expect(await dial(port, alice)).toBe('cut')
    expect(await dial(port, presenting(identityOf(a, '/bob')))).toBe('hello')
    first.destroy()
    await closed(first)
    await expect.poll(() => met[0]?.socket.destroyed).toBe(true)
    expect(await dial(port, alice)).toBe('hello')
  })

  test('names the address when the port is taken, and frees it when closed', async () => {
    const a = authorityOf('a.example')
    const { server, port } = await startServer(createFixedSource(identityOf(a, '/server')))
    const second = createTlsServer({
      source: createFixedSource(identityOf(a, '/server')),
      allowAnonymous: true,
      onConnection() {},
      log: silentLog,
    })
    await expect(second.listen({ host: '127.0.0.1', port })).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining(`127.0.0.1:${port}`),
    })
    await server.close()
    await server.close()
    const third = await startServer(createFixedSource(identityOf(a, '/server')))
    expect(third.port).toBeGreaterThan(0)
  })
})
