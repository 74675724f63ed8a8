import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { type RunningServe, type ServeSettings, startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { bundleOfRunning, caOfRunning, rotateRunning } from '../../src/daemon/serve-ca.ts'
import type { Session } from '../../src/daemon/session.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { parseBundle } from '../../src/identity/bundle-document.ts'
import { loadEnrolment } from '../../src/identity/enrolment-file.ts'
import { parseJoinString } from '../../src/identity/join-string.ts'
import { isOfNewestRoot } from '../../src/identity/svid.ts'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { wireGuardMechanism } from '../../src/nsm/wireguard-mechanism.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { scratchDir } from '../support/scratch.ts'

/** The clock of the rotation alone: the old root may go 5 minutes after the new one signs, which is for those who renew late. */
const rotation = vi.hoisted(() => ({ aheadMs: 0 }))
vi.mock(import('../../src/identity/ca-rotation.ts'), async (importOriginal) => {
  const original = await importOriginal()
  return {
    ...original,
    createRotation(parts) {
      const wallMs = () => parts.clock.wallMs() + rotation.aheadMs
      return original.createRotation({ ...parts, clock: { ...parts.clock, wallMs } })
    },
  }
})

const { signal } = new AbortController()
const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  rotation.aheadMs = 0
})
/** Members renew within half a minute. */
const patience = { timeout: 120_000, interval: 200 }

