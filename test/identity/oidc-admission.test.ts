import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { join } from 'node:path'
import fc from 'fast-check'
import { exportSPKI, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parseIssuers } from '../../src/identity/issuers-file.ts'
import { createOidcAdmission, type OidcAdmission } from '../../src/identity/oidc-admission.ts'
import { fetchIssuerJson } from '../../src/identity/oidc-fetch.ts'
import { openOidcSessions } from '../../src/identity/oidc-sessions.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { startIssuer, type TestIssuer } from '../support/oidc-issuer.ts'
import { temporaryDir } from './fixtures.ts'

let clock: FakeClock
let issuer: TestIssuer
const good = { repository_id: '5678', environment: 'production', event_name: 'push' }
const key = () => randomBytes(91)

beforeEach(async () => {
  clock = createFakeClock()
  issuer = await startIssuer(() => clock.wallMs())
})
afterEach(() => issuer.close())

const rule = {
  name: 'deploy',
  match: { repository_id: '5678', environment: 'production', event_name: ['push', 'tag'] },
  id: '/ci/{repository_id}/{environment}',
}

function admission(change: { readonly rules?: readonly object[]; readonly path?: string } = {}): OidcAdmission {
  const { rules = [rule], path = ':memory:' } = change
  const entry = { name: 'ci', issuer: issuer.url, rules }
  const issuers =
    rules.length === 0 ? [] : parseIssuers(JSON.stringify({ issuers: [entry] }), 'issuers.json', 'test.internal')
  return createOidcAdmission({ issuers, sessions: openOidcSessions(path), clock })
}

