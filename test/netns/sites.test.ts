import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { eventually, MeshRig, nameOf, service, tcpThrough, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()

/** Members with the site whose server admitted them; `d` was admitted by the first site and asks for the second. */
const members = ['a', 'b', 'c', 'd'] as const
type Member = (typeof members)[number]

/* s: first site, 10.64.0.0/24      t: second site, 10.64.1.0/24
 * a, b at s                        c admitted by t, d admitted by s with the label site=west; both at t */

describe.skipIf(why !== undefined)(`one vL3 of two sites in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  const addresses = new Map<string, string>()

  const connect = async (machine: Member, join: string, site: string) => {
    const view = await rig.connect(machine, join, site)
    addresses.set(machine, view.addresses[0]?.replace('/32', '') ?? '')
    return view
  }

  const reaches = (from: string, to: string) => rig.reaches(from, to)

  const allPairs = async () => {
    for (const from of members) {
      for (const to of members) if (from !== to) await eventually(() => reaches(from, addresses.get(to) ?? ''))
    }
  }

  const sameAddresses = async () => {
    for (const machine of members) {
      const [connection] = (await rig.status(machine)).connections
      expect(connection?.addresses).toEqual([`${addresses.get(machine)}/32`])
    }
  }

  beforeAll(async () => {
    rig = await MeshRig.open('nsmv', ['s', 't', ...members])
    await rig.serve('--site', 'east')
    const site = await rig.file('site', (await rig.nsm('s', 'invite', '--endpoint', '--id', 'west')).out)
    await rig.serveOn('t', '--join', site, '--site', 'west')
  })

  afterAll(() => rig.close())

  test('members of both sites join, each with an address of its site and the route of the whole network', async () => {
    const a = await connect('a', await rig.invite('join-a'), 'east')
    const b = await connect('b', await rig.invite('join-b'), 'east')
    const c = await connect('c', await rig.invite('join-c', 't'), 'west')
    const d = await connect('d', await rig.invite('join-d'), 'west')
    expect([a.addresses, b.addresses]).toEqual([['10.64.0.1/32'], ['10.64.0.2/32']])
    expect([c.addresses, d.addresses]).toEqual([['10.64.1.1/32'], ['10.64.1.2/32']])
    expect([a.endpoint, c.endpoint, d.endpoint]).toEqual([
      `${service}-vl3`,
      `${service}-vl3-west`,
      `${service}-vl3-west`,
    ])
    for (const view of [a, c]) expect(view.routes).toContain('10.64.0.0/16')
    expect(c.manager).not.toBe(a.manager)
  })

  test('every member reaches every other by address', async () => {
    await allPairs()
  })

  test('every member reaches every other by name, and sees its own address as the source', async () => {
    for (const from of members) {
      const others = members.filter((to) => to !== from)
      const seen = await Promise.all(others.map((to) => tcpThrough(rig, from, to)))
      expect(seen).toEqual(others.map(() => addresses.get(from)))
    }
  })

  test('a name that no site knows is NXDOMAIN', async () => {
    const ask = () => rig.inside('a', process.execPath, ['-e', lookup(nameOf('nobody'))])
    await eventually(async () => (await ask()).out === 'ENOTFOUND')
  })

  test('an address of the other site has its name', async () => {
    const reverse = `require('node:dns').reverse('${addresses.get('c')}', (e, names) => process.stdout.write(e ? e.code : names.join()))`
    await eventually(async () => (await rig.inside('a', process.execPath, ['-e', reverse])).out === nameOf('c'))
  })

  test('the second site is killed and started again: it keeps its prefix, members keep their addresses', async () => {
    await rig.killServe('SIGKILL', 't')
    await rig.serveOn('t', '--site', 'west')
    await allPairs()
    await sameAddresses()
  })

  test('the first site is killed and started again: everybody reaches everybody as before', async () => {
    await rig.killServe('SIGKILL', 's')
    await rig.serve('--site', 'east')
    await allPairs()
    await sameAddresses()
  })

  test('the sites do not reach each other for a while: each goes on by itself, then they are one again', async () => {
    await rig.inside('s', 'ip', ['route', 'add', 'blackhole', '192.0.2.2/32'])
    await eventually(async () => !(await reaches('a', addresses.get('c') ?? '')))
    expect(await rig.pings('a', addresses.get('b') ?? '')).toBe(true)
    expect(await rig.pings('c', addresses.get('d') ?? '')).toBe(true)
    await rig.inside('s', 'ip', ['route', 'del', 'blackhole', '192.0.2.2/32'])
    await allPairs()
    await sameAddresses()
  })

  test('the second site starts while the first one is away, serves its members, and is linked when it returns', async () => {
    await rig.killServe('SIGKILL', 's')
    await rig.killServe('SIGTERM', 't')
    // It has nothing to print before the first one is back.
    void rig.serveOn('t', '--site', 'west').catch(() => {})
    await eventually(() => reaches('c', addresses.get('d') ?? ''))
    await rig.serve('--site', 'east')
    await allPairs()
    await sameAddresses()
  })
})

function lookup(name: string): string {
  return `require('node:dns').lookup('${name}', (e, address) => process.stdout.write(e ? e.code : address))`
}
