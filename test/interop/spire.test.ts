import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { Applications } from '../../src/daemon/applications.ts'
import type { IdentitySource } from '../../src/identity/source.ts'
import type { WorkloadChoice } from '../../src/identity/workload-state.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { freePort } from '../support/free-port.ts'
import { buildGoApps, buildGoPeers } from './go-peers.ts'
import { startGo } from './go-process.ts'
import { openMember } from './member.ts'
import { buildSpire, linkAs, type Spire, startSpire } from './spire.ts'

const isWanted = process.env['NSM_TEST_SPIRE'] === '1'
const title = isWanted ? 'with SPIRE' : 'with SPIRE: skipped, it is built on request only (NSM_TEST_SPIRE=1)'
/** SPIRE rotates at half of it. */
const lifeSeconds = 40
/** Faster than any real client refreshes. */
const refreshPauseMs = 50
const buildTimeoutMs = 3_600_000

describe.skipIf(!isWanted)(title, () => {
  const closers: (() => unknown)[] = []
  let spire: Spire
  let dir: string
  let peersPath: string
  let appsPath: string

  beforeAll(async () => {
    const binaries = await buildSpire()
    const [peers, apps] = [await buildGoPeers(), await buildGoApps()]
    if (peers.path === undefined) throw new Error(peers.why)
    if (apps.path === undefined) throw new Error(apps.why)
    peersPath = peers.path
    appsPath = apps.path
    dir = await mkdtemp(join(tmpdir(), 'nsmi-'))
    closers.push(() => rm(dir, { recursive: true }))
    spire = await startSpire(binaries, dir, lifeSeconds)
    closers.push(() => spire.stop())
    await spire.enrol('laptop', process.execPath, 'everyday')
    await spire.enrol('admin', process.execPath, 'rare')
  }, buildTimeoutMs)
  afterAll(async () => {
    for (const close of closers.reverse()) await close()
  })

  const open = async (choice: WorkloadChoice = { hint: 'everyday' }) => {
    const source = await openWorkloadApi({ socket: spire.socket, choice, clock: systemClock, log: silentLog })
    closers.push(() => source.close())
    return source
  }
  const idOf = (source: IdentitySource) => source.current().svid.spiffeId
  const nextOf = (source: IdentitySource) => new Promise((resolve) => source.onChange(resolve))
  /** The agent tells of each identity that rotates; this is one with a new key of ours. */
  const rotationOf = async (source: IdentitySource) => {
    const { privateKey } = source.current().svid
    while (source.current().svid.privateKey.equals(privateKey)) await nextOf(source)
  }
  const serve = async (role: string, flags: Record<string, string> = {}) => {
    const path = linkAs(peersPath, join(dir, `nsm-${role}`))
    await spire.enrol(role, path)
    const port = await freePort()
    const url = `tcp://127.0.0.1:${port}`
    const process = await startGo({ path, role, socket: spire.socket, flags: { listen: url, ...flags } })
    closers.push(() => process.stop())
    return { address: '127.0.0.1', port, url }
  }

  test('our client takes the identity that the hint or the ID names', async () => {
    expect(idOf(await open())).toBe('spiffe://peers.test/laptop')
    expect(idOf(await open({ hint: 'rare' }))).toBe('spiffe://peers.test/admin')
    expect(idOf(await open({ spiffeId: 'spiffe://peers.test/admin' }))).toBe('spiffe://peers.test/admin')
  })

  test('our client connects through a mesh, and no refresh fails across a rotation', async () => {
    const source = await open()
    const registry = await serve('registry')
    const manager = await serve('nsmgr', { registry: registry.url })
    await serve('forwarder', { manager: manager.url })
    await serve('icmp', { register: manager.url })
    const channel = openChannel({ target: manager, source, clock: systemClock })
    closers.push(() => channel.close())
    const client = createNsmClient(channel)
    const member = await openMember()
    closers.push(() => member.close())
    const request = { ...firstRequest({ networkService: 'icmp' }), mechanismPreferences: [member.preference] }
    const first = await client.request(request)
    expect(first.path?.pathSegments.map(({ name }) => name).slice(1)).toEqual(['nsmgr-1', 'forwarder-1', 'icmp-1'])
    let isRotated = false
    void rotationOf(source).then(() => {
      isRotated = true
    })
    let last = first
    let refreshes = 0
    for (let after = 0; after < 3; refreshes++) {
      last = await client.request({ ...request, connection: last })
      await pause(refreshPauseMs)
      if (isRotated) after++
    }
    expect(refreshes).toBeGreaterThan(3)
    expect(last.path?.pathSegments.map(({ id }) => id)).toEqual(first.path?.pathSegments.map(({ id }) => id))
    await client.close(last)
  })

  test('our client keeps its identity while the agent is away and follows the agent that comes back', async () => {
    const source = await open()
    const before = source.current()
    const start = await spire.interrupt('agent')
    expect(source.current()).toBe(before)
    const heard = nextOf(source)
    await start()
    await heard
    expect(idOf(source)).toBe('spiffe://peers.test/laptop')
  })

  test('our client gets an identity while the server is away, and the next one when it is back', async () => {
    const start = await spire.interrupt('server')
    const source = await open()
    expect(idOf(source)).toBe('spiffe://peers.test/laptop')
    const rotated = rotationOf(source)
    await start()
    await rotated
    expect(idOf(source)).toBe('spiffe://peers.test/laptop')
  })

  const asApplication = async (role: string, ...args: string[]) => {
    const path = join(dir, 'workload.sock')
    const source = await open()
    const applications = new Applications({ path, sources: () => [source], clock: systemClock, log: silentLog })
    closers.push(() => applications.close())
    await applications.follow()
    const env = { SPIFFE_ENDPOINT_SOCKET: `unix://${path}` }
    const running = promisify(execFile)(appsPath, [role, ...args], { env })
    const { stdout } = await running
    await applications.close()
    return stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
  }

  test('an application that asks us gets the agent’s tokens, of our identity alone', async () => {
    const id = 'spiffe://peers.test/laptop'
    expect(await asApplication('jwt', '-audience', 'nsm://peers.test')).toEqual([
      { fetched: id, validated: id, verified: id, followed: id },
    ])
  })

  test('an application that asks us sees the rotation of the agent', async () => {
    const [first, second] = await asApplication('watch', '-count', '2')
    expect(first).toMatchObject({ ids: ['spiffe://peers.test/laptop'], domains: ['peers.test'] })
    expect(second.ids).toEqual(first.ids)
    expect(second.serials).not.toEqual(first.serials)
  })
})
