import { existsSync } from 'node:fs'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { createLog, silentLog } from '../../src/base/log.ts'
import { startRuntime } from '../../src/daemon/runtime.ts'
import { type RunningServe, type ServeSettings, startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { createCsr } from '../../src/identity/csr.ts'
import { parseJoinString } from '../../src/identity/join-string.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { fetchConfiguration, renewIdentity } from '../../src/nsm/exchange.ts'
import { createIdleMachine } from '../support/idle-machine.ts'
import { startIssuer, type TestIssuer } from '../support/oidc-issuer.ts'

let dir: string
let issuer: TestIssuer
const closers: (() => Promise<unknown>)[] = []
const lines: string[] = []
const { signal } = new AbortController()
const log = createLog({ level: 'debug', format: 'json', write: (line) => lines.push(line), wallMs: Date.now })
const good = { repository_id: '5678', environment: 'production' }

beforeEach(async () => {
  lines.length = 0
  dir = await mkdtemp(join(tmpdir(), 'nsm-oidc-'))
  issuer = await startIssuer()
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  await issuer.close()
  await rm(dir, { recursive: true, force: true })
})

async function serve(more: Partial<ServeSettings> = {}, name = 'server'): Promise<RunningServe> {
  const dirs = { stateDir: join(dir, name), runtimeDir: join(dir, name, 'run') }
  const network = { service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal' }
  const listen = { listen: '127.0.0.1:0', wireguardPort: 0, trustDomain: 'test.internal' }
  const running = await startServe({ ...network, ...dirs, ...listen, ...more }, log, signal)
  closers.push(running.stop)
  return running
}

function byFlags(allowed = ['repository_id=5678,environment=production']) {
  return serve({ issuers: { url: issuer.url, allowed } })
}

function sessions(name: string): Sessions {
  const dirs = { stateDir: join(dir, name), runtimeDir: join(dir, name, 'run') }
  const settings = { ...dirs, logLevel: 'info' as const, resolvConf: join(dir, 'resolv.conf') }
  const opened = new Sessions({ settings, clock: systemClock, log: silentLog })
  closers.push(() => opened.close())
  return opened
}

describe('nsm serve with an issuer', () => {
  test('takes an ID token from a machine that has nothing else, and the machine stores nothing', async () => {
    const { openJoinString: joinString = '' } = await byFlags()
    expect(joinString).not.toContain('jt=')
    const job = sessions('job')
    const session = await job.open({ joinString, idToken: await issuer.token(good) }, signal)
    const host = new URL(issuer.url).host.replace(':', '_3a')
    const { svid } = session.source.current()
    expect(svid.spiffeId).toBe(`spiffe://test.internal/oidc/${host}/repo_3aacme_2fapp`)
    expect(svid.notAfterMs - Date.now()).toBeLessThanOrEqual(3_600_000)
    expect((await session.registry.findServices({}, signal)).map(({ name }) => name)).toEqual(['blue'])
    expect(existsSync(join(dir, 'job'))).toBe(false)
    expect(await job.open({}, signal)).toBe(session)
    expect(await job.open({ joinString, idToken: await issuer.token(good) }, signal)).toBe(session)
  })

  test('is all that a job needs to connect: the audience, the token, the service', async () => {
    const { openJoinString: joinString = '' } = await byFlags()
    const settings = {
      stateDir: join(dir, 'job'),
      runtimeDir: dir,
      logLevel: 'error' as const,
      resolvConf: '/dev/null',
    }
    const machine = createIdleMachine()
    const runtime = await startRuntime({ settings, clock: systemClock, log: silentLog, onCount: () => {}, machine })
    closers.push(() => runtime.close())
    const secrets = { joinString, idToken: await issuer.token(good) }
    const lists = { labels: {}, allowPrefixes: [], excludePrefixes: [] }
    const request = { services: ['blue'], ...lists, dnsMode: 'fanout' as const, dns: 'off' as const, timeoutMs: 60_000 }
    const { connections } = await runtime.connect({ ...request, ...secrets }, () => {}, signal)
    expect(connections).toMatchObject([{ service: 'blue', state: 'up' }])
    expect((await runtime.whoami()).spiffeId).toMatch('/oidc/')
    expect(await readdir(join(dir, 'job'))).not.toContain('identities')
  })

  test.each([{ all: false }, { all: true }, { all: false, whose: 'test.internal' }])(
    'is forgotten by a logout of %j, with its identity',
    async (request) => {
      const { openJoinString: joinString = '' } = await byFlags()
      const job = sessions('job')
      const { source } = await job.open({ joinString, idToken: await issuer.token(good) }, signal)
      const { spiffeId } = source.current().svid
      expect(await job.logout(request)).toEqual({ apiVersion: 'nsm/logout/v1', forgotten: [spiffeId] })
      await expect(job.open({}, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
    },
  )

  test('is kept where a logout names an identity that this machine does not have', async () => {
    const { openJoinString: joinString = '' } = await byFlags()
    const job = sessions('job')
    const session = await job.open({ joinString, idToken: await issuer.token(good) }, signal)
    await expect(job.logout({ all: false, whose: 'tset.internal' })).rejects.toMatchObject({ code: 'NOT_FOUND' })
    expect(await job.open({}, signal)).toBe(session)
  })

  test('takes issuers of a file', async () => {
    const rule = { name: 'deploy', match: good, id: '/ci/{repository_id}', ttl: '2m' }
    const path = join(dir, 'issuers.json')
    const text = JSON.stringify({ issuers: [{ name: 'ci', issuer: issuer.url, rules: [rule] }] })
    await writeFile(path, text)
    const { openJoinString: joinString = '' } = await serve({ issuers: { path } })
    const session = await sessions('job').open({ joinString, idToken: await issuer.token(good) }, signal)
    expect(session.source.current().svid.spiffeId).toBe('spiffe://test.internal/ci/5678')
    expect(session.source.current().svid.notAfterMs - Date.now()).toBeLessThanOrEqual(120_000)
  })

  test('refuses with a reason that reaches the caller, one token for two machines among them', async () => {
    const { openJoinString: joinString = '' } = await byFlags()
    const used = await issuer.token(good)
    await sessions('first').open({ joinString, idToken: used }, signal)
    const other = sessions('other')
    const cases = [
      [used, 'REFUSED', 'TOKEN_REUSED'],
      [await issuer.token({ ...good, repository_id: '1' }), 'REFUSED', 'NO_RULE'],
      [await issuer.token({ ...good, aud: 'x' }), 'IDENTITY', 'nsm://test.internal (TOKEN_AUDIENCE)'],
      [await issuer.token({ ...good, iss: 'https://evil.example' }), 'IDENTITY', 'ISSUER_UNKNOWN'],
    ] as const
    for (const [idToken, code, text] of cases) {
      const refused = other.open({ joinString, idToken }, signal)
      await expect(refused).rejects.toMatchObject({ code, message: expect.stringContaining(text) })
    }
    await expect(other.open({ joinString }, signal)).rejects.toMatchObject({
      code: 'IDENTITY',
      next: expect.stringContaining('--token-file'),
    })
  })

  test('writes a line for each identity and each refusal, and no token in any', async () => {
    const { openJoinString: joinString = '' } = await byFlags()
    const [idToken, bad] = [await issuer.token(good), await issuer.token({ ...good, environment: 'canary' })]
    await sessions('job').open({ joinString, idToken }, signal)
    await sessions('bad')
      .open({ joinString, idToken: bad }, signal)
      .catch(() => {})
    const written = lines.map((line): Record<string, unknown> => JSON.parse(line))
    expect(written.find(({ sentence }) => sentence === 'identity issued for an ID token')).toMatchObject({
      peer: expect.stringContaining('/oidc/'),
      issuer: 'issuer',
      rule: 'allow-1',
      address: '127.0.0.1',
      serial: expect.stringMatching(/^[0-9A-F]+$/),
      subjectHash: expect.stringMatching(/^[\w-]{43}$/),
    })
    expect(written.find(({ sentence }) => sentence === 'an ID token gave no identity')).toMatchObject({
      error: expect.stringContaining('NO_RULE'),
    })
    for (const part of [...idToken.split('.'), ...bad.split('.'), 'canary', 'repo:acme']) {
      expect(lines.join('\n')).not.toContain(part)
    }
  })

  test('renews the identity of a token with a new key, for no longer than its rule says', async () => {
    const { openJoinString: joinString = '' } = await byFlags()
    const session = await sessions('job').open({ joinString, idToken: await issuer.token(good) }, signal)
    const renew = () =>
      renewIdentity(session.channel, { csr: createCsr(generateKey()), trustDomain: 'test.internal' }, signal)
    const renewed = await renew()
    expect(renewed.notAfterMs - Date.now()).toBeLessThanOrEqual(3_600_000)
    expect(renewed.spiffeId).toBe(session.source.current().svid.spiffeId)
  })

  test('that is started without the issuer again renews nothing of it, and join tokens as before', async () => {
    const first = await byFlags()
    const job = await sessions('job').open(
      { joinString: first.openJoinString ?? '', idToken: await issuer.token(good) },
      signal,
    )
    const laptop = sessions('laptop')
    await laptop.open({ joinString: first.joinString }, signal)
    await first.stop()
    const second = await serve({ listen: `127.0.0.1:${first.info.port}` })
    expect(second.openJoinString).toBeUndefined()
    const csr = createCsr(generateKey())
    const wanted = { csr, trustDomain: 'test.internal' }
    await expect(renewIdentity(job.channel, wanted, signal)).rejects.toMatchObject({
      message: expect.stringContaining('NO_RULE'),
    })
    const member = await laptop.open({}, signal)
    expect((await renewIdentity(member.channel, wanted, signal)).notAfterMs - Date.now()).toBeGreaterThan(80_000_000)
  })

  test('an issuer that is away is UNREACHABLE, and join tokens go on', async () => {
    const { openJoinString = '', joinString } = await byFlags()
    issuer.answer(503)
    const idToken = await issuer.token(good)
    await expect(sessions('job').open({ joinString: openJoinString, idToken }, signal)).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('ISSUER_UNREACHABLE'),
    })
    await sessions('laptop').open({ joinString }, signal)
  })

  test('says it as soon as the file has an issuer, and no more when it has none', async () => {
    const path = join(dir, 'issuers.json')
    const write = (issuers: readonly object[]) => writeFile(path, JSON.stringify({ issuers }))
    await write([])
    const running = await serve({ issuers: { path } })
    const ask = () => inviteFromRunning({ runtimeDir: join(dir, 'server', 'run') }, { open: true, ttlMs: 60_000 })
    expect(running.openJoinString).toBeUndefined()
    await expect(ask()).rejects.toMatchObject({ code: 'USAGE', message: expect.stringContaining('no issuer') })
    await write([
      { name: 'ci', issuer: issuer.url, rules: [{ name: 'deploy', match: good, id: '/ci/{repository_id}' }] },
    ])
    await running.reload()
    const { joinString } = await ask()
    const session = await sessions('job').open({ joinString, idToken: await issuer.token(good) }, signal)
    expect(session.source.current().svid.spiffeId).toBe('spiffe://test.internal/ci/5678')
    await write([])
    await running.reload()
    await expect(ask()).rejects.toMatchObject({ code: 'USAGE' })
  })

  test('says its join string without a token again, as often as it is asked', async () => {
    const { openJoinString } = await byFlags()
    const settings = { runtimeDir: join(dir, 'server', 'run') }
    const { joinString, expiresMs } = await inviteFromRunning(settings, { open: true, ttlMs: 60_000 })
    expect([joinString, expiresMs]).toEqual([openJoinString, undefined])
  })

  test('a further site passes tokens on to the first one and has no issuers of its own', async () => {
    const first = await byFlags()
    const settings = { runtimeDir: join(dir, 'server', 'run') }
    const invited = await inviteFromRunning(settings, { endpoint: true, id: 'berlin', ttlMs: 60_000 })
    const site = { joinString: invited.joinString, site: 'berlin' }
    const issuers = { url: issuer.url, allowed: ['a=b'] }
    await expect(serve({ ...site, issuers }, 'wrong')).rejects.toMatchObject({ code: 'USAGE' })
    const second = await serve(site, 'berlin')
    const joinString = (first.openJoinString ?? '').replace(`:${first.info.port}/`, `:${second.info.port}/`)
    const { issuers: told } = await fetchConfiguration(
      { join: parseJoinString(joinString), clock: systemClock },
      signal,
    )
    expect(told).toMatchObject([{ issuerUrl: issuer.url, audience: 'nsm://test.internal', flows: ['ci'] }])
    const job = await sessions('job').open({ joinString, idToken: await issuer.token(good) }, signal)
    const csr = createCsr(generateKey())
    const renewed = await renewIdentity(job.channel, { csr, trustDomain: 'test.internal' }, signal)
    expect(renewed.notAfterMs - Date.now()).toBeLessThanOrEqual(3_600_000)
  })

  test.each([
    ['rules that cannot be read', ['repository_id']],
    ['no rule', []],
  ])('with %s does not start', async (_what, allowed) => {
    await expect(byFlags(allowed)).rejects.toMatchObject({ code: 'USAGE' })
    expect(await readdir(join(dir, 'server', 'run'))).not.toContain('serve.sock')
  })
})