describe('a token', () => {
  test('becomes an ID by its rule, with a life and an end of session', async () => {
    const admitted = await admission().admit(await issuer.token(good), key())
    expect(admitted).toMatchObject({ path: '/ci/5678/production', issuer: 'ci', rule: 'deploy', ttlMs: 3_600_000 })
    expect(admitted.sessionEndsMs).toBe(clock.wallMs() + 43_200_000)
    expect(admitted.subjectHash).toMatch(/^[\w-]{43}$/)
  })

  test.each([
    ['of another audience', { aud: 'nsm://other.internal' }, 'TOKEN_AUDIENCE'],
    ['for several audiences', { aud: ['nsm://test.internal', 'nsm://other.internal'] }, 'TOKEN_AUDIENCE'],
    ['without an audience', { aud: undefined }, 'TOKEN_AUDIENCE'],
    ['of an unknown issuer', { iss: 'https://evil.example' }, 'ISSUER_UNKNOWN'],
    ['without an issuer', { iss: undefined }, 'ISSUER_UNKNOWN'],
    ['without a subject', { sub: undefined }, 'TOKEN_INVALID'],
    ['without an expiry', { exp: undefined }, 'TOKEN_INVALID'],
    ['without a time of issue', { iat: undefined }, 'TOKEN_INVALID'],
    ['of another repository', { repository_id: '5679' }, 'NO_RULE'],
    ['of a repository whose number begins so', { repository_id: '56789' }, 'NO_RULE'],
    ['of a pull request', { event_name: 'pull_request' }, 'NO_RULE'],
    ['without an environment', { environment: undefined }, 'NO_RULE'],
  ])('%s is refused', async (_what, claims, reason) => {
    const refused = admission().admit(await issuer.token({ ...good, ...claims }), key())
    await expect(refused).rejects.toMatchObject({ message: expect.stringContaining(`(${reason})`) })
  })

  test.each([
    ['an expired one', -400, 'TOKEN_EXPIRED'],
    ['one of the future', 200, 'TOKEN_NOT_YET_VALID'],
  ])('%s is refused beyond a minute of skew', async (_what, seconds, reason) => {
    const now = clock.wallMs() / 1000
    const token = (by: number) => issuer.token({ ...good, iat: now + by, nbf: now + by, exp: now + by + 300 })
    await expect(admission().admit(await token(seconds), key())).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringContaining(`(${reason})`),
    })
    await admission().admit(await token(seconds < 0 ? -359 : 59), key())
  })

  test('that lives long is refused once it is older than the issuer allows', async () => {
    const token = await issuer.token({ ...good, exp: clock.wallMs() / 1000 + 7_200 })
    await clock.advance(700_000)
    await expect(admission().admit(token, key())).rejects.toMatchObject({ message: expect.stringMatching(/TOO_OLD/) })
  })

  test('without a signature, or with one by a public key as secret, is refused', async () => {
    const claims = { iss: issuer.url, aud: 'nsm://test.internal', sub: 'x', ...good }
    const none = new UnsecuredJWT(claims).setIssuedAt().setExpirationTime('5m').encode()
    const { publicKey } = await generateKeyPair('RS256', { extractable: true })
    const secret = new TextEncoder().encode(await exportSPKI(publicKey))
    const shared = await new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid: 'k1' }).sign(secret)
    for (const token of [none, shared]) {
      const refused = admission().admit(token, key())
      await expect(refused).rejects.toMatchObject({ message: expect.stringMatching(/TOKEN_(SIGNATURE|INVALID)/) })
    }
  })

  test('signed by another key of the same name, changed, or with a key in its header is refused', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const jwk = publicKey.export({ format: 'jwk' })
    const claims = { iss: issuer.url, aud: 'nsm://test.internal', sub: 'x', ...good }
    const now = clock.wallMs() / 1000
    const forged = await new SignJWT({ ...claims, iat: now, exp: now + 300 })
      .setProtectedHeader({ alg: 'RS256', kid: 'k1', jwk, jku: 'http://127.0.0.1:1/' })
      .sign(privateKey)
    const [head = '', body = '', signature = ''] = (await issuer.token(good)).split('.')
    const changed = `${head}.${body.slice(0, -2)}AA.${signature}`
    for (const token of [forged, changed]) {
      const refused = admission().admit(token, key())
      await expect(refused).rejects.toMatchObject({ message: expect.stringMatching(/TOKEN_(SIGNATURE|INVALID)/) })
    }
    expect(issuer.asked).not.toContain('/')
  })

  test.each([
    ['an access token', { typ: 'at+jwt' }, 'TOKEN_INVALID'],
    ['one with an unknown critical header', { crit: ['x'], x: 1 }, 'TOKEN_SIGNATURE'],
  ])('%s is refused', async (_what, header, reason) => {
    const now = clock.wallMs() / 1000
    const parts = [
      { alg: 'RS256', kid: 'k1', ...header },
      { iss: issuer.url, iat: now, exp: now + 300, sub: 'x' },
    ]
    const token = [...parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')), 'AAAA'].join('.')
    await expect(admission().admit(token, key())).rejects.toMatchObject({ message: expect.stringContaining(reason) })
  })

  test.each([[''], ['a.b.c'], ['x'.repeat(20_000)], ['eyJhbGciOiJSUzI1NiJ9..']])(
    'that is none is refused',
    async (text) => {
      await expect(admission().admit(text, key())).rejects.toMatchObject({ code: 'IDENTITY' })
    },
  )

  test('of any bytes is refused, and nothing is asked of the network', async () => {
    const admitting = admission()
    const part = fc.oneof(
      fc.base64String(),
      fc.json().map((text) => Buffer.from(text).toString('base64url')),
      fc.string(),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(part, { maxLength: 4 }), async (parts) => {
        await expect(admitting.admit(parts.join('.'), key())).rejects.toMatchObject({ code: 'IDENTITY' })
      }),
      { numRuns: 300 },
    )
    expect(issuer.asked).toEqual([])
  })

  test('is bound to the key it first came with, also after a restart', async () => {
    const path = join(temporaryDir(), 'oidc.db')
    const token = await issuer.token(good)
    const first = key()
    await admission({ path }).admit(token, first)
    const restarted = admission({ path })
    await restarted.admit(token, first)
    await expect(restarted.admit(token, key())).rejects.toMatchObject({
      message: expect.stringMatching(/TOKEN_REUSED/),
    })
  })

  test('that no rule admits is told which claims the nearest rule wants, and no value of them', async () => {
    const near = { ...rule, name: 'near', match: { repository_id: '5678', environment: 'secret-stage' } }
    const refused = admission({ rules: [rule, near] }).admit(await issuer.token({ ...good, environment: 'x' }), key())
    const error = await refused.catch((thrown: Error) => thrown)
    expect(error).toMatchObject({ code: 'REFUSED', message: expect.stringContaining('wants other environment') })
    expect(String(error)).not.toMatch(/secret-stage|5678/)
  })

  test('is never part of an error', async () => {
    const tokens = await Promise.all([
      issuer.token({ ...good, aud: 'x' }),
      issuer.token({ ...good, iss: 'y' }),
      issuer.token({ ...good, environment: 'x' }),
      issuer.token({ ...good, exp: 5 }),
      'canary.canary.canary',
    ])
    for (const token of tokens) {
      const error = await admission()
        .admit(token, key())
        .catch((thrown: Error) => thrown)
      for (const part of token.split('.')) expect(JSON.stringify(error) + String(error)).not.toContain(part)
    }
  })

  test('of an issuer with rules for none of its claims leaves the ID to no claim that cannot be one', async () => {
    const refused = admission({ rules: [{ ...rule, id: '/ci/{missing}' }] }).admit(await issuer.token(good), key())
    await expect(refused).rejects.toMatchObject({ code: 'REFUSED', message: expect.stringContaining('claim missing') })
  })
})

