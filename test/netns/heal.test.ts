import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ConnectionView } from '../../src/daemon/protocol.ts'
import { eventually, MeshRig, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()
const service = 'my-networkservice-1'

describe.skipIf(why !== undefined)(`a connection that heals, in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig

  const view = async (): Promise<ConnectionView | undefined> => (await rig.status('a')).connections[0]
  const becomes = (state: ConnectionView['state']) => eventually(async () => (await view())?.state === state)
  const pings = () => rig.pings('a', '10.64.0.0')

  beforeAll(async () => {
    rig = await MeshRig.open('nsmh', ['s', 'a', 'b'])
    const join = await rig.file('join-a', await rig.serve())
    const connected = await rig.nsm('a', 'connect', service, '--name', 'a', '--timeout', '60s', '--join', join)
    expect(connected.code, connected.err).toBe(0)
  })

  afterAll(() => rig.close())

  test('a path that dies under a living manager is noticed, and used again when it is back', async () => {
    const unblock = await rig.block('s', 'udp dport 51820 drop')
    await becomes('healing')
    expect((await view())?.error?.message).toMatch(/does not answer|no WireGuard answer/)
    await unblock()
    await becomes('up')
    expect((await view())?.addresses).toEqual(['10.64.0.1/32'])
    expect(await pings()).toBe(true)
  })

  test('an interface that was set down and up has its routes again', async () => {
    const routes = async () => (await rig.inside('a', 'ip', ['route', 'show', 'table', '28275'])).out
    const { interfaceName = '', state } = (await view()) ?? {}
    const before = await routes()
    expect([state, before.includes(interfaceName)]).toEqual(['up', true])
    await rig.inside('a', 'ip', ['link', 'set', interfaceName, 'down'])
    expect(await routes()).not.toContain(interfaceName)
    expect(await rig.reaches('a', '10.64.0.0')).toBe(false)
    await rig.inside('a', 'ip', ['link', 'set', interfaceName, 'up'])
    await eventually(async () => (await routes()) === before)
    expect(await pings()).toBe(true)
  })

  test('a manager that dies takes no packet with it: the path is kept, and so is the endpoint', async () => {
    const before = await view()
    const unblock = await rig.block('s', 'tcp dport 5001 reject with tcp reset')
    // Nothing is sent on an idle stream, so nothing would be refused.
    await rig.inside('a', 'ss', ['-K', 'dport', '=', '5001'])
    await becomes('healing')
    for (let i = 0; i < 5; i++) expect(await pings()).toBe(true)
    expect((await view())?.state).toBe('healing')
    await unblock()
    await becomes('up')
    expect(await view()).toMatchObject({ addresses: before?.addresses, endpoint: before?.endpoint })
  })

  test('a service of which everything dies is asked for again until it is back', async () => {
    await rig.killServe('SIGKILL')
    await becomes('healing')
    await rig.serve()
    await becomes('up')
    expect(await pings()).toBe(true)
    expect((await view())?.addresses).toEqual(['10.64.0.1/32'])
  })

  test('while it heals, packets of the service stay in the tunnel', async () => {
    const unblock = await rig.block('s', 'udp dport 51820 drop')
    await becomes('healing')
    const { out } = await rig.inside('a', 'ip', ['route', 'get', '10.64.0.9'])
    expect(out).toContain('dev nsm-')
    await unblock()
    await becomes('up')
  })

  test('SIGTERM ends a first request that nobody answers, and its command', async () => {
    const join = await rig.invite('join-b')
    expect((await rig.nsm('b', 'connect', service, '--name', 'b', '--join', join)).code).toBe(0)
    expect((await rig.nsm('b', 'disconnect')).code).toBe(0)
    const before = await rig.fingerprint('b')
    const unblock = await rig.block('s', 'tcp dport 5001 drop')
    const connecting = rig.nsm('b', 'connect', service, '--name', 'b', '--timeout', '50s')
    await eventually(async () => (await rig.status('b')).connections[0]?.state === 'requesting')
    await rig.signalDaemon('b', 'SIGTERM')
    expect([7, 10]).toContain((await connecting).code)
    await eventually(async () => (await rig.daemonPid('b')) === undefined)
    expect(await rig.fingerprint('b')).toBe(before)
    await unblock()
    await becomes('up')
  })

  test('SIGTERM ends a connection that heals and puts the machine back', async () => {
    await rig.block('s', 'udp dport 51820 drop')
    await becomes('healing')
    await rig.signalDaemon('a', 'SIGTERM')
    await eventually(async () => (await rig.daemonPid('a')) === undefined)
    expect((await rig.inside('a', 'ip', ['-o', 'link'])).out).not.toContain('nsm-')
  })
})
