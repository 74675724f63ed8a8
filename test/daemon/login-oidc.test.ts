import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { obtainIdToken } from '../../src/daemon/login.ts'
import { type RunningServe, startServe } from '../../src/daemon/serve.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { browse, loginClient, startLoginProvider } from '../support/login-provider.ts'

let dir: string
let provider: Awaited<ReturnType<typeof startLoginProvider>>
const closers: (() => Promise<unknown>)[] = []
const signal = AbortSignal.timeout(60_000)

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-login-'))
  provider = await startLoginProvider()
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  await provider.close()
  await rm(dir, { recursive: true, force: true })
})

async function serve(people = ['alice']): Promise<RunningServe> {
  const rules = [{ name: 'staff', match: { sub: people }, id: '/user/{sub}', ttl_seconds: 7_200 }]
  const issuer = { name: 'staff', issuer: provider.url, client_id: loginClient, rules }
  const running = await startServe(
    {
      ...{ service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal', trustDomain: 'test.internal' },
      ...{ stateDir: join(dir, 'server'), runtimeDir: join(dir, 'server', 'run') },
      ...{ listen: '127.0.0.1:0', wireguardPort: 0, issuers: { fileText: JSON.stringify({ issuers: [issuer] }) } },
    },
    silentLog,
  )
  closers.push(running.stop)
  return running
}

function laptop(): Sessions {
  const dirs = { stateDir: join(dir, 'laptop'), runtimeDir: join(dir, 'laptop', 'run') }
  const settings = { ...dirs, logLevel: 'info' as const, resolvConf: join(dir, 'resolv.conf') }
  const sessions = new Sessions({ settings, clock: systemClock, log: silentLog })
  closers.push(() => sessions.close())
  return sessions
}

function logIn(joinString: string, login: string): Promise<string> {
  const show = ({ page }: { readonly page: string }) => void browse(page, { login, password: 'x' })
  return obtainIdToken(joinString, { method: 'browser', show, signal })
}

describe('a person', () => {
  test('logs in at the real provider, and the laptop is theirs until they log out', async () => {
    const { openJoinString: joinString = '' } = await serve()
    const idToken = await logIn(joinString, 'alice')
    const sessions = laptop()
    const who = await sessions.login({ joinString, idToken }, signal)
    expect(who.spiffeId).toBe('spiffe://test.internal/user/alice')
    expect((who.notAfterMs ?? 0) - Date.now()).toBeLessThanOrEqual(7_200_000)
    const session = await sessions.open({}, signal)
    expect((await session.registry.findServices({}, signal)).map(({ name }) => name)).toEqual(['blue'])
    await sessions.close()

    const restarted = laptop()
    expect(await restarted.whoami()).toEqual(who)
    expect((await restarted.open({}, signal)).source.current().svid.spiffeId).toBe(who.spiffeId)
    expect(await restarted.logout()).toEqual(who)
    expect(existsSync(join(dir, 'laptop', 'identities', 'test.internal.json'))).toBe(false)
    expect(await restarted.whoami()).toEqual({ apiVersion: 'nsm/whoami/v1' })
    await expect(restarted.open({}, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
    expect(await restarted.logout()).toEqual({ apiVersion: 'nsm/whoami/v1' })
  })

  test('that another one follows leaves nothing of the first', async () => {
    const { openJoinString: joinString = '' } = await serve(['alice', 'bob'])
    const sessions = laptop()
    for (const name of ['alice', 'bob']) {
      await sessions.login({ joinString, idToken: await logIn(joinString, name) }, signal)
      expect((await sessions.open({}, signal)).source.current().svid.spiffeId).toMatch(`/user/${name}`)
    }
  })

  test('whom no rule knows is refused, and the one before stays', async () => {
    const { openJoinString: joinString = '' } = await serve()
    const sessions = laptop()
    await sessions.login({ joinString, idToken: await logIn(joinString, 'alice') }, signal)
    const mallory = sessions.login({ joinString, idToken: await logIn(joinString, 'mallory') }, signal)
    await expect(mallory).rejects.toMatchObject({ code: 'REFUSED', message: expect.stringContaining('NO_RULE') })
    expect((await sessions.whoami()).spiffeId).toMatch('/user/alice')
  })
})

test('a server whose issuers are for jobs only has no login for people', async () => {
  const issuers = { url: provider.url, allowed: ['sub=x'] }
  const dirs = { stateDir: join(dir, 'jobs'), runtimeDir: join(dir, 'jobs', 'run') }
  const network = { service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal' }
  const running = await startServe({ ...network, ...dirs, listen: '127.0.0.1:0', wireguardPort: 0, issuers }, silentLog)
  closers.push(running.stop)
  await expect(logIn(running.openJoinString ?? '', 'alice')).rejects.toMatchObject({ code: 'NOT_FOUND' })
})