describe('a session', () => {
  test('goes on with each new key until its end, and no longer', async () => {
    const admitting = admission({ rules: [{ ...rule, max_session: '90m' }] })
    const [first, second, third] = [key(), key(), key()]
    await admitting.admit(await issuer.token(good), first)
    await clock.advance(3_000_000)
    expect(admitting.renew(first, second)).toBe(2_400_000)
    await clock.advance(2_399_999)
    expect(admitting.renew(second, third)).toBe(1)
    await clock.advance(1)
    expect(() => admitting.renew(third, key())).toThrow(/SESSION_ENDED/)
  })

  test('ends when its rule or its issuer is gone', async () => {
    const path = join(temporaryDir(), 'oidc.db')
    const shown = key()
    await admission({ path }).admit(await issuer.token(good), shown)
    const renamed = admission({ path, rules: [{ ...rule, name: 'other' }] })
    expect(() => renamed.renew(shown, key())).toThrow(/NO_RULE/)
    expect(() => admission({ path, rules: [] }).renew(shown, key())).toThrow(/NO_RULE/)
    expect(admission({ path }).renew(shown, key())).toBe(3_600_000)
  })

  test('of a key that no token brought is none', () => {
    expect(admission().renew(key(), key())).toBeUndefined()
  })
})

describe('the keys of an issuer', () => {
  test('are fetched once for many tokens at once, and again after ten minutes', async () => {
    const admitting = admission()
    await Promise.all(Array.from({ length: 20 }, async () => admitting.admit(await issuer.token(good), key())))
    expect(issuer.asked).toEqual(['/.well-known/openid-configuration', '/keys'])
    await clock.advance(600_001)
    await admitting.admit(await issuer.token(good), key())
    expect(issuer.asked).toHaveLength(4)
  })

  test('that changed are found by one look, and made-up ones cause no more than one in 30 s', async () => {
    const admitting = admission()
    await admitting.admit(await issuer.token(good), key())
    await clock.advance(30_000)
    await issuer.rotate()
    await admitting.admit(await issuer.token(good), key())
    expect(issuer.asked).toHaveLength(4)
    for (let i = 0; i < 5; i++) {
      const madeUp = await issuer.token(good, { kid: `none-${i}` })
      await expect(admitting.admit(madeUp, key())).rejects.toMatchObject({
        message: expect.stringMatching(/SIGNATURE/),
      })
    }
    expect(issuer.asked).toHaveLength(4)
  })

  test('outlive an issuer that is away for a day, new ones do not appear', async () => {
    const admitting = admission()
    await admitting.admit(await issuer.token(good), key())
    issuer.answer(503)
    await clock.advance(86_000_000)
    await admitting.admit(await issuer.token(good), key())
    await clock.advance(500_000)
    await expect(admitting.admit(await issuer.token(good), key())).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('ISSUER_UNREACHABLE'),
    })
  })

  test.each([302, 404, 500])('are not taken from an answer with status %i', async (status) => {
    issuer.answer(status)
    await expect(admission().admit(await issuer.token(good), key())).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(issuer.asked).toHaveLength(1)
  })

  test.each([
    ['that calls itself another', { issuer: 'https://other.example', jwks_uri: 'https://other.example/keys' }],
    ['whose keys are at a metadata service', { jwks_uri: 'https://169.254.169.254/latest' }],
    ['whose keys are behind plain HTTP', { jwks_uri: 'http://keys.example/' }],
    ['whose keys are in a file', { jwks_uri: 'file:///etc/passwd' }],
    ['without keys', {}],
  ])('are not taken from an issuer %s', async (_what, document) => {
    const asked: string[] = []
    const fetchJson = async (url: string) => {
      asked.push(url)
      return { issuer: issuer.url, ...document }
    }
    const entry = { name: 'ci', issuer: issuer.url, rules: [rule] }
    const issuers = parseIssuers(JSON.stringify({ issuers: [entry] }), 'issuers.json', 'test.internal')
    const admitting = createOidcAdmission({ issuers, sessions: openOidcSessions(':memory:'), clock, fetchJson })
    await expect(admitting.admit(await issuer.token(good), key())).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(asked).toHaveLength(1)
  })
})

describe('fetchIssuerJson', () => {
  test('refuses an answer that is no JSON, and one without end', async () => {
    await expect(fetchIssuerJson(`${issuer.url}/nothing`)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    await issuer.close()
    await expect(fetchIssuerJson(`${issuer.url}/keys`)).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})
