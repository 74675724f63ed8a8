import { createPublicKey, type KeyObject, sign } from 'node:crypto'
import { type ConnectionOptions, connect } from 'node:tls'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { readElements, readSequence } from '../../src/identity/der-reader.ts'
import {
  derBitString,
  derElement,
  derOctetString,
  derOid,
  derSequence,
  derTime,
  derTrue,
  derUnsigned,
} from '../../src/identity/der-writer.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { generateKey, spkiOf } from '../../src/identity/keys.ts'
import { ecdsaWithSha256, oid } from '../../src/identity/oids.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { createTlsServer } from '../../src/identity/tls-server.ts'
import { verifyPeer } from '../../src/identity/verify.ts'
import { authorityOf, identityOf, leafBelow, rootSigner, type Signer, signerBelow } from './fixtures.ts'

/* What a peer may show that is not its identity: what becomes of it at the TLS server, what an auditor reads of it, and
 * what whoever is refused is told. */

const nowMs = Date.now()
const [minute, day] = [60_000, 86_400_000]
const times = { notBeforeMs: nowMs - day, notAfterMs: nowMs + day }
const root = rootSigner({ ...times, spiffeId: 'spiffe://a.example', pathLength: 1 })
const otherRoot = rootSigner({ ...times, spiffeId: 'spiffe://b.example', name: 'other root' })
const stranger = rootSigner({ ...times, spiffeId: 'spiffe://c.example', name: 'strange root' })
const bundles = new Map([
  ['a.example', [root.der]],
  ['b.example', [otherRoot.der]],
])

/** A certificate chain, leaf first, and the key of its leaf. */
interface Shown {
  readonly chain: readonly Uint8Array[]
  readonly privateKey: KeyObject
}

const leaf = (issuer: Signer, change: Parameters<typeof leafBelow>[1] = {}): Shown => {
  const made = leafBelow(issuer, { ...times, ...change })
  return { chain: [made.der], privateKey: made.privateKey }
}

/** A leaf of a.example whose extensions are all of the test's making. */
function leafWith(...extensions: readonly Uint8Array[]): Shown {
  const privateKey = generateKey()
  const name = derSequence()
  const signed = derSequence(
    ...[derElement(0xa0, derUnsigned(Uint8Array.of(2))), derUnsigned(Uint8Array.of(7)), ecdsaWithSha256],
    issuerOf(root.der),
    derSequence(derTime(nowMs - minute), derTime(nowMs + day)),
    ...[name, spkiOf(createPublicKey(privateKey)), derElement(0xa3, derSequence(...extensions))],
  )
  const signature = derBitString(sign('sha256', signed, root.privateKey))
  return { chain: [derSequence(signed, ecdsaWithSha256, signature)], privateKey }
}

const names = (...uris: readonly string[]) =>
  derSequence(oid.subjectAltName, derOctetString(derSequence(...uris.map((uri) => derElement(0x86, Buffer.from(uri))))))
const usage = (bits: number, unused: number) =>
  derSequence(oid.keyUsage, derTrue, derOctetString(derBitString(Uint8Array.of(bits), unused)))
const extendedUsage = (id: string) => derSequence(oid.extendedKeyUsage, derOctetString(derSequence(derOid(id))))
const unknownCritical = derSequence(derOid('1.3.6.1.4.1.99999.1'), derTrue, derOctetString(Uint8Array.of(5, 0)))
const client = names('spiffe://a.example/client')

const refused: readonly (readonly [string, string, () => Shown])[] = [
  ['an ID of a.example that b.example signed', 'SVID_WRONG_DOMAIN', () => leaf(otherRoot)],
  ['an ID of a.example that a stranger signed', 'SVID_UNTRUSTED', () => leaf(stranger)],
  [
    'an ID of a domain that is not known',
    'SVID_UNKNOWN_DOMAIN',
    () => leaf(stranger, { spiffeId: 'spiffe://c.example/x' }),
  ],
  ['a certificate that expired a minute ago', 'SVID_EXPIRED', () => leaf(root, { notAfterMs: nowMs - minute })],
  ['a certificate of a clock five minutes ahead', 'CLOCK_SKEW', () => leaf(root, { notBeforeMs: nowMs + 5 * minute })],
  ['a certificate authority as a leaf', 'SVID_IS_CA', () => leaf(root, { pathLength: 0 })],
  ['a leaf that may sign certificates', 'SVID_IS_CA', () => leafWith(client, usage(0x84, 2))],
  ['a leaf that may sign revocations', 'SVID_IS_CA', () => leafWith(client, usage(0x82, 1))],
  ['a leaf whose key may not sign', 'CERTIFICATE_INVALID', () => leafWith(client, usage(0x20, 5))],
  [
    'a leaf for signing code',
    'SVID_UNTRUSTED',
    () => leafWith(client, usage(0x80, 7), extendedUsage('1.3.6.1.5.5.7.3.3')),
  ],
  ['two URI names', 'SVID_NO_ID', () => leafWith(names('spiffe://a.example/client', 'spiffe://a.example/admin'))],
  ['no URI name', 'SVID_NO_ID', () => leafWith(usage(0x80, 7))],
  ['an ID without a path', 'SVID_NO_ID', () => leaf(root, { spiffeId: 'spiffe://a.example' })],
  ['an ID that leads elsewhere', 'ID_INVALID', () => leaf(root, { spiffeId: 'spiffe://a.example/../admin' })],
  ['an ID in capital letters', 'ID_INVALID', () => leaf(root, { spiffeId: 'spiffe://A.EXAMPLE/client' })],
  ['a critical extension that nobody knows', 'CERTIFICATE_INVALID', () => leafWith(client, unknownCritical)],
  ['a leaf below a leaf', 'SVID_UNTRUSTED', () => below(leaf(root))],
  ['a chain longer than its signer allows', 'SVID_UNTRUSTED', longChain],
]