async function world() {
  const dir = await scratchDir()
  const opened: Sessions[] = []
  const settingsOf = (name: string, more: Partial<ServeSettings> = {}): ServeSettings => ({
    ...{ service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal', trustDomain: 'blue.test' },
    ...{ listen: '127.0.0.1:0', wireguardPort: 0, stateDir: join(dir, name), runtimeDir: join(dir, name, 'run') },
    ...more,
  })
  const serve = async (name: string, more: Partial<ServeSettings> = {}): Promise<RunningServe> => {
    const running = await startServe(settingsOf(name, more), silentLog, signal)
    closers.push(() => running.stop())
    return running
  }
  const member = async (name: string, machine: string, joinString?: string): Promise<Session> => {
    const settings = { stateDir: join(dir, machine), runtimeDir: join(dir, machine, 'run'), resolvConf: join(dir, 'r') }
    const sessions = new Sessions({ settings: { ...settings, logLevel: 'info' }, clock: systemClock, log: silentLog })
    closers.push(() => sessions.close())
    opened.push(sessions)
    const invited = async () => (await inviteFromRunning(settingsOf(name), { ttlMs: 60_000 })).joinString
    return sessions.open(joinString === '' ? {} : { joinString: joinString ?? (await invited()) }, signal)
  }
  /** A site renews by itself as members do. */
  const isSiteRenewed = async (name: string) => {
    const stored = await loadEnrolment(join(dir, name, 'site-identity.json'))
    return stored !== undefined && isOfNewestRoot(stored.state, Date.now())
  }
  return { settingsOf, serve, member, isSiteRenewed, opened }
}

const bundleOf = ({ source }: Session) => source.current().bundles.get('blue.test')
const isRenewed = ({ source }: Session) => isOfNewestRoot(source.current(), Date.now())

/** Calls without a pause, until it is stopped; the result is what failed. */
function load(session: Session) {
  const failures: string[] = []
  let calls = 0
  let isOver = false
  const work = async () => {
    const srcPublicKey = publicKeyOf(generatePrivateKey())
    const mechanism = wireGuardMechanism({ srcIp: '127.0.0.1', srcPort: 51_820, srcPublicKey, mtuBytes: 1_420 })
    const request = { ...firstRequest({ networkService: 'blue' }), mechanismPreferences: [mechanism] }
    let connection = await session.client.request(request, signal)
    while (!isOver) {
      try {
        await session.registry.findEndpoints({ networkServiceNames: ['blue'] }, signal)
        connection = await session.client.request(create(NetworkServiceRequestSchema, { connection }), signal)
      } catch (error) {
        failures.push(String(error))
      }
      calls += 2
      await pause(2)
    }
  }
  const done = work()
  return {
    async stop() {
      isOver = true
      await done
      return { failures, calls }
    },
  }
}

describe('nsm ca rotate', () => {
  test('fails no call of members and of those of a further site, and all of them follow', async () => {
    const { settingsOf, serve, member, isSiteRenewed } = await world()
    await serve('one')
    const { joinString } = await inviteFromRunning(settingsOf('one'), { id: 'west', ttlMs: 60_000, endpoint: true })
    await serve('two', { joinString })
    const sessions = [await member('one', 'a'), await member('one', 'b'), await member('two', 'c')]
    const loads = sessions.map(load)
    const [oldest] = sessions.flatMap((session) => bundleOf(session) ?? [])
    await rotateRunning(settingsOf('one'), { finish: false, publishMs: 2_000 })
    for (const session of sessions) await expect.poll(() => bundleOf(session)?.length, patience).toBe(2)
    for (const session of sessions) await expect.poll(() => bundleOf(session)?.[0], patience).not.toEqual(oldest)
    await expect(rotateRunning(settingsOf('one'), { finish: true })).rejects.toMatchObject({ code: 'CONFLICT' })
    await expect.poll(() => sessions.map(isRenewed), patience).toEqual([true, true, true])
    await expect.poll(() => isSiteRenewed('two'), patience).toBe(true)
    await expect.poll(async () => parseBundle(await bundleOfRunning(settingsOf('one'))).roots.length).toBe(2)
    rotation.aheadMs = 300_000
    const { roots } = await rotateRunning(settingsOf('one'), { finish: true })
    expect(roots).toHaveLength(1)
    for (const session of sessions) await expect.poll(() => bundleOf(session)?.length, patience).toBe(1)
    await pause(500)
    for (const one of loads) {
      const { failures, calls } = await one.stop()
      expect(failures).toEqual([])
      expect(calls).toBeGreaterThan(20)
    }
    const { pin } = parseJoinString((await inviteFromRunning(settingsOf('two'), { ttlMs: 60_000 })).joinString)
    expect(pin).toBe(roots[0]?.pin)
  })

  test('goes on after a restart of the server, for members that were away meanwhile too', async () => {
    const { settingsOf, serve, member } = await world()
    const first = await serve('one')
    const { port } = parseJoinString(first.joinString)
    const away = await member('one', 'a')
    const awayId = away.source.current().svid.spiffeId
    for (const close of closers.splice(1).reverse()) await close()
    await rotateRunning(settingsOf('one'), { finish: false, publishMs: 1 })
    await first.stop()
    await serve('one', { listen: `127.0.0.1:${port}` })
    // The new root signs, and this machine has never heard of it.
    const back = await member('one', 'a', '')
    expect(back.source.current().svid.spiffeId).toBe(awayId)
    await expect.poll(() => bundleOf(back)?.length, patience).toBe(2)
    await expect.poll(() => isRenewed(back), patience).toBe(true)
  })

  test('old join strings are good until the old root is dropped, and refused with a reason then', async () => {
    const { settingsOf, serve, member } = await world()
    await serve('one')
    const invite = async () => (await inviteFromRunning(settingsOf('one'), { ttlMs: 60_000 })).joinString
    const [early, late] = [await invite(), await invite()]
    await rotateRunning(settingsOf('one'), { finish: false, publishMs: 1 })
    await expect.poll(async () => parseJoinString(await invite()).pin).not.toBe(parseJoinString(early).pin)
    const session = await member('one', 'a', early)
    expect(bundleOf(session)).toHaveLength(2)
    expect(isRenewed(session)).toBe(true)
    const fresh = await member('one', 'b', await invite())
    expect(bundleOf(fresh)).toHaveLength(2)
    rotation.aheadMs = 300_000
    await rotateRunning(settingsOf('one'), { finish: true })
    await expect(member('one', 'c', late)).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringContaining('does not have the pinned root key'),
    })
    expect(bundleOf(await member('one', 'd', await invite()))).toHaveLength(1)
  })

  test('that locked a member out leaves it a way back: a join string of the new root', async () => {
    const { settingsOf, serve, member, opened } = await world()
    await serve('one')
    const late = await member('one', 'a')
    await rotateRunning(settingsOf('one'), { finish: false, publishMs: 1 })
    await expect.poll(() => bundleOf(late)?.length, patience).toBe(2)
    await closers.pop()?.()
    await expect.poll(async () => (await caOfRunning(settingsOf('one'))).phase).toBe('issuing')
    rotation.aheadMs = 300_000
    await rotateRunning(settingsOf('one'), { finish: true })
    const find = ({ registry }: Session) => registry.findEndpoints({ networkServiceNames: ['blue'] }, signal)
    const out = await member('one', 'a', '')
    const asked = out.client.request(firstRequest({ networkService: 'blue' }), signal)
    await expect(asked).rejects.toMatchObject({ code: 'IDENTITY', next: expect.stringContaining('nsm invite') })
    const { joinString } = await inviteFromRunning(settingsOf('one'), { ttlMs: 60_000 })
    const check = () => opened.at(-1)?.check(joinString)
    // Not while connections use the identity.
    expect(check).toThrow('or a newer root')
    await closers.pop()?.()
    const again = await member('one', 'a', joinString)
    expect(check).not.toThrow()
    expect(await find(again)).toHaveLength(1)
    expect(bundleOf(again)).toHaveLength(1)
  })

  test('is refused at a further site', async () => {
    const { settingsOf, serve } = await world()
    await serve('one')
    const { joinString } = await inviteFromRunning(settingsOf('one'), { id: 'west', ttlMs: 60_000, endpoint: true })
    await serve('two', { joinString })
    await expect(rotateRunning(settingsOf('two'), { finish: false })).rejects.toMatchObject({ code: 'USAGE' })
    await expect(bundleOfRunning(settingsOf('two'))).rejects.toMatchObject({ code: 'USAGE' })
  })
})
