import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { MeshRig, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()

/* Two services that know nothing of each other, `red` on machine s and `green` on machine t. Machine r is in red, g in
 * green, b in both. Who shares a service reaches the other there, by address and by name; nobody reaches anybody else. */

interface Member {
  readonly machine: string
  readonly service: 'red' | 'green'
  readonly address: string
}

describe.skipIf(why !== undefined)(`red and green, in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  const members: Member[] = []
  const servers = { red: 's', green: 't' } as const

  const join = async (machine: string, service: Member['service'], ...more: string[]) => {
    const invitation = await rig.invite(`join-${machine}-${service}`, servers[service])
    return rig.nsm(machine, 'connect', service, '--name', machine, '--timeout', '60s', '--join', invitation, ...more)
  }
  const enter = async (machine: string, service: Member['service']) => {
    const joined = await join(machine, service, '--json')
    expect(joined.code, joined.err).toBe(0)
    const [view] = JSON.parse(joined.out).connections
    members.push({ machine, service, address: view.addresses[0].split('/')[0] })
  }

  beforeAll(async () => {
    rig = await MeshRig.open('nsmhm', ['s', 't', 'r', 'g', 'b'])
    await rig.serveOn('s', '--service', 'red', '--prefix', '10.64.0.0/16')
    await rig.serveOn('t', '--service', 'green', '--prefix', '10.65.0.0/16')
    await enter('r', 'red')
    await enter('g', 'green')
    await enter('b', 'red')
    await enter('b', 'green')
  })

  afterAll(() => rig.close())

  test('one machine has an interface, an address and a key for each service', async () => {
    const { connections } = await rig.status('b')
    expect(connections.map(({ service, interfaceName }) => [service, interfaceName]).toSorted()).toEqual([
      ['green', 'nsm-green'],
      ['red', 'nsm-red'],
    ])
    expect(new Set(connections.map(({ id }) => id)).size).toBe(2)
  })

  test('each reaches those of its own services and nobody else, also when it sends the others’ packets into its tunnel', async () => {
    const intoTunnel = { r: ['10.65.0.0/16', 'nsm-red'], g: ['10.64.0.0/16', 'nsm-green'] } as const
    for (const [machine, [prefix, device]] of Object.entries(intoTunnel)) {
      expect((await rig.inside(machine, 'ip', ['route', 'add', prefix, 'dev', device])).code).toBe(0)
    }
    const isMet = (from: Member, to: Member) => from.service === to.service || from.machine === to.machine
    const pairs = members.flatMap((from) => members.map((to) => ({ from, to })))
    const results = await Promise.all(
      pairs.map(async ({ from, to }) => {
        const wait = isMet(from, to) ? '60' : '1'
        const { code } = await rig.inside(from.machine, 'ping', ['-c', '1', '-W', wait, '-I', from.address, to.address])
        return `${from.machine} ${from.service} -> ${to.machine} ${to.service}: ${code === 0 ? 'reached' : 'nothing'}`
      }),
    )
    const expected = pairs.map(({ from, to }) => {
      return `${from.machine} ${from.service} -> ${to.machine} ${to.service}: ${isMet(from, to) ? 'reached' : 'nothing'}`
    })
    expect(results).toEqual(expected)
  })

  test('each knows the names of its own services only', async () => {
    const names = ['r.red', 'b.red', 'g.green', 'b.green'].map((name) => `${name}.nsm.internal`)
    const known = async (machine: string) => {
      const found = await Promise.all(
        names.map(async (name) => (await rig.inside(machine, 'getent', ['ahostsv4', name])).code === 0),
      )
      return names.filter((_, index) => found[index])
    }
    expect(await known('r')).toEqual(['r.red.nsm.internal', 'b.red.nsm.internal'])
    expect(await known('g')).toEqual(['g.green.nsm.internal', 'b.green.nsm.internal'])
    expect(await known('b')).toEqual(names)
  })

  test('no machine was made a router', async () => {
    expect((await rig.inside('b', 'sysctl', ['-n', 'net.ipv4.ip_forward'])).out.trim()).toBe('0')
  })

  test('leaving one service leaves the other as it is', async () => {
    expect((await rig.nsm('b', 'disconnect', 'red')).code).toBe(0)
    const green = members.find(({ machine, service }) => machine === 'g' && service === 'green')
    expect(await rig.pings('b', green?.address ?? '')).toBe(true)
    expect((await rig.status('b')).connections.map(({ service }) => service)).toEqual(['green'])
  })

  test('a service whose prefix collides is a CONFLICT (8) that names both sides and changes nothing', async () => {
    await rig.killServe('SIGTERM', 's')
    await rig.serveOn('s', '--service', 'red', '--prefix', '10.65.0.0/16')
    const before = await rig.fingerprint('b')
    const refused = await join('b', 'red', '--json')
    expect(refused.code).toBe(8)
    expect(JSON.parse(refused.out).error.message).toMatch(/10\.65\.0\.0\/16 .*network service green/)
    expect(await rig.fingerprint('b')).toBe(before)
  })
})
