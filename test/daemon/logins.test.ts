import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { createLog } from '../../src/base/log.ts'
import type { Settings } from '../../src/base/settings.ts'
import { obtainLogin } from '../../src/daemon/login.ts'
import type { LoginRequest } from '../../src/daemon/login-protocol.ts'
import { startRuntime } from '../../src/daemon/runtime.ts'
import { type RunningServe, startServe } from '../../src/daemon/serve.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { loadEnrolment, saveEnrolment } from '../../src/identity/enrolment-file.ts'
import { refreshLogin } from '../../src/identity/oidc-refresh.ts'
import { authorityOf, identityOf } from '../identity/fixtures.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { createIdleMachine } from '../support/idle-machine.ts'
import { browse, type LoginProvider, loginClient, startLoginProvider } from '../support/login-provider.ts'

/* A person who logs in once and stays: a real OpenID provider that rotates refresh tokens, a real server. */

let dir: string
let provider: LoginProvider
const closers: (() => Promise<unknown>)[] = []
const { signal } = new AbortController()
const one = { all: false }
const logged: string[] = []
const log = createLog({ level: 'debug', format: 'text', write: (line) => void logged.push(line), wallMs: Date.now })

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-renewal-'))
  provider = await startLoginProvider()
  logged.length = 0
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  await provider.close()
  await rm(dir, { recursive: true, force: true })
})

