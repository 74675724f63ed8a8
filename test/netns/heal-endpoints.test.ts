import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { eventually, MeshRig, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()
const service = 'my-networkservice-1'
const first = `${service}-vl3`
const second = `${service}-vl3-west`

/* s: manager, registry and the first endpoint      t: the second endpoint      a: a member at the second one */

describe.skipIf(why !== undefined)(`two endpoints of one service${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  const view = async () => (await rig.status('a')).connections[0]
  const pings = (address: string) => rig.pings('a', address)

  /** The manager gives its endpoints in turn. */
  const connectToSecond = async (...more: string[]) => {
    const connected = await rig.nsm('a', 'connect', service, '--name', 'a', '--timeout', '60s', ...more)
    expect(connected.code, connected.err).toBe(0)
    if ((await view())?.endpoint === second) return
    expect((await rig.nsm('a', 'disconnect')).code).toBe(0)
    await connectToSecond()
  }

  beforeAll(async () => {
    rig = await MeshRig.open('nsmht', ['s', 't', 'a'])
    await rig.serve('--site', 'east')
    const site = await rig.file('site', (await rig.nsm('s', 'invite', '--endpoint', '--id', 'west')).out)
    await rig.serveOn('t', '--join', site, '--site', 'west')
    await connectToSecond('--join', await rig.invite('join-a'))
  })

  afterEach(() => rig.nsm('a', 'disconnect'))
  afterAll(() => rig.close())

  test('one that vanishes from the network is left for the other, with its address, route and names', async () => {
    expect((await view())?.addresses[0]).toMatch(/^10\.64\.1\./)
    await rig.inside('t', 'ip', ['link', 'set', 'eth0', 'down'])
    await eventually(async () => (await view())?.endpoint === first && (await view())?.state === 'up')
    expect((await view())?.addresses[0]).toMatch(/^10\.64\.0\./)
    expect(await pings('10.64.0.0')).toBe(true)
    expect((await rig.inside('a', 'getent', ['ahostsv4', `a.${service}.nsm.internal`])).out).toContain('10.64.0.')
    await rig.inside('t', 'ip', ['link', 'set', 'eth0', 'up'])
  })

  test('one whose packets do not come through although its control side lives is left for the other', async () => {
    await connectToSecond()
    const unblock = await rig.block('t', 'udp dport 51820 drop')
    await eventually(async () => (await view())?.endpoint === first && (await view())?.state === 'up')
    expect(await pings('10.64.0.0')).toBe(true)
    await unblock()
  })

  test('one that the manager lost sight of is kept while its packets flow', async () => {
    await connectToSecond()
    await rig.killServe('SIGKILL', 's')
    await eventually(async () => (await view())?.state === 'healing')
    for (let i = 0; i < 5; i++) expect(await pings('10.64.1.0')).toBe(true)
    expect(await view()).toMatchObject({ state: 'healing', endpoint: second })
    await rig.serveOn('s', '--site', 'east')
    await eventually(async () => (await view())?.state === 'up')
    expect((await view())?.endpoint).toBe(second)
  })

  test('one that is in a registry that comes back empty is registered again, and used on', async () => {
    await connectToSecond()
    await rig.killServe('SIGKILL', 's')
    const stateDir = join(rig.dir, 's')
    const files = (await readdir(stateDir, { recursive: true })).filter((name) => /registry\.db/.test(name))
    expect(files.length).toBeGreaterThan(0)
    for (const name of files) await rm(join(stateDir, name))
    await rig.serveOn('s', '--site', 'east')
    await eventually(async () => (await view())?.state === 'up')
    expect(await pings('10.64.1.0')).toBe(true)
    await eventually(async () => (await rig.nsm('a', 'list', '--json')).out.includes(second))
  })

  test('one whose process is killed under traffic is left for the other', async () => {
    await connectToSecond()
    await rig.killServe('SIGKILL', 't')
    await eventually(async () => (await view())?.endpoint === first && (await view())?.state === 'up')
    expect(await pings('10.64.0.0')).toBe(true)
  })
})