/** The holder of a leaf signs another one. */
function below({ chain, privateKey }: Shown): Shown {
  const made = leaf(
    { name: 'x', privateKey, der: chain[0] ?? new Uint8Array() },
    { spiffeId: 'spiffe://a.example/admin' },
  )
  return { ...made, chain: [...made.chain, ...chain] }
}

function longChain(): Shown {
  const first = signerBelow(root, times)
  const second = signerBelow(first, { ...times, name: 'second' })
  const made = leaf(second)
  return { ...made, chain: [...made.chain, second.der, first.der] }
}

async function startServer() {
  const authority = authorityOf('a.example')
  const own = identityOf(authority, '/server')
  const events: AuditEvent[] = []
  const met: (string | undefined)[] = []
  const server = createTlsServer({
    source: createFixedSource({ ...own, bundles: new Map([...own.bundles, ...bundles]) }),
    allowAnonymous: true,
    onConnection: (socket, peer) => {
      met.push(peer?.spiffeId)
      socket.write('hello')
    },
    log: silentLog,
    audit: { record: (event) => void events.push(event) },
  })
  onTestFinished(() => server.close())
  const { port } = await server.listen({ host: '127.0.0.1', port: 0 })
  return { port, events, met }
}

/** Shows the chain, and gives what came back before the end. */
function show(port: number, { chain, privateKey }: Shown, more: ConnectionOptions = {}): Promise<string> {
  const cert = certificatesToPem(chain)
  const key = privateKey.export({ format: 'pem', type: 'pkcs8' })
  return new Promise((resolve) => {
    const to = { host: '127.0.0.1', port, servername: 'x.internal', ALPNProtocols: ['h2'], rejectUnauthorized: false }
    const socket = connect({ ...to, cert, key, ...more })
    socket.on('error', () => {})
    socket.once('data', (data) => {
      resolve(data.toString())
      socket.destroy()
    })
    socket.once('close', () => resolve('cut'))
    onTestFinished(() => void socket.destroy())
  })
}

describe('a TLS server', () => {
  test('lets the honest peer in and records nothing of it', async () => {
    const { port, events, met } = await startServer()
    expect(await show(port, leaf(root))).toBe('hello')
    expect(await show(port, leafWith(client, usage(0x80, 7)))).toBe('hello')
    expect([met, events]).toEqual([['spiffe://a.example/client', 'spiffe://a.example/client'], []])
  })

  test.each(refused)('cuts %s, and an auditor reads %s', async (_what, reason, make) => {
    const { port, events, met } = await startServer()
    expect(await show(port, make())).toBe('cut')
    expect(met).toEqual([])
    expect(events).toEqual([expect.objectContaining({ event: 'peer.reject', reason, address: '127.0.0.1' })])
  })

  test.each([
    ['TLS 1.2', { maxVersion: 'TLSv1.2' } as const],
    ['no HTTP/2', { ALPNProtocols: ['http/1.1'] }],
  ])('lets nobody in by %s', async (_what, more) => {
    const { port, met } = await startServer()
    expect(await show(port, leaf(root), more)).toBe('cut')
    expect(met).toEqual([])
  })

  test('names whom a refused peer would like to be, and cuts that short', async () => {
    const { port, events } = await startServer()
    await show(port, leaf(otherRoot, { spiffeId: 'spiffe://a.example/admin' }))
    expect(events).toMatchObject([{ id: 'spiffe://a.example/admin', reason: 'SVID_WRONG_DOMAIN' }])
  })
})

describe('whoever is refused', () => {
  const ofTls: readonly string[] = ['a leaf for signing code']

  test.each(refused.filter(([what]) => !ofTls.includes(what)))(
    'for %s (%s) is told what to change',
    (_what, _reason, make) => {
      const { chain, privateKey } = make()
      const error = thrownBy(() => verifyPeer({ chain, bundles, nowMs }))
      expect(error).toMatchObject({
        code: 'IDENTITY',
        message: expect.stringMatching(/./),
        next: expect.stringMatching(/\w{4}/),
      })
      for (const secret of [
        privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
        Buffer.from(chain[0] ?? []).toString('base64'),
      ]) {
        expect(JSON.stringify(error.toData())).not.toContain(secret)
      }
    },
  )
})

function thrownBy(act: () => unknown): NsmError {
  try {
    act()
  } catch (error) {
    if (error instanceof NsmError) return error
  }
  throw new TypeError('it was not refused')
}

/** The subject of a root is the issuer of what it signs: the bytes of its name. */
function issuerOf(rootDer: Uint8Array): Uint8Array {
  const [signed] = readSequence(rootDer)
  return readElements(signed?.content ?? new Uint8Array())[5]?.raw ?? new Uint8Array()
}
