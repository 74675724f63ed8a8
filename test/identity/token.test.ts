import { createHmac, createPublicKey, createVerify, generateKeyPairSync, sign } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { writeCertificate } from '../../src/identity/certificate-writer.ts'
import { decodeToken, signToken, verifyToken } from '../../src/identity/token.ts'
import { authorityOf, identityOf, reasonOf, rootSigner } from './fixtures.ts'

const authority = authorityOf('a.example')
const { svid } = identityOf(authority, '/alice')
const leaf = svid.chain[0] ?? new Uint8Array()
const audience = 'spiffe://a.example/server'
const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const claims = { sub: svid.spiffeId, aud: [audience], exp: 1_800_000_000 }

/** A token with any header and claims, truly signed by alice's key. */
function signed(header: unknown, payload: unknown, dsaEncoding: 'ieee-p1363' | 'der' = 'ieee-p1363'): string {
  const body = `${part(header)}.${part(payload)}`
  return `${body}.${sign('sha256', Buffer.from(body), { key: svid.privateKey, dsaEncoding }).toString('base64url')}`
}

/** The verdict of another verifier than ours, which takes R and S as they are. */
function verifyElsewhere(token: string): boolean {
  const [header, payload, signature = ''] = token.split('.')
  const verifier = createVerify('SHA256').update(`${header}.${payload}`)
  const key = { key: createPublicKey(svid.privateKey), dsaEncoding: 'ieee-p1363' as const }
  return verifier.verify(key, Buffer.from(signature, 'base64url'))
}

