import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { buildGoPeers } from './go-peers.ts'
import { freePort, startGo } from './go-process.ts'
import { openMember } from './member.ts'
import { buildSpire, linkAs, type Spire, startSpire } from './spire.ts'

const isWanted = process.env['NSM_TEST_SPIRE'] === '1'
const title = isWanted ? 'with SPIRE' : 'with SPIRE: skipped, it is built on request only (NSM_TEST_SPIRE=1)'
/** SPIRE rotates at half of it. */
const lifeSeconds = 40
const buildTimeoutMs = 3_600_000

describe.skipIf(!isWanted)(title, () => {
  const closers: (() => unknown)[] = []
  let spire: Spire
  let dir: string
  let peersPath: string

  beforeAll(async () => {
    const binaries = await buildSpire()
    const peers = await buildGoPeers()
    if (peers.path === undefined) throw new Error(peers.why)
    peersPath = peers.path
    dir = await mkdtemp(join(tmpdir(), 'nsmi-'))
    closers.push(() => rm(dir, { recursive: true }))
    spire = await startSpire(binaries, dir, lifeSeconds)
    closers.push(() => spire.stop())
  }, buildTimeoutMs)
  afterAll(async () => {
    for (const close of closers.reverse()) await close()
  })

  const serve = async (role: string, flags: Record<string, string> = {}) => {
    const path = linkAs(peersPath, join(dir, `nsm-${role}`))
    await spire.enrol(role, path)
    const port = await freePort()
    const url = `tcp://127.0.0.1:${port}`
    const process = await startGo({ path, role, socket: spire.socket, flags: { listen: url, ...flags } })
    closers.push(() => process.stop())
    return { address: '127.0.0.1', port, url }
  }

  test('our client gets its identity, connects through a mesh, and goes on after a rotation', async () => {
    const opening = openWorkloadApi({ socket: spire.socket, clock: systemClock, log: silentLog })
    await spire.enrol('laptop', process.execPath)
    const source = await opening
    closers.push(() => source.close())
    expect(source.current().svid.spiffeId).toBe('spiffe://peers.test/laptop')
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
    await new Promise((resolve) => source.onChange(resolve))
    const again = await client.request({ ...request, connection: first })
    expect(again.path?.pathSegments.map(({ id }) => id)).toEqual(first.path?.pathSegments.map(({ id }) => id))
    await client.close(again)
  }, 120_000)
})
