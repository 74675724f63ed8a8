import { createHmac, createPublicKey } from 'node:crypto'
import { UnsecuredJWT } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { createCsr } from '../../src/identity/csr.ts'
import { parseIssuers } from '../../src/identity/issuers-file.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { createOidcAdmission } from '../../src/identity/oidc-admission.ts'
import { openOidcSessions } from '../../src/identity/oidc-sessions.ts'
import { exchangeIdToken, exchangeJoinToken, renewIdentity } from '../../src/nsm/exchange.ts'
import { identityService } from '../../src/nsm/exchange-server.ts'
import { IdentityService } from '../../src/nsm/generated/identity_pb.js'
import { openJoinTokens } from '../../src/nsm/join-tokens.ts'
import { startIssuer, type TestIssuer } from '../support/oidc-issuer.ts'
import { FakeClock, TestMesh } from './mesh.ts'

/* What a caller may show that is no credential: over TLS, what the caller is told, and what an auditor reads. */

const closers: (() => unknown)[] = []
let issuer: TestIssuer
let clock: FakeClock
const events: AuditEvent[] = []
const good = { repository_id: '5678', repository_owner_id: '1234', environment: 'production', event_name: 'push' }
const signal = () => AbortSignal.timeout(120_000)

beforeEach(async () => {
  events.length = 0
  clock = new FakeClock()
  issuer = await startIssuer(() => clock.wallMs())
  closers.push(issuer.close)
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

async function startExchange(isDenied = (_id: string) => false) {
  const mesh = new TestMesh('test.internal', clock)
  const joinTokens = openJoinTokens(':memory:')
  const sessions = openOidcSessions(':memory:')
  closers.push(
    () => sessions.close(),
    () => joinTokens.close(),
    () => mesh.close(),
  )
  const rule = { name: 'deploy', match: { ...good, event_name: ['push', 'tag'] }, id: '/ci/{repository_id}' }
  const text = JSON.stringify({ issuers: [{ name: 'ci', issuer: issuer.url, rules: [rule] }] })
  const oidc = createOidcAdmission({ issuers: parseIssuers(text, 'issuers.json', 'test.internal'), sessions, clock })
  const { authority } = mesh
  const audit = { record: (event: AuditEvent) => void events.push(event) }
  const isSite = (id: string) => id === 'spiffe://test.internal/site/berlin'
  const parts = { authority, joinTokens, oidc, isDenied, isSite, clock, log: silentLog, audit }
  const server = await mesh.serve(identityService(parts))
  const { trustDomain, rootSpkiPin: pin } = authority
  const join = { address: '127.0.0.1', port: server.port, trustDomain, pin }
  const invite = (spiffeId = 'spiffe://test.internal/member/anna') =>
    joinTokens.create({ spiffeId, expiresMs: clock.wallMs() + 900_000 })
  const show = (idToken: string, key = generateKey()) =>
    exchangeIdToken({ join, idToken, csr: createCsr(key), clock }, signal())
  const redeem = (token: string, csr = createCsr(generateKey())) =>
    exchangeJoinToken({ join: { ...join, token }, csr, clock }, signal())
  return { mesh, server, invite, show, redeem }
}

async function refusalOf(promise: Promise<unknown>): Promise<NsmError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (error instanceof NsmError) return error
  throw new TypeError(`it was not refused: ${error}`)
}

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const claims = () => {
  const seconds = Math.floor(clock.wallMs() / 1_000)
  return {
    iss: issuer.url,
    aud: 'nsm://test.internal',
    sub: 'repo:acme/app',
    iat: seconds,
    exp: seconds + 300,
    ...good,
  }
}

/** HS256 with the text of the key that the issuer publishes, which everybody has. */
async function signedWithPublicKey(): Promise<string> {
  const document: unknown = await (await fetch(`${issuer.url}/keys`)).json()
  const [jwk] = Object(document).keys
  const pem = createPublicKey({ key: jwk, format: 'jwk' }).export({ format: 'pem', type: 'spki' }).toString()
  const body = `${part({ alg: 'HS256', kid: 'k1', typ: 'JWT' })}.${part(claims())}`
  return `${body}.${createHmac('sha256', pem).update(body).digest('base64url')}`
}

/** As an honest one, with another header over the same signature. */
async function withHeader(header: object): Promise<string> {
  const [, body, signature] = (await issuer.token(good)).split('.')
  return `${part({ alg: 'RS256', kid: 'k1', typ: 'JWT', ...header })}.${body}.${signature}`
}

const fork = { repository_id: '99', repository_owner_id: '77', repository: 'mallory/app' }
const seconds = () => Math.floor(clock.wallMs() / 1_000)

const tokens: readonly (readonly [string, string, RegExp, () => Promise<string>])[] = [
  ['for another audience', 'TOKEN_AUDIENCE', /nsm:\/\/test\.internal/, () => issuer.token({ ...good, aud: 'nsm://x' })],
  [
    'of an issuer that nobody named',
    'ISSUER_UNKNOWN',
    /issuer/,
    () => issuer.token({ ...good, iss: 'https://evil.example' }),
  ],
  ['of another repository', 'NO_RULE', /repository_id/, () => issuer.token({ ...good, repository_id: '5679' })],
  ['of a fork', 'NO_RULE', /repository_id/, () => issuer.token({ ...good, ...fork })],
  ['of a pull request', 'NO_RULE', /event_name/, () => issuer.token({ ...good, event_name: 'pull_request' })],
  [
    'of a pull request of a fork',
    'NO_RULE',
    /event_name/,
    () => issuer.token({ ...good, ...fork, event_name: 'pull_request_target' }),
  ],
  ['without a signature', 'TOKEN_SIGNATURE', /sign/, async () => new UnsecuredJWT(claims()).encode()],
  ['signed with the public key as a secret', 'TOKEN_SIGNATURE', /sign/, signedWithPublicKey],
  ['with a critical header that nobody knows', 'TOKEN_SIGNATURE', /sign/, () => withHeader({ crit: ['x'], x: 1 })],
  ['whose header was changed', 'TOKEN_SIGNATURE', /sign/, () => withHeader({ more: 1 })],
  ['that brings its own key', 'TOKEN_SIGNATURE', /sign/, () => withHeader({ jku: 'http://127.0.0.1:1/', kid: 'k1' })],
  [
    'that is expired',
    'TOKEN_EXPIRED',
    /new one|clock/,
    () => issuer.token({ ...good, iat: seconds() - 600, exp: seconds() - 300 }),
  ],
  [
    'that is old',
    'TOKEN_TOO_OLD',
    /new one/,
    () => issuer.token({ ...good, iat: seconds() - 3_700, exp: seconds() + 300 }),
  ],
  [
    'of a clock five minutes ahead',
    'TOKEN_NOT_YET_VALID',
    /clock/,
    () => issuer.token({ ...good, iat: seconds() + 300, exp: seconds() + 600 }),
  ],
  ['that is no token', 'TOKEN_INVALID', /JWT/, async () => 'hello.this.isnone'],
]

describe('the exchange', () => {
  test.each(tokens)(
    'refuses a token %s: %s, says what to change, and an auditor reads it',
    async (_what, reason, advice, make) => {
      const { show } = await startExchange()
      const token = await make()
      const error = await refusalOf(show(token))
      expect(error.message).toContain(`(${reason})`)
      expect(`${error.message} ${error.next}`).toMatch(advice)
      expect(events).toEqual([expect.objectContaining({ event: 'exchange.deny', reason, address: '127.0.0.1' })])
      const said = JSON.stringify([error.toData(), events])
      for (const piece of token.split('.')) if (piece.length > 8) expect(said).not.toContain(piece)
      expect((await show(await issuer.token(good))).spiffeId).toBe('spiffe://test.internal/ci/5678')
    },
  )

  test('gives a token that was seen to nobody else', async () => {
    const { show } = await startExchange()
    const token = await issuer.token(good)
    const key = generateKey()
    await show(token, key)
    expect((await show(token, key)).spiffeId).toBe('spiffe://test.internal/ci/5678')
    expect((await refusalOf(show(token))).message).toContain('TOKEN_REUSED')
    expect(events.map(({ event, reason }) => reason ?? event)).toEqual(['exchange.ok', 'exchange.ok', 'TOKEN_REUSED'])
  })

  test('records of each identity who, by which rule, from where and until when, and nothing of the token', async () => {
    const { show, redeem, invite } = await startExchange()
    const token = await issuer.token(good)
    await show(token)
    const joinToken = invite()
    await redeem(joinToken)
    const serial = expect.stringMatching(/^[0-9A-F]{16,40}$/)
    const expires = expect.stringMatching(/^\d{4}-.*Z$/)
    const address = '127.0.0.1'
    expect(events).toEqual([
      {
        event: 'exchange.ok',
        id: 'spiffe://test.internal/ci/5678',
        rule: 'deploy',
        issuer: 'ci',
        subjectHash: expect.stringMatching(/^[\w-]{43}$/),
        serial,
        expires,
        address,
      },
      { event: 'exchange.ok', id: 'spiffe://test.internal/member/anna', rule: 'join-token', serial, expires, address },
    ])
    for (const piece of [...token.split('.'), joinToken, 'repo:acme'])
      expect(JSON.stringify(events)).not.toContain(piece)
  })

  test('refuses join tokens that are used, expired or made up, each with its reason', async () => {
    const { redeem, invite } = await startExchange()
    const [used, late] = [invite(), invite()]
    await redeem(used)
    const reasons = [await refusalOf(redeem(used)), await refusalOf(redeem('A'.repeat(43)))]
    clock.advance(900_001)
    reasons.push(await refusalOf(redeem(late)))
    const expected = ['TOKEN_REUSED', 'TOKEN_UNKNOWN', 'TOKEN_EXPIRED']
    expect(reasons.map(({ message }) => /\((\w+)\)$/.exec(message)?.[1])).toEqual(expected)
    for (const { message, next } of reasons) expect(`${message} ${next}`).toContain('nsm invite')
    expect(events.slice(1).map(({ reason }) => reason)).toEqual(expected)
    for (const piece of [used, late]) expect(JSON.stringify(events)).not.toContain(piece)
  })

  test('refuses a broken request before it looks at the token, which stays good', async () => {
    const { redeem, invite } = await startExchange()
    const token = invite()
    for (const csr of [new Uint8Array(), new Uint8Array(5_000), createCsr(generateKey()).subarray(1)]) {
      expect((await refusalOf(redeem(token, csr))).code).toBe('IDENTITY')
    }
    expect(events.map(({ reason }) => reason)).toEqual(['CSR_INVALID', 'CSR_INVALID', 'CSR_INVALID'])
    expect((await redeem(token)).spiffeId).toBe('spiffe://test.internal/member/anna')
  })

  test('refuses who is denied, at the exchange and at the renewal, and names him', async () => {
    const denied = 'spiffe://test.internal/member/mallory'
    const { mesh, server, redeem, invite } = await startExchange((id) => id === denied)
    expect((await refusalOf(redeem(invite(denied)))).message).toContain('DENIED')
    const channel = mesh.channel(server, mesh.source('/member/mallory'))
    const csr = createCsr(generateKey())
    await refusalOf(renewIdentity(channel, { csr, trustDomain: 'test.internal' }))
    expect(events).toEqual([
      expect.objectContaining({ event: 'exchange.deny', reason: 'DENIED' }),
      { event: 'exchange.deny', id: denied, reason: 'DENIED', address: '127.0.0.1' },
    ])
  })

  test('records a renewal, and the refusal of one that brings its old key', async () => {
    const { mesh, server } = await startExchange()
    const source = mesh.source('/member/anna')
    const channel = mesh.channel(server, source)
    const wanted = { trustDomain: 'test.internal' }
    await renewIdentity(channel, { ...wanted, csr: createCsr(generateKey()) })
    await refusalOf(renewIdentity(channel, { ...wanted, csr: createCsr(source.current().svid.privateKey) }))
    const id = 'spiffe://test.internal/member/anna'
    expect(events).toEqual([
      expect.objectContaining({ event: 'exchange.ok', id, rule: 'renewal' }),
      expect.objectContaining({ event: 'exchange.deny', id, reason: 'CSR_INVALID' }),
    ])
  })

  test.each([
    ['/site/berlin', 'TOKEN_UNKNOWN'],
    ['/member/mallory', 'RATE_LIMITED'],
  ])('holds guesses that %s passes on against it, the last one is %s', async (path, reason) => {
    const { mesh, server } = await startExchange()
    const channel = mesh.channel(server, mesh.source(path))
    const credential = { case: 'joinToken' as const, value: 'A'.repeat(43) }
    const guess = () => channel.unary(IdentityService.method.exchange, { credential, csr: createCsr(generateKey()) })
    let last = ''
    for (let i = 0; i < 25; i++) last = (await refusalOf(guess())).message
    expect(last).toContain(reason)
  })

  test('sends away who guesses, and lets a fleet behind the same address in', async () => {
    const { show, redeem, invite } = await startExchange()
    for (let i = 0; i < 15; i++) await redeem(invite(`spiffe://test.internal/member/m${i}`))
    const guesses = []
    for (let i = 0; i < 22; i++) guesses.push((await refusalOf(redeem('A'.repeat(43)))).message)
    expect(guesses.filter((message) => message.includes('TOKEN_UNKNOWN'))).toHaveLength(20)
    expect((await refusalOf(show(await issuer.token(good)))).message).toContain('exhausted')
    clock.advance(2_000)
    expect((await show(await issuer.token(good))).spiffeId).toBe('spiffe://test.internal/ci/5678')
    expect(events.filter(({ event }) => event === 'exchange.ok')).toHaveLength(16)
  })
})
