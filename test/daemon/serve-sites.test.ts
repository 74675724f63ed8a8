import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { checkPolicy } from '../../src/daemon/policy-methods.ts'
import { type RunningServe, type ServeSettings, startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { createCsr } from '../../src/identity/csr.ts'
import { parseJoinString } from '../../src/identity/join-string.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { renewIdentity } from '../../src/nsm/exchange.ts'
import { policyText } from '../support/policy.ts'
import { scratchDir } from '../support/scratch.ts'

const running: RunningServe[] = []
const { signal } = new AbortController()

afterEach(async () => {
  for (const serve of running.splice(0).reverse()) await serve.stop()
})

async function world() {
  const dir = await scratchDir()
  const settingsOf = (name: string, more: Partial<ServeSettings> = {}): ServeSettings => ({
    service: 'blue',
    prefixes: ['10.64.0.0/16', 'fd64::/64'],
    dnsDomain: 'blue.nsm.internal',
    listen: '127.0.0.1:0',
    wireguardPort: 0,
    stateDir: join(dir, name),
    runtimeDir: join(dir, name, 'run'),
    ...more,
  })
  const serve = async (name: string, more: Partial<ServeSettings> = {}) => {
    const started = await startServe(settingsOf(name, more), silentLog, signal)
    running.push(started)
    return started
  }
  const inviteSite = (id = 'west') => inviteFromRunning(settingsOf('one'), { id, ttlMs: 60_000, endpoint: true })
  const sessions = (machine: string) => {
    const settings = { stateDir: join(dir, machine), runtimeDir: join(dir, machine, 'run'), resolvConf: join(dir, 'r') }
    return new Sessions({ settings: { ...settings, logLevel: 'info' }, clock: systemClock, log: silentLog })
  }
  return { settingsOf, serve, inviteSite, sessions }
}

describe('a further site', () => {
  test('serves the network of the first one with parts of its own, whatever its flags say', async () => {
    const { serve, inviteSite } = await world()
    const first = await serve('one')
    const { joinString } = await inviteSite()
    const second = await serve('two', { joinString, service: 'other', prefixes: ['10.99.0.0/16'] })
    expect(first.info.parts).toEqual(['10.64.0.0/24', 'fd64::/80'])
    expect(second.info).toMatchObject({
      service: 'blue',
      prefixes: ['10.64.0.0/16', 'fd64::/64'],
      parts: ['10.64.1.0/24', 'fd64::1:0:0:0/80'],
      endpointName: 'blue-vl3-west',
      trustDomain: first.info.trustDomain,
    })
  })

  test('keeps its identity and its parts over a restart without --join', async () => {
    const { serve, inviteSite } = await world()
    await serve('one')
    const { joinString } = await inviteSite()
    const before = await serve('two', { joinString })
    await before.stop()
    const after = await serve('two')
    expect([after.info.parts, after.info.endpointName]).toEqual([before.info.parts, before.info.endpointName])
  })

  test('admits members with join strings of its own, and renews their identities', async () => {
    const { serve, inviteSite, sessions, settingsOf } = await world()
    await serve('one')
    const second = await serve('two', { joinString: (await inviteSite()).joinString })
    const invited = await inviteFromRunning(settingsOf('two'), { id: '/laptop/carol', ttlMs: 60_000 })
    expect(parseJoinString(invited.joinString).port).toBe(second.info.port)
    const laptop = sessions('laptop')
    const { channel, source, registry } = await laptop.open({ joinString: invited.joinString }, signal)
    expect(source.current().svid.spiffeId).toBe(`spiffe://${second.info.trustDomain}/laptop/carol`)
    const wanted = { csr: createCsr(generateKey()), trustDomain: second.info.trustDomain }
    expect((await renewIdentity(channel, wanted, signal)).spiffeId).toBe(invited.spiffeId)
    const names = (await registry.findEndpoints({ networkServiceNames: ['blue'] }, signal)).map(({ name }) => name)
    expect(names.toSorted()).toEqual(['blue-vl3', 'blue-vl3-west'])
    await laptop.close()
  })

  test('is not made by the invitation of a member, and no member is by the invitation of a site', async () => {
    const { serve, settingsOf } = await world()
    const first = await serve('one')
    await expect(serve('two', { joinString: first.joinString })).rejects.toMatchObject({ code: 'IDENTITY' })
    const asMember = inviteFromRunning(settingsOf('one'), { id: '/site/east', ttlMs: 60_000 })
    await expect(asMember).rejects.toMatchObject({ code: 'USAGE' })
  })

  test('does not invite further sites, and does not replace a network that the folder has', async () => {
    const { serve, inviteSite, settingsOf } = await world()
    await serve('one')
    await serve('two', { joinString: (await inviteSite()).joinString })
    const asked = inviteFromRunning(settingsOf('two'), { ttlMs: 60_000, endpoint: true })
    await expect(asked).rejects.toMatchObject({ code: 'REFUSED' })
    const third = await serve('three')
    await third.stop()
    const { joinString } = await inviteSite('north')
    await expect(serve('three', { joinString })).rejects.toMatchObject({ code: 'CONFLICT' })
  })

  test.each(['West', 'a b', '/west', '-west', 'x'.repeat(33)])('cannot be named %j', async (id) => {
    const { serve, inviteSite } = await world()
    await serve('one')
    await expect(inviteSite(id)).rejects.toMatchObject({ code: 'USAGE' })
  })
})

describe('a further site of a network with a policy', () => {
  const words = (...members: readonly string[]) => ({
    grants: members.map((name) => ({
      who: `spiffe://test.internal/${name}`,
      may: ['find', 'request'],
      services: ['blue'],
    })),
  })
  const open = async () => {
    const { serve, inviteSite, sessions, settingsOf } = await world()
    const policyPath = join(await scratchDir(), 'policy.json')
    const write = (...members: readonly string[]) => writeFile(policyPath, policyText(words(...members)))
    await write('alice')
    const more = { policyPath, trustDomain: 'test.internal' }
    const first = await serve('one', more)
    const second = await serve('two', { joinString: (await inviteSite()).joinString })
    const found = async (id: string) => {
      const { joinString = '' } = await inviteFromRunning(settingsOf('two'), { id: `/${id}`, ttlMs: 60_000 })
      const laptop = sessions(`${id}-${Math.random()}`)
      const { registry } = await laptop.open({ joinString }, signal)
      const services = (await registry.findServices({}, signal)).map(({ name }) => name)
      await laptop.close()
      return services
    }
    return { serve, settingsOf, first, second, write, found, more, policyPath }
  }

  test('follows the policy of the first one, and holds on to it while that one is away', async () => {
    const { serve, settingsOf, first, second, write, found } = await open()
    await expect.poll(() => found('alice')).toEqual(['blue'])
    expect(await found('bob')).toEqual([])
    await write('bob')
    await first.reload()
    await expect.poll(() => found('bob')).toEqual(['blue'])
    expect(await found('alice')).toEqual([])
    expect(await checkPolicy(settingsOf('two'))).toMatchObject({ path: 'the policy of the first site', grants: 1 })
    await second.stop()
    await first.stop()
    await serve('two')
    expect(await checkPolicy(settingsOf('two'))).toMatchObject({ grants: 1 })
  })

  test('has the policy in force although its disk does not take it', async () => {
    const { settingsOf, first, write, found } = await open()
    const path = join(settingsOf('two').stateDir, 'site-policy.txt')
    await rm(path)
    await mkdir(path)
    await write('bob')
    await first.reload()
    await expect.poll(() => found('bob')).toEqual(['blue'])
    expect(await found('alice')).toEqual([])
    expect(await checkPolicy(settingsOf('two'))).not.toHaveProperty('error')
  })

  test('ends when the first one gives its policy up or has one for the first time, and starts again by it', async () => {
    const { serve, settingsOf, first, second, more, policyPath } = await open()
    const port = first.info.port
    await first.stop()
    const { policyPath: _, ...plain } = more
    const without = await serve('one', { ...plain, listen: `127.0.0.1:${port}` })
    expect(await second.failed).toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('no policy any more'),
    })
    await second.stop()
    const again = await serve('two')
    await expect(checkPolicy(settingsOf('two'))).rejects.toMatchObject({ code: 'USAGE' })
    await without.stop()
    await serve('one', { ...plain, policyPath, listen: `127.0.0.1:${port}` })
    expect(await again.failed).toMatchObject({ message: expect.stringContaining('has a policy now') })
  })

  test('has no policy of its own', async () => {
    const { serve, policyPath, second } = await open()
    await second.stop()
    await expect(serve('two', { policyPath })).rejects.toMatchObject({ code: 'USAGE' })
  })
})
