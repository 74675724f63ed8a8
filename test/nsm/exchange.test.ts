import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { createCsr } from '../../src/identity/csr.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { stateFromIssued } from '../../src/identity/svid.ts'
import { openAnonymousChannel } from '../../src/nsm/channel.ts'
import { exchangeJoinToken, renewIdentity, watchBundles } from '../../src/nsm/exchange.ts'
import { identityService } from '../../src/nsm/exchange-server.ts'
import { Health } from '../../src/nsm/generated/health_pb.js'
import { IdentityService } from '../../src/nsm/generated/identity_pb.js'
import { type JoinTokens, openJoinTokens } from '../../src/nsm/join-tokens.ts'
import { FakeClock, TestMesh } from './mesh.ts'

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

const spiffeId = 'spiffe://test.internal/member/anna'
const signal = () => AbortSignal.timeout(120_000)

async function startAuthority(clock = new FakeClock(), isDenied = (_id: string) => false) {
  const mesh = new TestMesh('test.internal', clock)
  open.push(() => mesh.close())
  const joinTokens = openJoinTokens(':memory:')
  open.push(() => joinTokens.close())
  const { authority } = mesh
  const server = await mesh.serve(identityService({ authority, joinTokens, isDenied, clock, log: silentLog }))
  const invite = (change: { readonly pin?: string; readonly token?: string; readonly trustDomain?: string } = {}) => ({
    address: '127.0.0.1',
    port: server.port,
    trustDomain: authority.trustDomain,
    pin: authority.rootSpkiPin,
    token: joinTokens.create({ spiffeId, expiresMs: clock.wallMs() + 900_000 }),
    ...change,
  })
  return { mesh, clock, server, authority, invite }
}

describe('a join token', () => {
  test('becomes an identity that the server accepts, over TLS that the pin vouches for', async () => {
    const { mesh, clock, server, invite } = await startAuthority()
    const key = generateKey()
    const issued = await exchangeJoinToken({ join: invite(), csr: createCsr(key), clock }, signal())
    expect(issued.spiffeId).toBe(spiffeId)
    const source = createFixedSource(stateFromIssued(issued, key, clock.wallMs()), clock)
    const channel = mesh.channel(server, source)
    expect((await channel.unary(Health.method.check, {})).message.status).toBe(1)
  })

  test('may be shown again with the same key, and with no other', async () => {
    const { clock, invite } = await startAuthority()
    const joined = invite()
    const key = generateKey()
    const first = await exchangeJoinToken({ join: joined, csr: createCsr(key), clock }, signal())
    const again = await exchangeJoinToken({ join: joined, csr: createCsr(key), clock }, signal())
    expect(again.spiffeId).toBe(first.spiffeId)
    const other = exchangeJoinToken({ join: joined, csr: createCsr(generateKey()), clock }, signal())
    await expect(other).rejects.toMatchObject({ code: 'IDENTITY', message: expect.stringContaining('TOKEN_REUSED') })
  })

  test('is refused when it is expired, made up or missing', async () => {
    const { clock, invite } = await startAuthority()
    const late = invite()
    clock.advance(900_001)
    const ask = (join: Parameters<typeof exchangeJoinToken>[0]['join']) =>
      exchangeJoinToken({ join, csr: createCsr(generateKey()), clock }, signal())
    await expect(ask(late)).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringContaining('TOKEN_EXPIRED'),
    })
    await expect(ask(invite({ token: 'A'.repeat(43) }))).rejects.toMatchObject({
      message: expect.stringContaining('TOKEN_UNKNOWN'),
    })
    const { token: _dropped, ...without } = invite()
    await expect(ask(without)).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test('is not used up by a request that cannot be read', async () => {
    const { clock, authority, server, invite } = await startAuthority()
    const joined = invite()
    const channel = openAnonymousChannel({ target: server, bundles: authority.bundles, clock })
    open.push(() => channel.close())
    const credential = { case: 'joinToken' as const, value: joined.token }
    for (const csr of [new Uint8Array(), new Uint8Array(5_000), createCsr(generateKey()).slice(3)]) {
      await expect(channel.unary(IdentityService.method.exchange, { credential, csr })).rejects.toMatchObject({
        code: 'IDENTITY',
      })
    }
    expect((await exchangeJoinToken({ join: joined, csr: createCsr(generateKey()), clock }, signal())).spiffeId).toBe(
      spiffeId,
    )
  })

  test('is never sent to a server with another root', async () => {
    const { clock, invite } = await startAuthority()
    const joined = invite({ pin: `sha256-${'A'.repeat(43)}` })
    const wrong = exchangeJoinToken({ join: joined, csr: createCsr(generateKey()), clock }, signal())
    await expect(wrong).rejects.toMatchObject({ code: 'IDENTITY', exitCode: 4 })
  })

  test('gives nothing to a denied identity', async () => {
    const { clock, invite } = await startAuthority(new FakeClock(), () => true)
    const asked = exchangeJoinToken({ join: invite(), csr: createCsr(generateKey()), clock }, signal())
    await expect(asked).rejects.toMatchObject({ code: 'IDENTITY', message: expect.stringContaining('DENIED') })
  })

  test('tries of one address run out', async () => {
    const { clock, authority, server } = await startAuthority()
    const channel = openAnonymousChannel({ target: server, bundles: authority.bundles, clock })
    open.push(() => channel.close())
    const credential = { case: 'joinToken' as const, value: 'guess' }
    const codes: string[] = []
    for (let i = 0; i < 22; i++) {
      await channel
        .unary(IdentityService.method.exchange, { credential, csr: createCsr(generateKey()) })
        .catch((error: { code: string }) => codes.push(error.code))
    }
    expect(codes.slice(0, 20).every((code) => code === 'IDENTITY')).toBe(true)
    expect(codes.slice(20)).toEqual(['CONFLICT', 'CONFLICT'])
  })
})