describe('hop token', () => {
  test('carries subject, audience and end, and verifies with the certificate of its signer', () => {
    const expiresMs = Date.now() + 600_000
    const token = signToken({ svid, audience, expiresMs })
    expect(decodeToken(token)).toEqual({
      sub: svid.spiffeId,
      aud: [audience],
      expMs: Math.floor(expiresMs / 1000) * 1000,
    })
    expect(verifyToken(token, leaf)).toBe(true)
    expect(JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString())).toEqual({
      alg: 'ES256',
      typ: 'JWT',
    })
  })

  test('ends with the SVID when it would outlive it', () => {
    const token = signToken({ svid, audience, expiresMs: svid.notAfterMs + 86_400_000 })
    expect(decodeToken(token).expMs).toBe(svid.notAfterMs)
  })

  test('is a standard ES256 signature: another verifier accepts it', () => {
    expect(verifyElsewhere(signToken({ svid, audience, expiresMs: Date.now() + 1000 }))).toBe(true)
  })

  test('of an expired time decodes and verifies: the end is for the caller to judge', () => {
    const token = signed({ alg: 'ES256', typ: 'JWT' }, { ...claims, exp: 1 })
    expect([decodeToken(token).expMs, verifyToken(token, leaf)]).toEqual([1000, true])
  })

  const other = identityOf(authority, '/mallory').svid
  const honest = signToken({ svid, audience, expiresMs: Date.now() + 600_000 })
  const [header = '', , signature = ''] = honest.split('.')
  const hmacBody = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  const publicPem = createPublicKey(svid.privateKey).export({ type: 'spki', format: 'pem' })
  test.each([
    ['signed by another key', signToken({ svid: other, audience, expiresMs: Date.now() + 600_000 })],
    ['with a DER signature', signed({ alg: 'ES256', typ: 'JWT' }, claims, 'der')],
    ['with alg none and no signature', `${part({ alg: 'none' })}.${part(claims)}.`],
    ['with alg none and a true signature', signed({ alg: 'none' }, claims)],
    ['with alg ES384 in the header', signed({ alg: 'ES384' }, claims)],
    [
      'with HS256 over the public key',
      `${hmacBody}.${createHmac('sha256', publicPem).update(hmacBody).digest('base64url')}`,
    ],
    ['with a critical header', signed({ alg: 'ES256', crit: ['exp'] }, claims)],
    ['without alg', signed({ typ: 'JWT' }, claims)],
    ['with a header that is no object', signed(['ES256'], claims)],
    [
      'with another payload under the signature',
      `${header}.${part({ ...claims, sub: 'spiffe://a.example/admin' })}.${signature}`,
    ],
    ['with an all-zero signature', `${header}.${part(claims)}.${Buffer.alloc(64).toString('base64url')}`],
    ['with a cut signature', honest.slice(0, -4)],
    ['without a signature', honest.split('.').slice(0, 2).join('.')],
    ['of five parts', `${honest}.a.b`],
    ['longer than 16 KiB', signed({ alg: 'ES256' }, { ...claims, more: 'x'.repeat(16_384) })],
    ['of nothing', ''],
  ])('%s is not verified', (_name, token) => {
    expect(verifyToken(token, leaf)).toBe(false)
  })

  test('is not verified with a certificate of another key kind or with no certificate', () => {
    expect(verifyToken(honest, new Uint8Array())).toBe(false)
    const { publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const times = { notBeforeMs: 0, notAfterMs: 4_000_000_000_000 }
    const root = rootSigner({ spiffeId: 'spiffe://a.example' })
    const rsaLeaf = writeCertificate({ publicKey, spiffeId: svid.spiffeId, ...times }, root)
    for (const round of ['first', 'second']) {
      expect([round, verifyToken(honest, rsaLeaf)]).toEqual([round, false])
      expect([round, verifyToken(honest, authority.rootDer)]).toEqual([round, false])
    }
  })

  test.each([
    ['a single text', audience],
    ['an empty list', []],
    ['numbers', [1]],
    ['nothing', undefined],
  ])('whose audience is %s is for nobody', (_name, aud) => {
    expect(decodeToken(signed({ alg: 'ES256' }, { ...claims, aud })).aud).toEqual([])
  })

  test.each([
    ['no sub', { aud: [audience], exp: 1 }],
    ['an empty sub', { ...claims, sub: '' }],
    ['a sub that is a number', { ...claims, sub: 5 }],
    ['no exp', { sub: 'x', aud: ['y'] }],
    ['an exp that is text', { ...claims, exp: '1' }],
    ['a list', [1, 2]],
    ['null', null],
  ])('with %s does not decode', (_name, payload) => {
    expect(reasonOf(() => decodeToken(signed({ alg: 'ES256' }, payload)))).toBe('TOKEN_INVALID')
  })

  test('reads its own claims however many were read before, and again after them', () => {
    const tokens = Array.from({ length: 700 }, (_, i) => `${header}.${part({ ...claims, exp: i })}.${signature}`)
    for (const round of [1, 2]) {
      for (const [i, token] of tokens.entries()) expect([round, decodeToken(token).expMs]).toEqual([round, i * 1000])
    }
  })

  test('whose text differs in one character from one that was read says what it says', () => {
    const honestClaims = decodeToken(honest)
    const exchanged = `${header}.${part({ ...claims, aud: ['spiffe://a.example/other'] })}.${signature}`
    expect(decodeToken(exchanged).aud).toEqual(['spiffe://a.example/other'])
    expect(decodeToken(honest)).toEqual(honestClaims)
  })

  test('is judged by the certificate it is shown with, also when that one was seen before', () => {
    const otherLeaf = other.chain[0] ?? new Uint8Array()
    const verdicts = [leaf, otherLeaf, leaf, Uint8Array.from(leaf), otherLeaf].map((shown) =>
      verifyToken(honest, shown),
    )
    expect(verdicts).toEqual([true, false, true, true, false])
    expect(verifyToken(honest.replace(signature, signed({ alg: 'ES256' }, claims).split('.')[2] ?? ''), leaf)).toBe(
      false,
    )
  })

  test('with a signature whose R or S begins with zeros or has its top bit set is made right, and verified', () => {
    const wanted = new Set(['R: zeros', 'S: zeros', 'R: top bit', 'S: top bit'])
    for (let exp = 0; wanted.size > 0; exp++) {
      const token = signed({ alg: 'ES256', typ: 'JWT' }, { ...claims, exp })
      const ours = signToken({ svid, audience, expiresMs: exp * 1_000 })
      expect([verifyToken(token, leaf), verifyElsewhere(ours)]).toEqual([true, true])
      const bytes = Buffer.from(ours.split('.')[2] ?? '', 'base64url')
      expect(bytes).toHaveLength(64)
      for (const [name, first = 0] of [['R', bytes[0]] as const, ['S', bytes[32]] as const]) {
        if (first === 0) wanted.delete(`${name}: zeros`)
        if (first >= 0x80) wanted.delete(`${name}: top bit`)
      }
    }
  })

  test('never shows itself in an error', () => {
    const secret = 'c2VjcmV0LXRva2VuLXBhcnQ'
    for (const token of [secret, `${secret}.${secret}.${secret}`, `${part({})}.${secret}.x`]) {
      try {
        decodeToken(token)
        expect.unreachable()
      } catch (error) {
        expect(JSON.stringify(error instanceof NsmError ? error.toData() : error)).not.toContain(secret)
      }
    }
  })

  test('of any text throws nothing but NsmError and is never verified', () => {
    const text = fc.oneof(
      fc.string(),
      fc.array(fc.base64String(), { maxLength: 4 }).map((parts) => parts.join('.')),
    )
    fc.assert(
      fc.property(text, (token) => {
        expect(verifyToken(token, leaf)).toBe(false)
        expect(reasonOf(() => decodeToken(token))).toBe('TOKEN_INVALID')
      }),
      { numRuns: 500 },
    )
  })
})
