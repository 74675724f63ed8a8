import { createHmac, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { createLocalJWKSet, jwtVerify } from 'jose'
import { describe, expect, onTestFinished, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { formatBundle, type JwtKey, parseBundle } from '../../src/identity/bundle-document.ts'
import { openAuthority } from '../../src/identity/ca.ts'
import { openFederation } from '../../src/identity/federation.ts'
import {
  areSameJwtBundles,
  decodeJwtBundles,
  encodeJwtBundles,
  holdJwtBundles,
  type JwtBundles,
  plainJwks,
} from '../../src/identity/jwt-bundles.ts'
import { jwtSignerOf } from '../../src/identity/jwt-key.ts'
import { verifyJwtSvid } from '../../src/identity/jwt-svid.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { refusalReason } from '../../src/identity/refusal.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { authorityOf, temporaryDir } from './fixtures.ts'

const clock = createFakeClock()
const nowMs = clock.wallMs()
const seconds = nowMs / 1_000
const authority = authorityOf('a.example', clock)
const bundles = authority.jwtBundles
const spiffeId = 'spiffe://a.example/app'
const issue = (audience = ['web'], untilMs = Number.POSITIVE_INFINITY) =>
  authority.issueJwt({ spiffeId, audience, untilMs })
const verify = (token: string, known: JwtBundles = bundles, atMs = nowMs, audience = 'web') =>
  verifyJwtSvid(token, { audience, bundles: known, nowMs: atMs })
const partsOf = (token: string) =>
  token
    .split('.')
    .slice(0, 2)
    .map((part) => JSON.parse(Buffer.from(part, 'base64url').toString()))

describe('a JWT-SVID of our authority', () => {
  test('names subject, audiences and a life of five minutes, and says which key signed it', () => {
    const { token, issuedMs, expiresMs } = issue(['web', 'other'])
    const [key] = bundles.get('a.example') ?? []
    expect(partsOf(token)).toEqual([
      { alg: 'ES256', kid: key?.kid, typ: 'JWT' },
      { sub: spiffeId, aud: ['web', 'other'], iat: seconds, exp: seconds + 300 },
    ])
    expect([issuedMs, expiresMs]).toEqual([nowMs, nowMs + 300_000])
  })

  test('ends with the certificate of who asked for it', () => {
    expect(issue(['web'], nowMs + 10_000).expiresMs).toBe(nowMs + 10_000)
  })

  test('is for a workload of the own domain only', () => {
    for (const other of ['spiffe://b.example/app', 'spiffe://a.example', 'nobody']) {
      const ask = () => authority.issueJwt({ spiffeId: other, audience: ['web'], untilMs: nowMs })
      expect(ask, other).toThrow(expect.objectContaining({ code: 'IDENTITY' }))
    }
  })

  test('is believed by another library with the keys as the Workload API gives them', async () => {
    const keys = createLocalJWKSet(JSON.parse(plainJwks(bundles.get('a.example') ?? [])))
    const { payload } = await jwtVerify(issue().token, keys, { audience: 'web', currentDate: new Date(nowMs) })
    expect(payload.sub).toBe(spiffeId)
  })

  test('is believed until a minute after its end, and by whom it is for', async () => {
    const { token } = issue(['web', 'other'])
    expect(await verify(token)).toMatchObject({ spiffeId, claims: { sub: spiffeId } })
    expect(await verify(token, bundles, nowMs + 359_000, 'other')).toMatchObject({ spiffeId })
    await expect(verify(token, bundles, nowMs + 361_000)).rejects.toSatisfy(
      (error) => refusalReason(error) === 'SVID_EXPIRED',
    )
  })
})

/** A token that is signed by somebody, with any header and claims. */
function forged(header: object, claims: object, key: KeyObject | 'none' | 'secret' = ownKey): string {
  const body = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  const secret = createPublicKey(ownKey).export({ type: 'spki', format: 'pem' })
  if (key === 'none') return `${body}.`
  if (key === 'secret') return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`
  return `${body}.${sign('sha256', Buffer.from(body), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
}

const ownKey = generateKey()
const publishedBy = (key: KeyObject, kid: string): JwtKey => ({
  kid,
  jwk: createPublicKey(key).export({ format: 'jwk' }),
})
const known: JwtBundles = new Map([
  ['a.example', [publishedBy(ownKey, 'k')]],
  ['b.example', [publishedBy(generateKey(), 'b')]],
  ['gone.example', []],
])
const header = { alg: 'ES256', kid: 'k', typ: 'JWT' }
const claims = { sub: spiffeId, aud: ['web'], exp: seconds + 60 }
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })

describe('a JWT-SVID of anybody', () => {
  test.each([
    ['that is whole', header, claims],
    ['with one audience as a text', header, { ...claims, aud: 'web' }],
    ['without a type', { alg: 'ES256', kid: 'k' }, claims],
    ['of the type JOSE', { ...header, typ: 'JOSE' }, claims],
    ['with claims of its own', header, { ...claims, roles: ['x'], iat: seconds, nbf: seconds }],
  ])('is believed: %s', async (_what, head, body) => {
    expect(await verify(forged(head, body), known)).toMatchObject({ spiffeId, claims: body })
  })

  test.each([
    ['unsigned', { ...header, alg: 'none' }, claims, 'none'],
    ['keyed with the public key', { ...header, alg: 'HS256' }, claims, 'secret'],
    ['of an RSA algorithm under an EC key', { ...header, alg: 'RS256' }, claims, ownKey],
    ['of another curve than its key', { ...header, alg: 'ES384' }, claims, ownKey],
    ['without a key’s name', { alg: 'ES256' }, claims, ownKey],
    ['of a key that is not published', { ...header, kid: 'x' }, claims, ownKey],
    ['of a key of another domain', { ...header, kid: 'b' }, claims, ownKey],
    ['signed by somebody else', header, claims, generateKey()],
    ['of another type', { ...header, typ: 'at+jwt' }, claims, ownKey],
    ['with a critical extension', { ...header, crit: ['b64'], b64: false }, claims, ownKey],
    ['with a key in its header', { ...header, jwk: publishedBy(ownKey, 'k').jwk }, claims, ownKey],
    ['with a key’s address in its header', { ...header, jku: 'https://x.example/keys' }, claims, ownKey],
    ['for another audience', header, { ...claims, aud: ['other'] }, ownKey],
    ['without an audience', header, { sub: spiffeId, exp: seconds + 60 }, ownKey],
    ['without an end', header, { sub: spiffeId, aud: ['web'] }, ownKey],
    ['with an end as a text', header, { ...claims, exp: '9' }, ownKey],
    ['of the future', header, { ...claims, nbf: seconds + 120 }, ownKey],
    ['without a subject', header, { aud: ['web'], exp: seconds + 60 }, ownKey],
    ['of no SPIFFE ID', header, { ...claims, sub: 'alice' }, ownKey],
    ['of a whole domain', header, { ...claims, sub: 'spiffe://a.example' }, ownKey],
  ] as const)('is refused: %s', async (_what, head, body, key) => {
    const refused = await verify(forged(head, body, key), known).catch((error: unknown) => error)
    expect(refusalReason(refused)).toBe('TOKEN_INVALID')
  })

  test('is refused for a domain without a bundle, and for one that was revoked', async () => {
    const of = (domain: string) => verify(forged(header, { ...claims, sub: `spiffe://${domain}/app` }), known)
    await expect(of('unknown.example')).rejects.toSatisfy((error) => refusalReason(error) === 'SVID_UNKNOWN_DOMAIN')
    await expect(of('gone.example')).rejects.toMatchObject({ message: expect.stringContaining('does not publish') })
  })

  test('may be signed with RSA, but not with a key that is too short', async () => {
    const published = (key: KeyObject): JwtBundles => new Map([['a.example', [publishedBy(key, 'k')]]])
    const token = (key: KeyObject) => {
      const body = forged({ ...header, alg: 'RS256' }, claims, 'none').slice(0, -1)
      return `${body}.${sign('sha256', Buffer.from(body), key).toString('base64url')}`
    }
    expect(await verify(token(rsa.privateKey), published(rsa.privateKey))).toMatchObject({ spiffeId })
    const short = generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey
    await expect(verify(token(short), published(short))).rejects.toBeInstanceOf(NsmError)
  })

  test('never makes anything but a refusal that quotes nothing of it', async () => {
    const part = fc.oneof(
      fc.string({ maxLength: 40 }),
      fc.json().map((text) => Buffer.from(text).toString('base64url')),
      fc.constant(Buffer.from(JSON.stringify(header)).toString('base64url')),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(part, { maxLength: 5 }), async (parts) => {
        const error = await verify(parts.join('.'), known).catch((thrown: unknown) => thrown)
        expect(error).toBeInstanceOf(NsmError)
      }),
      { numRuns: 2_000 },
    )
    const secret = forged({ ...header, typ: 'secret-canary' }, { ...claims, sub: 'secret-canary' })
    const error = await verify(secret, known).catch((thrown: unknown) => thrown)
    expect(JSON.stringify(error) + String(error)).not.toContain('secret-canary')
    await expect(verify(`${'a'.repeat(16_384)}.b.c`, known)).rejects.toMatchObject({ code: 'IDENTITY' })
  })
})

describe('the key of JWT-SVIDs', () => {
  test('is another one than the root’s, the same after a restart, and another one for another root', async () => {
    const root = generateKey()
    const again = jwtSignerOf(root)
    expect(jwtSignerOf(root).published).toEqual(again.published)
    expect(createPublicKey(again.privateKey).export({ format: 'jwk' })).toEqual(again.published.jwk)
    expect(again.published.jwk.x).not.toBe(root.export({ format: 'jwk' }).x)
    expect(jwtSignerOf(generateKey()).published.kid).not.toBe(again.published.kid)
    const dir = temporaryDir()
    const open = () => openAuthority({ dir, clock, trustDomain: 'a.example' })
    const [first, second] = [await open(), await open()]
    expect(areSameJwtBundles(first.jwtBundles, second.jwtBundles)).toBe(true)
  })

  test('is a whole key whatever the root is: 2,000 of them', () => {
    for (let i = 0; i < 2_000; i++) {
      const { jwk } = jwtSignerOf(generateKey()).published
      expect([jwk.x?.length, jwk.y?.length]).toEqual([43, 43])
    }
  })

  test('follows the root: published before it signs, and believed until the old root is dropped', async () => {
    const own = authorityOf('a.example', clock)
    const kids = () => own.jwtBundles.get('a.example')?.map(({ kid }) => kid) ?? []
    const signs = () => partsOf(own.issueJwt({ spiffeId, audience: ['web'], untilMs: Infinity }).token)[0].kid
    const [old = ''] = kids()
    const early = own.issueJwt({ spiffeId, audience: ['web'], untilMs: Infinity }).token
    await own.rotation.begin(0)
    const [, next = ''] = kids()
    expect([kids(), signs()]).toEqual([[old, next], old])
    await clock.advance(1)
    await expect.poll(() => own.rotation.view().phase).toBe('issuing')
    expect([kids(), signs()]).toEqual([[next, old], next])
    expect(await verify(early, own.jwtBundles, clock.wallMs())).toMatchObject({ spiffeId })
    expect(own.document.jwtKeys.map(({ kid }) => kid)).toEqual(kids())
    await clock.advance(300_000)
    await own.rotation.finish()
    expect([kids(), signs()]).toEqual([[next], next])
    await expect(verify(early, own.jwtBundles, clock.wallMs())).rejects.toBeInstanceOf(NsmError)
  })

  test('is in the bundle that other domains fetch, without its private half', () => {
    const text = formatBundle(authority.document)
    expect(parseBundle(text).jwtKeys).toEqual(bundles.get('a.example'))
    expect(JSON.parse(text).keys).toContainEqual(expect.objectContaining({ use: 'jwt-svid', kty: 'EC', crv: 'P-256' }))
    expect(text).not.toContain('"d"')
  })
})

describe('keys of another domain', () => {
  test('are followed by their own: a new key beside the same root is told, and gone with the domain', async () => {
    const dir = temporaryDir()
    const path = join(dir, 'b.json')
    const { document } = authorityOf('b.example', clock)
    await writeFile(path, formatBundle({ ...document, jwtKeys: [] }))
    const around = { clock, log: silentLog, own: () => new Map(), path: join(dir, 'federation.json') }
    const federation = await openFederation({ ...around, trustDomain: 'a.example' })
    onTestFinished(() => federation.close())
    let told = 0
    federation.onChange(() => told++)
    federation.setDomains([{ trustDomain: 'b.example', bundle: { profile: 'file', path } }])
    await federation.settled()
    expect([told, federation.jwtBundles().get('b.example')]).toEqual([1, []])
    await writeFile(path, formatBundle(document))
    await expect.poll(() => clock.advance(5_000).then(() => told)).toBe(2)
    expect(federation.jwtBundles().get('b.example')).toEqual(document.jwtKeys)
    federation.setDomains([])
    expect([told, federation.jwtBundles().size]).toEqual([3, 0])
  })
})

describe('bundles of keys', () => {
  test('come back as they were sent', () => {
    expect(decodeJwtBundles(encodeJwtBundles(known))).toEqual(
      new Map([...known].map(([domain, keys]) => [domain, keys.map(({ kid, jwk }) => ({ kid, jwk }))])),
    )
    expect(() => decodeJwtBundles({ 'a.example': Buffer.from('{') })).toThrow(NsmError)
  })

  test('that are held tell of what is new, and of nothing else', () => {
    const held = holdJwtBundles()
    let told = 0
    const stop = held.onChange(() => told++)
    expect(held.current()).toBeUndefined()
    held.set(bundles)
    held.set(new Map(bundles))
    expect([told, held.current()]).toEqual([1, bundles])
    held.set(known)
    stop()
    held.set(new Map())
    expect([told, held.current()?.size]).toEqual([2, 0])
  })
})