describe('an anonymous caller', () => {
  test('reads the configuration and nothing else', async () => {
    const { clock, authority, server } = await startAuthority()
    const channel = openAnonymousChannel({ target: server, bundles: authority.bundles, clock })
    open.push(() => channel.close())
    const { message } = await channel.unary(IdentityService.method.getConfiguration, {})
    expect(message.trustDomain).toBe('test.internal')
    await expect(channel.unary(Health.method.check, {})).rejects.toMatchObject({ code: 'IDENTITY' })
    await expect(renewIdentity(channel, { csr: createCsr(generateKey()), trustDomain: 'x' })).rejects.toMatchObject({
      code: 'IDENTITY',
    })
    await expect(watchBundles(channel).next()).rejects.toMatchObject({ code: 'IDENTITY' })
  })
})

describe('a renewal', () => {
  test('gives the same identity to a new key, and refuses the old key', async () => {
    const { mesh, server, clock } = await startAuthority()
    const state = mesh.issue('/member/bob')
    const channel = mesh.channel(server, createFixedSource(state, clock))
    const key = generateKey()
    const renewed = await renewIdentity(channel, { csr: createCsr(key), trustDomain: 'test.internal' })
    expect(stateFromIssued(renewed, key, clock.wallMs()).svid.spiffeId).toBe('spiffe://test.internal/member/bob')
    const same = renewIdentity(channel, { csr: createCsr(state.svid.privateKey), trustDomain: 'test.internal' })
    await expect(same).rejects.toMatchObject({ code: 'IDENTITY', message: expect.stringContaining('new key') })
  })

  test('comes with the bundles, which may be watched', async () => {
    const { mesh, server, authority } = await startAuthority()
    for await (const { bundles } of watchBundles(mesh.channel(server))) {
      expect([...bundles.keys()]).toEqual(['test.internal'])
      expect(Buffer.from(bundles.get('test.internal')?.[0] ?? [])).toEqual(Buffer.from(authority.rootDer))
      break
    }
  })
})

describe('the file of join tokens', () => {
  test('survives a restart and holds no token', () => {
    const dir = mkdtempSync(join(tmpdir(), 'nsm-join-'))
    open.push(() => rmSync(dir, { recursive: true }))
    const path = join(dir, 'join.db')
    const use = <T>(action: (tokens: JoinTokens) => T): T => {
      const tokens = openJoinTokens(path)
      try {
        return action(tokens)
      } finally {
        tokens.close()
      }
    }
    const token = use((tokens) => tokens.create({ spiffeId, expiresMs: 1_000 }))
    expect(readFileSync(path).includes(token)).toBe(false)
    const publicKey = new Uint8Array([1])
    expect(use((tokens) => tokens.redeem(token, { publicKey, nowMs: 500 }))).toBe(spiffeId)
    const other = { publicKey: new Uint8Array([2]), nowMs: 500 }
    expect(() => use((tokens) => tokens.redeem(token, other))).toThrow('TOKEN_REUSED')
  })
})
