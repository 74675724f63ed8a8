import { createPublicKey, verify } from 'node:crypto'
import { afterEach, describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { systemClock } from '../../src/base/clock.ts'
import { toNsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { createCsr, verifyCsr } from '../../src/identity/csr.ts'
import { openEphemeral } from '../../src/identity/enrolled.ts'
import { holdJwtBundles } from '../../src/identity/jwt-bundles.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { createAuthorityJwt } from '../../src/nsm/authority-jwt.ts'
import { followBundles } from '../../src/nsm/bundle-stream.ts'
import { openAnonymousChannel, openChannel } from '../../src/nsm/channel.ts'
import { exchangeIdToken } from '../../src/nsm/exchange.ts'
import { identityService } from '../../src/nsm/exchange-server.ts'
import { IdentityService } from '../../src/nsm/generated/identity_pb.js'
import { openJoinTokens } from '../../src/nsm/join-tokens.ts'
import { createJwtIssuer } from '../../src/nsm/jwt-issuer.ts'
import { FakeClock, TestMesh } from './mesh.ts'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

const { signal } = new AbortController()
const spiffeId = 'spiffe://a.test/member/anna'
const { fetchJwtSvid } = IdentityService.method

/** A server that signs tokens, or with `isOld` one that does not know them yet, and what its policy says. */
async function server(isOld = false) {
  const clock = new FakeClock()
  const mesh = new TestMesh('a.test', clock)
  const joinTokens = openJoinTokens(':memory:')
  closers.push(
    () => mesh.close(),
    () => joinTokens.close(),
  )
  const { authority } = mesh
  const events: AuditEvent[] = []
  const audit = { record: (event: AuditEvent) => void events.push(event) }
  const admission = { isExcluded: (_id: string) => false, isAdmitted: (_id: string) => true }
  const issueJwt = createJwtIssuer({ authority, admission, clock, audit })
  const parts = { authority, joinTokens, clock, log: silentLog, ...(isOld ? {} : { issueJwt }) }
  const running = await mesh.serve(identityService(parts))
  const join = { address: '127.0.0.1', port: running.port, trustDomain: 'a.test', pin: authority.rootSpkiPin }
  return { clock, mesh, authority, events, admission, running, join }
}

/** A member of it with its tokens, as a background process has them. */
async function member(of: Awaited<ReturnType<typeof server>>, ttlMs = 3_600_000) {
  const { mesh, clock, running, authority } = of
  const exchange = async (csr: Uint8Array) => authority.issueForKey({ ...verifyCsr(csr), spiffeId, ttlMs })
  const around = { clock, log: silentLog, jitter: () => 0 }
  const source = await openEphemeral({ ...around, serverUrl: 'x', exchange, renew: exchange })
  const channel = openChannel({ target: running, source, clock })
  const keys = holdJwtBundles()
  const following = followBundles({ channel, source, keys, ...around })
  closers.push(
    () => source.close(),
    () => channel.close(),
    () => following.close(),
  )
  await expect.poll(() => keys.current()).toBeDefined()
  let asked = 0
  const counted: typeof channel = {
    ...channel,
    unary(method, ...rest) {
      if (method.name === fetchJwtSvid.name) asked++
      return channel.unary(method, ...rest)
    },
  }
  const jwt = createAuthorityJwt({ channel: counted, keys, clock })
  const fetch = async (audience: readonly string[], wanted = '') => {
    const { svids } = await jwt.fetch({ audience: [...audience], spiffeId: wanted }, signal)
    return svids[0]?.svid ?? ''
  }
  return { mesh, channel, keys, jwt, fetch, asked: () => asked }
}

const claimsOf = (token: string) => JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())

describe('a member of our authority', () => {
  test('gets tokens for its own ID, which the published keys and the server itself vouch for', async () => {
    const at = await server()
    const { jwt, fetch } = await member(at)
    const token = await fetch(['web', 'db'], spiffeId)
    expect(claimsOf(token)).toMatchObject({ sub: spiffeId, aud: ['db', 'web'] })
    expect(await jwt.validate({ audience: 'web', svid: token }, signal)).toMatchObject({
      spiffeId,
      claims: { sub: spiffeId },
    })
    const jwks = await firstOf(jwt.bundles(signal))
    const [key] = JSON.parse(Buffer.from(jwks?.bundles['spiffe://a.test'] ?? []).toString()).keys
    expect(key).not.toHaveProperty('use')
    const [head = '', body = '', signature = ''] = token.split('.')
    const publicKey = createPublicKey({ key, format: 'jwk' })
    const isSigned = verify(
      'sha256',
      Buffer.from(`${head}.${body}`),
      { key: publicKey, dsaEncoding: 'ieee-p1363' },
      Buffer.from(signature, 'base64url'),
    )
    expect(isSigned).toBe(true)
    expect(at.events).toEqual([
      expect.objectContaining({ event: 'jwt.ok', id: spiffeId, address: '127.0.0.1', audience: 'db web' }),
    ])
    expect(JSON.stringify(at.events)).not.toContain(signature)
  })

  test('asks once for each set of audiences until half its life is over, however many ask', async () => {
    const at = await server()
    const { fetch, asked } = await member(at)
    const [first, ...others] = await Promise.all([fetch(['a', 'b']), fetch(['b', 'a']), fetch(['a', 'b', 'a'])])
    expect(new Set([first, ...others]).size).toBe(1)
    expect(await fetch(['a'])).not.toBe(first)
    at.clock.advance(149_000)
    expect([await fetch(['a', 'b']), asked()]).toEqual([first, 2])
    at.clock.advance(2_000)
    expect(await fetch(['a', 'b'])).not.toBe(first)
    expect(asked()).toBe(3)
  })

  test('never has a token that outlives its certificate', async () => {
    const at = await server()
    const { fetch } = await member(at, 120_000)
    expect(claimsOf(await fetch(['web'])).exp * 1_000).toBeLessThanOrEqual(at.clock.wallMs() + 120_000)
  })

  test('goes on with what it has while the server is away, and says so when that is over', async () => {
    const at = await server()
    const { fetch, jwt } = await member(at)
    const kept = await fetch(['web'])
    await at.running.stop()
    at.clock.advance(200_000)
    expect(await fetch(['web'])).toBe(kept)
    expect(await jwt.validate({ audience: 'web', svid: kept }, signal)).toMatchObject({ spiffeId })
    at.clock.advance(75_000)
    let code: unknown
    void fetch(['web']).catch((error: unknown) => {
      code = toNsmError(error).code
    })
    // It waits for the server first.
    const inAWhile = () => {
      at.clock.advance(1_000)
      return code
    }
    await expect.poll(inAWhile).toBe('UNREACHABLE')
  })

  test('gets none of another ID', async () => {
    const { fetch } = await member(await server())
    await expect(fetch(['web'], 'spiffe://a.test/member/bob')).rejects.toMatchObject({ code: 'PERMISSION' })
  })

  test.each([
    ['none', []],
    ['an empty one', ['web', '']],
    ['too many', Array.from({ length: 17 }, (_, i) => `a${i}`)],
    ['too long ones', ['a'.repeat(2_049), 'b'.repeat(2_048)]],
  ])('gets none for audiences that are not allowed: %s', async (_what, audience) => {
    const at = await server()
    const { fetch } = await member(at)
    await expect(fetch(audience)).rejects.toMatchObject({
      code: 'USAGE',
      message: expect.stringContaining('1 to 16 audiences'),
    })
    expect(at.events).toEqual([expect.objectContaining({ event: 'jwt.deny', id: spiffeId, reason: 'USAGE' })])
  })

  test('gets none once the policy lets it do nothing, though it has one that is good', async () => {
    const at = await server()
    const { fetch } = await member(at)
    await fetch(['web'])
    at.clock.advance(151_000)
    at.admission.isAdmitted = () => false
    const refused = { code: 'PERMISSION', message: expect.stringContaining('NOT_GRANTED') }
    await expect(fetch(['web'])).rejects.toMatchObject(refused)
    at.admission.isExcluded = () => true
    await expect(fetch(['web'])).rejects.toMatchObject({
      code: 'PERMISSION',
      message: expect.stringContaining('DENIED'),
    })
    expect(at.events.slice(1).map(({ event, id }) => [event, id])).toEqual([
      ['jwt.deny', spiffeId],
      ['jwt.deny', spiffeId],
    ])
  })

  test('is held to 200 new tokens at once and 20 a second, and keeps the one it has meanwhile', async () => {
    const at = await server()
    const { channel, fetch } = await member(at)
    const ask = () => channel.unary(fetchJwtSvid, { audience: ['web'] })
    const kept = await fetch(['web'])
    at.clock.advance(151_000)
    for (let i = 0; i < 200; i++) await ask()
    await expect(ask()).rejects.toMatchObject({ code: 'CONFLICT', message: expect.stringContaining('RATE_LIMITED') })
    expect(await fetch(['web'])).toBe(kept)
    at.clock.advance(50)
    await ask()
  })

  test('is told that a server of an older version signs none', async () => {
    const at = await server(true)
    const { jwt, fetch, channel } = await member(at)
    expect(jwt.isSigning).toBe(false)
    await expect(fetch(['web'])).rejects.toMatchObject({ message: expect.stringContaining('signs no JWT-SVIDs') })
    await expect(channel.unary(fetchJwtSvid, { audience: ['web'] })).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('sees a new key before it signs, and old tokens are good until the old key is dropped', async () => {
    const at = await server()
    const { jwt, keys, fetch } = await member(at)
    const early = await fetch(['web'])
    const held = () => keys.current()?.get('a.test')?.length
    await at.authority.rotation.begin(0)
    await expect.poll(held).toBe(2)
    at.clock.advance(1)
    await expect.poll(() => at.authority.rotation.view().phase).toBe('issuing')
    at.clock.advance(299_000)
    expect(await jwt.validate({ audience: 'web', svid: early }, signal)).toMatchObject({ spiffeId })
    at.clock.advance(1_000)
    await at.authority.rotation.finish()
    await expect.poll(held).toBe(1)
    await expect(jwt.validate({ audience: 'web', svid: early }, signal)).rejects.toMatchObject({ code: 'USAGE' })
  })
})

describe('tokens of our authority', () => {
  test('are nobody’s login at the server that signed them', async () => {
    const at = await server()
    const { fetch } = await member(at)
    const token = await fetch(['nsm://a.test'])
    const shown = { join: at.join, idToken: token, csr: createCsr(generateKey()), clock: systemClock }
    await expect(exchangeIdToken(shown, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
    const { join, authority, clock } = at
    const channel = openAnonymousChannel({ target: join, bundles: authority.bundles, clock })
    closers.push(() => channel.close())
    const credential = { case: 'jwtSvid' as const, value: token }
    const exchanged = channel.unary(IdentityService.method.exchange, { credential, csr: shown.csr })
    await expect(exchanged).rejects.toMatchObject({ code: 'IDENTITY', message: expect.stringContaining('NO_RULE') })
  })

  test('are not given to who shows no certificate, or one of another domain', async () => {
    const at = await server()
    const { join, authority, clock } = at
    const anonymous = openAnonymousChannel({ target: join, bundles: authority.bundles, clock })
    closers.push(() => anonymous.close())
    const asked = anonymous.unary(fetchJwtSvid, { audience: ['web'] })
    await expect(asked).rejects.toMatchObject({ code: 'IDENTITY' })
    const issueJwt = createJwtIssuer({ ...at, authority })
    const { svid } = new TestMesh('b.test').issue('/member/bob')
    const [certificate = new Uint8Array()] = svid.chain
    const ask = () => issueJwt({ spiffeId: svid.spiffeId, certificate, address: '::1' }, ['web'])
    expect(ask).toThrow(expect.objectContaining({ code: 'IDENTITY' }))
  })
})

describe('keys that the server has not told yet', () => {
  const unreached = (clock: FakeClock) => {
    const channel = { ownId: () => spiffeId, unary: () => Promise.reject(new Error('not asked')) }
    const keys = holdJwtBundles()
    return { keys, jwt: createAuthorityJwt({ channel, keys, clock }) }
  }

  test('are waited for', async () => {
    const { keys, jwt } = unreached(new FakeClock())
    const first = firstOf(jwt.bundles(signal))
    keys.set(new TestMesh('a.test').authority.jwtBundles)
    expect(Object.keys((await first)?.bundles ?? {})).toEqual(['spiffe://a.test'])
  })

  test('are waited for as long as the caller does, and 10 s at most', async () => {
    const clock = new FakeClock()
    const { jwt } = unreached(clock)
    const late = jwt.validate({ audience: 'web', svid: 'a.b.c' }, signal)
    clock.advance(10_000)
    await expect(late).rejects.toMatchObject({ code: 'UNREACHABLE', message: expect.stringContaining('did not tell') })
    const left = new AbortController()
    const gone = jwt.validate({ audience: 'web', svid: 'a.b.c' }, left.signal)
    left.abort()
    await expect(gone).rejects.toThrow()
  })
})

async function firstOf<T>(all: AsyncIterable<T>): Promise<T | undefined> {
  for await (const one of all) return one
  return undefined
}