async function serve(
  times = { ttl: '2h', max_session: '3h' },
  jobs?: { readonly url: string; readonly allowed: readonly string[] },
  trustDomain = 'test.internal',
): Promise<RunningServe> {
  const rules = [{ name: 'staff', match: { sub: ['alice', 'bob'] }, id: '/user/{sub}', ...times }]
  const issuers = [{ name: 'staff', issuer: provider.url, client_id: loginClient, rules }]
  const path = join(dir, 'issuers.json')
  await writeFile(path, JSON.stringify({ issuers }))
  const running = await startServe(
    {
      ...{ service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal', trustDomain },
      ...{ stateDir: join(dir, trustDomain), runtimeDir: join(dir, trustDomain, 'run') },
      ...{ listen: '127.0.0.1:0', wireguardPort: 0, issuers: jobs ?? { path } },
    },
    log,
  )
  closers.push(running.stop)
  return running
}

/** The machine of the person, on a clock that the test sets; only what waits for an answer waits. */
function laptop(): { readonly sessions: Sessions; setAhead(byMs: number): void } {
  let aheadMs = 0
  const clock: Clock = {
    ...systemClock,
    wallMs: () => systemClock.wallMs() + aheadMs,
    after: (delayMs, action) => systemClock.after(delayMs < 30_000 ? delayMs : 10, action),
  }
  const sessions = new Sessions({ settings: settings(), clock, log, environment: {} })
  closers.push(() => sessions.close())
  const setAhead = (byMs: number) => {
    aheadMs = byMs
  }
  return { sessions, setAhead }
}

function settings(): Settings {
  const dirs = { stateDir: join(dir, 'laptop'), runtimeDir: join(dir, 'laptop', 'run') }
  return { ...dirs, logLevel: 'info', resolvConf: join(dir, 'resolv.conf') }
}

async function logIn(joinString: string, login: string, store: LoginRequest['store'] = 'file'): Promise<LoginRequest> {
  const show = ({ page }: { readonly page: string }) => void browse(page, { login, password: 'x' })
  const keep = store !== 'none'
  return { joinString, ...(await obtainLogin(joinString, { method: 'browser', keep, show, signal })), store }
}

const tokenPath = () => join(dir, 'laptop', 'identities', 'test.internal.refresh-token')
const enrolmentPath = () => join(dir, 'laptop', 'identities', 'test.internal.json')
const stored = () => readFileSync(tokenPath(), 'utf8')
const refreshes = () => provider.asked.filter((form) => form.get('grant_type') === 'refresh_token')
const revocations = () => provider.asked.filter((form) => form.has('token'))
const useElsewhere = (refreshToken: string) =>
  refreshLogin({ url: provider.url, clientId: loginClient, scopes: [] }, refreshToken)

/** Logs alice in, and opens what a connect opens. */
async function connected(store: LoginRequest['store'] = 'file') {
  const running = await serve()
  const { openJoinString: joinString = '' } = running
  const machine = laptop()
  const request = await logIn(joinString, 'alice', store)
  const who = await machine.sessions.login(request, signal)
  const { source } = await machine.sessions.open({}, signal)
  // The server's clock stands where it stood: one renewal, then the laptop's does too.
  source.onChange(() => machine.setAhead(0))
  const renewed = async () => {
    const { svid } = source.current()
    machine.setAhead(70 * 60_000)
    await expect.poll(() => source.current().svid === svid).toBe(false)
  }
  return { ...machine, running, joinString, request, who, source, renewed }
}

test('a person logs in, and the laptop is theirs until they log out', async () => {
  const { who, source, sessions } = await connected('none')
  expect(who.spiffeId).toBe('spiffe://test.internal/user/alice')
  expect((who.notAfterMs ?? 0) - Date.now()).toBeLessThanOrEqual(7_200_000)
  const session = await sessions.open({}, signal)
  expect((await session.registry.findServices({}, signal)).map(({ name }) => name)).toEqual(['blue'])
  expect(session.source).toBe(source)
  await sessions.close()

  const { sessions: restarted } = laptop()
  expect(await restarted.whoami()).toEqual(who)
  expect((await restarted.open({}, signal)).source.current().svid.spiffeId).toBe(who.spiffeId)
  expect(await restarted.logout(one)).toEqual({ apiVersion: 'nsm/logout/v1', forgotten: [who.spiffeId] })
  expect(existsSync(enrolmentPath())).toBe(false)
  expect(await restarted.whoami()).toEqual({ apiVersion: 'nsm/whoami/v1' })
  await expect(restarted.open({}, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
  expect(await restarted.logout(one)).toEqual({ apiVersion: 'nsm/logout/v1', forgotten: [] })
})

test('a server whose issuers are for jobs only has no login for people', async () => {
  const { openJoinString = '' } = await serve(
    { ttl: '2h', max_session: '3h' },
    { url: provider.url, allowed: ['sub=x'] },
  )
  await expect(logIn(openJoinString, 'alice')).rejects.toMatchObject({ code: 'NOT_FOUND' })
})

describe('a login that is kept', () => {
  test('renews the identity at half life with a fresh token, and the refresh token is used once', async () => {
    const { renewed, request, source, who } = await connected()
    expect(who.login).toEqual({ issuer: provider.url, store: 'file', reasons: [] })
    expect(stored()).toBe(request.refreshToken)
    await renewed()
    const [first] = refreshes()
    expect([refreshes().length, first?.get('refresh_token')]).toEqual([1, request.refreshToken])
    expect(stored()).not.toBe(request.refreshToken)
    expect(source.current().svid.spiffeId).toBe(who.spiffeId)
    expect(logged.filter((line) => /identity issued for an ID token/.test(line))).toHaveLength(2)
  })

  test('that the issuer refuses says so, asks no more, and the identity goes on until the session ends', async () => {
    const { renewed, sessions, request } = await connected()
    // Somebody else has the token and uses it twice: the issuer sees that and ends the login for everybody.
    await useElsewhere(request.refreshToken ?? '')
    expect(await useElsewhere(request.refreshToken ?? '')).toEqual({ refused: 'invalid_grant' })
    await renewed()
    expect(await sessions.logins.warnings()).toEqual([
      expect.stringMatching(/^log in again with nsm login: .* \(invalid_grant\)$/),
    ])
    expect((await sessions.whoami()).login).toMatchObject({ store: 'none', refused: 'invalid_grant' })
    expect(existsSync(tokenPath())).toBe(false)
    const asked = refreshes().length
    expect(asked).toBe(3)
    await renewed()
    expect(refreshes()).toHaveLength(asked)
    await sessions.close()
    // The next process knows it too.
    const runtime = await startRuntime({ settings: settings(), clock: systemClock, log, onCount: () => {} })
    closers.push(() => runtime.close())
    expect((await runtime.status()).warnings).toEqual([expect.stringMatching(/^log in again with nsm login: /)])
  })

  test('whose fresh token gets lost on its way is over at an issuer without a grace, and says so at once', async () => {
    const { renewed, sessions, request, who } = await connected()
    provider.losesAnswers = true
    await renewed()
    const shown = refreshes().map((form) => form.get('refresh_token'))
    expect(shown).toEqual([request.refreshToken, request.refreshToken])
    provider.losesAnswers = false
    await renewed()
    expect(await sessions.logins.warnings()).toEqual([
      expect.stringMatching(/^log in again with nsm login: .* \(invalid_grant\)$/),
    ])
    expect((await sessions.whoami()).spiffeId).toBe(who.spiffeId)
  })

  test('whose refresh token ended by itself says so', async () => {
    await provider.close()
    provider = await startLoginProvider({ refreshSeconds: 1 })
    const { renewed, sessions } = await connected()
    const endMs = Date.now() + 1_500
    await expect.poll(() => Date.now()).toBeGreaterThan(endMs)
    await renewed()
    expect(await sessions.logins.warnings()).toEqual([expect.stringContaining('invalid_grant')])
  })

  test('lives through an issuer that is away', async () => {
    const { renewed, sessions, request } = await connected()
    provider.isAway = true
    await renewed()
    expect(await sessions.logins.warnings()).toEqual([expect.stringContaining('trying again')])
    expect(stored()).toBe(request.refreshToken)
    provider.isAway = false
    await renewed()
    expect([refreshes().length, await sessions.logins.warnings()]).toEqual([1, []])
  })

  test('brings back an identity that expired while nothing ran, unless the issuer refuses', async () => {
    const { sessions, who } = await connected()
    await sessions.close()
    await letExpire(who.spiffeId ?? '')
    const next = laptop()
    expect((await next.sessions.whoami()).notAfterMs).toBeLessThan(Date.now())
    const { source } = await next.sessions.open({}, signal)
    expect(source.current().svid.spiffeId).toBe(who.spiffeId)
    expect(refreshes()).toHaveLength(1)

    await next.sessions.close()
    await letExpire(who.spiffeId ?? '')
    const token = stored()
    await useElsewhere(token)
    await useElsewhere(token)
    const last = laptop()
    await expect(last.sessions.open({}, signal)).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringContaining('invalid_grant'),
      next: expect.stringContaining('nsm login'),
    })
    await expect(last.sessions.open({}, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test('that ends is taken back at the issuer, and nothing of it is left', async () => {
    const { sessions, request, who } = await connected()
    const { pid } = spawnSync('true')
    for (const half of [tokenPath(), `${enrolmentPath()}`, join(dir, 'laptop', 'identities', 'never.json')]) {
      await writeFile(`${half}.${pid}.1.tmp`, 'a secret')
    }
    expect(await sessions.logout(one)).toEqual({ apiVersion: 'nsm/logout/v1', forgotten: [who.spiffeId] })
    expect(readdirSync(join(dir, 'laptop', 'identities'))).toEqual([])
    expect(revocations().map((form) => form.get('token'))).toEqual([request.refreshToken])
    expect(await useElsewhere(request.refreshToken ?? '')).toEqual({ refused: 'invalid_grant' })
  })

  test.each([
    ['when all are meant', { all: true }, ['spiffe://test.internal/user/alice', 'joined.internal']],
    ['by its name', { whose: 'joined.internal', all: false }, ['joined.internal']],
  ])('leaves no identity of a join string from before behind %s', async (_when, wanted, expected) => {
    const { sessions } = await connected()
    await writeFile(join(dir, 'laptop', 'identities', 'joined.internal.json'), 'a key')
    expect((await sessions.logout(wanted)).forgotten).toEqual(expected)
    const left = readdirSync(join(dir, 'laptop', 'identities')).filter((name) => name.startsWith('joined'))
    expect(left).toEqual([])
  })

  describe('beside another one', () => {
    const [alice, bob] = ['spiffe://test.internal/user/alice', 'spiffe://other.internal/user/bob']
    async function two() {
      const { sessions, request } = await connected()
      const { openJoinString: joinString = '' } = await serve(undefined, undefined, 'other.internal')
      const other = await logIn(joinString, 'bob')
      await sessions.login(other, signal)
      expect(readdirSync(join(dir, 'laptop', 'identities'))).toHaveLength(7)
      return { sessions, request, other }
    }
    const revoked = () => revocations().map((form) => form.get('token'))

    test('ends with it, at once and at the issuer, when all are meant', async () => {
      const { sessions, request, other } = await two()
      expect((await sessions.logout({ all: true })).forgotten.toSorted()).toEqual([bob, alice])
      expect(readdirSync(join(dir, 'laptop', 'identities'))).toEqual([])
      expect(revoked().toSorted()).toEqual([request.refreshToken, other.refreshToken].toSorted())
    })

    test('ends by the name of its trust domain, and the other one is used from then on', async () => {
      const { sessions, other } = await two()
      const { forgotten, warnings } = await sessions.logout({ whose: 'other.internal', all: false })
      expect([forgotten, warnings]).toEqual([[bob], [`from now on this machine is ${alice}`]])
      expect(revoked()).toEqual([other.refreshToken])
      expect((await sessions.whoami()).spiffeId).toBe(alice)
      expect((await sessions.open({}, signal)).source.current().svid.spiffeId).toBe(alice)
    })

    test('that is not the one in use ends without a change of that', async () => {
      const { sessions, request } = await two()
      expect(await sessions.logout({ whose: 'test.internal', all: false })).toEqual({
        apiVersion: 'nsm/logout/v1',
        forgotten: [alice],
      })
      expect(revoked()).toEqual([request.refreshToken])
      expect((await sessions.whoami()).spiffeId).toBe(bob)
    })

    test('ends with all of the same issuer, when that is named', async () => {
      const { sessions } = await two()
      expect((await sessions.logout({ whose: `${provider.url}/`, all: false })).forgotten.toSorted()).toEqual([
        bob,
        alice,
      ])
    })

    test('stays while it is not said which one is meant, or a third one is', async () => {
      const { sessions } = await two()
      const listed = expect.stringMatching(/test\.internal \(http.*other\.internal \(http|other.*test/)
      await expect(sessions.logout(one)).rejects.toMatchObject({
        ...{ code: 'USAGE', message: listed, next: expect.stringContaining('nsm logout --all') },
      })
      const third = sessions.logout({ whose: 'third.internal', all: false })
      await expect(third).rejects.toMatchObject({ code: 'NOT_FOUND', next: listed })
      expect(revoked()).toEqual([])
      expect((await sessions.whoami()).spiffeId).toBe(bob)
    })
  })

  test('that ends while the issuer is away is gone from here, and what did not succeed is told', async () => {
    const { sessions } = await connected()
    provider.isAway = true
    expect((await sessions.logout(one)).warnings).toEqual([expect.stringMatching(/^the issuer is not told: /)])
    expect(readdirSync(join(dir, 'laptop', 'identities'))).toEqual([])
  })
})

test.each([
  ['goes on beyond the longest session of the rule', 'file', 'SVID valid'],
  ['without a refresh token ends with its session', 'none', 'IDENTITY'],
] as const)('a login %s', async (_what, store, expected) => {
  const { openJoinString: joinString = '' } = await serve({ ttl: '8s', max_session: '8s' })
  const sessions = new Sessions({ settings: settings(), clock: systemClock, log, environment: {} })
  closers.push(() => sessions.close())
  await sessions.login(await logIn(joinString, 'alice', store), signal)
  const { source } = await sessions.open({}, signal)
  const state = () => {
    try {
      return source.current().svid.notAfterMs > Date.now() ? 'SVID valid' : 'late'
    } catch (error) {
      return error instanceof NsmError ? error.code : 'BUG'
    }
  }
  const sessionEndMs = Date.now() + 8_000
  await expect.poll(() => Date.now()).toBeGreaterThan(sessionEndMs + 1_000)
  await expect.poll(state).toBe(expected)
})

describe('another login', () => {
  test('of the same person takes the place of the first, and works', async () => {
    const { sessions, joinString, request } = await connected()
    const again = await logIn(joinString, 'alice')
    await sessions.login(again, signal)
    expect([stored(), again.refreshToken === request.refreshToken]).toEqual([again.refreshToken, false])
    expect(await useElsewhere(stored())).toHaveProperty('tokens')
  })

  test('of another person ends the first one at the issuer', async () => {
    const { sessions, joinString, request } = await connected()
    await sessions.login(await logIn(joinString, 'bob'), signal)
    expect(await useElsewhere(request.refreshToken ?? '')).toEqual({ refused: 'invalid_grant' })
    expect((await sessions.whoami()).spiffeId).toMatch('/user/bob')
    expect(await useElsewhere(stored())).toHaveProperty('tokens')
  })

  test('that finds a connection which came up meanwhile is taken back, also while that still asks for its session', async () => {
    const running = await serve()
    const request = await logIn(running.openJoinString ?? '', 'alice')
    const machine = createIdleMachine()
    const runtime = await startRuntime({ settings: settings(), clock: systemClock, log, onCount: () => {}, machine })
    closers.push(() => runtime.close())
    const lists = { services: ['blue'], labels: {}, allowPrefixes: [], excludePrefixes: [] }
    const how = { dnsMode: 'fanout' as const, dns: 'off' as const, timeoutMs: 60_000 }
    const connecting = runtime.connect({ ...lists, ...how, joinString: running.joinString }, () => {}, signal)
    await expect(runtime.login(request, signal)).rejects.toMatchObject({ code: 'CONFLICT' })
    expect((await connecting).connections).toMatchObject([{ state: 'up' }])
    expect(revocations().map((form) => form.get('token'))).toEqual([request.refreshToken])
    expect(await useElsewhere(request.refreshToken ?? '')).toEqual({ refused: 'invalid_grant' })
    expect(existsSync(tokenPath())).toBe(false)
    expect((await runtime.status()).connections).toMatchObject([{ state: 'up' }])
  })

  test('whom no rule knows leaves the first one as it was', async () => {
    const { sessions, joinString } = await connected()
    const mallory = sessions.login(await logIn(joinString, 'mallory'), signal)
    await expect(mallory).rejects.toMatchObject({ code: 'REFUSED', message: expect.stringContaining('NO_RULE') })
    expect((await sessions.whoami()).spiffeId).toMatch('/user/alice')
    expect(await useElsewhere(stored())).toHaveProperty('tokens')
  })
})

describe('the refresh token', () => {
  test.each([
    ['nowhere, and is not asked for, with none', 'none', []],
    ['nowhere when the only place that was asked for does not work', 'keychain', [/^keychain: .*D-Bus/]],
  ] as const)('rests %s', async (_what, store, reasons) => {
    const { who, request, renewed } = await connected(store)
    expect(who.login).toMatchObject({ store: 'none', reasons: reasons.map((reason) => expect.stringMatching(reason)) })
    expect(request.refreshToken === undefined).toBe(store === 'none')
    // What nobody keeps is taken back at once.
    if (request.refreshToken) expect(await useElsewhere(request.refreshToken)).toEqual({ refused: 'invalid_grant' })
    await renewed()
    expect(refreshes()).toHaveLength(request.refreshToken ? 1 : 0)
  })

  test('is in no log line, answer or file, but with --store file in that one alone', async () => {
    const { renewed, request, sessions } = await connected()
    await renewed()
    const tokens = [request.refreshToken ?? '', stored()]
    const answers = JSON.stringify([await sessions.whoami(), await sessions.logins.warnings(), logged])
    for (const token of tokens) expect(answers).not.toContain(token)
    const files = readdirSync(join(dir, 'laptop'), { recursive: true, withFileTypes: true })
    const holders = files
      .filter((file) => file.isFile())
      .map((file) => join(file.parentPath, file.name))
      .filter((path) => tokens.some((token) => readFileSync(path, 'latin1').includes(token)))
    expect(holders).toEqual([tokenPath()])
  })
})

test('an identity of a join token ends the login before it', async () => {
  const { sessions, request, running } = await connected()
  await sessions.close()
  await rm(enrolmentPath())
  await laptop().sessions.open({ joinString: running.joinString }, signal)
  expect(existsSync(tokenPath())).toBe(false)
  expect(await useElsewhere(request.refreshToken ?? '')).toEqual({ refused: 'invalid_grant' })
})

/** Puts an SVID of long ago in the place of the stored one. */
async function letExpire(spiffeId: string): Promise<void> {
  const enrolment = await loadEnrolment(enrolmentPath())
  if (!enrolment) throw new RangeError('nothing is stored')
  const then = createFakeClock(Date.now() - 86_400_000)
  const { svid } = identityOf(authorityOf('test.internal', then), new URL(spiffeId).pathname, then)
  await saveEnrolment(enrolmentPath(), { ...enrolment, state: { ...enrolment.state, svid } })
}
