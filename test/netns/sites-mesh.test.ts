import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { eventually, MeshRig, nameOf, tcpThrough, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()

/** Each site, by its machine, with the member that it serves. */
const sites = { s: 'a', t: 'b', u: 'c' } as const
type Site = keyof typeof sites
const servers = ['s', 't', 'u'] as const
const members = Object.values(sites)

/* s: first site, 10.64.0.0/24 and fd64::/64      t, u: further sites, the next parts of each prefix */

describe.skipIf(why !== undefined).each([
  [4, 'nsme4'],
  [6, 'nsme6'],
] as const)(`one vL3 of three sites over IPv%d in namespaces${why ? `: skipped, ${why}` : ''}`, (underlay, prefix) => {
  let rig: MeshRig
  const addresses = new Map<string, readonly string[]>()

  const listen = underlay === 4 ? [] : ['--listen', '[::]:5001']
  const network = ['--prefix', '10.64.0.0/16', '--prefix', 'fd64::/48']
  const start = (site: Site, ...more: string[]) =>
    rig.serveOn(site, ...listen, ...(site === 's' ? network : []), '--site', site, ...more)
  const addressesOf = (member: string) => addresses.get(member) ?? []

  const pairs = async (chosen: readonly string[], holds: (from: string, to: string) => Promise<boolean>) => {
    for (const from of chosen) for (const to of chosen) if (from !== to) await eventually(() => holds(from, to))
  }
  const reaches = async (from: string, to: string) => {
    for (const address of addressesOf(to)) if (!(await rig.reaches(from, address))) return false
    return true
  }
  const lookUp = async (from: string, name: string, family: 4 | 6) => {
    const call = `lookup('${name}', ${family}, (e, address) => process.stdout.write(e ? e.code : address))`
    return (await rig.inside(from, process.execPath, ['-e', `require('node:dns').${call}`])).out
  }
  const sameAddresses = async () => {
    for (const member of members) {
      const [connection] = (await rig.status(member)).connections
      expect(connection?.addresses.map(bare)).toEqual(addressesOf(member))
    }
  }

  beforeAll(async () => {
    rig = await MeshRig.open(prefix, [...servers, ...members], underlay)
    await start('s')
    for (const site of ['t', 'u'] as const) {
      const file = await rig.file(`site-${site}`, (await rig.nsm('s', 'invite', '--endpoint', '--id', site)).out)
      await start(site, '--join', file)
    }
  })

  afterAll(() => rig.close())

  test('a member of each site joins, with addresses of its site in both families', async () => {
    for (const site of servers) {
      const view = await rig.connect(sites[site], await rig.invite(`join-${site}`, site), site)
      addresses.set(sites[site], view.addresses.map(bare))
    }
    expect([...addresses.values()]).toEqual([
      ['10.64.0.1', 'fd64::1'],
      ['10.64.1.1', 'fd64:0:0:1::1'],
      ['10.64.2.1', 'fd64:0:0:2::1'],
    ])
  })

  test('every member reaches every other by both addresses', () => pairs(members, reaches))

  test('every member knows every other by name, with both addresses', async () => {
    for (const family of [4, 6] as const) {
      await pairs(members, async (from, to) => {
        return (await lookUp(from, nameOf(to), family)) === addressesOf(to)[family === 4 ? 0 : 1]
      })
    }
  })

  test('every member dials every other by name over TCP, and is seen by its own address', async () => {
    for (const from of members) {
      for (const to of members) if (from !== to) expect(addressesOf(from)).toContain(await tcpThrough(rig, from, to))
    }
  })

  test.each(servers)(
    '%s is killed and started again: the other two lose no packet, then all is as before',
    async (site) => {
      const [from, to] = members.filter((member) => member !== sites[site])
      const again = async () => {
        await rig.killServe('SIGKILL', site)
        await start(site)
        await pairs(members, reaches)
      }
      const isBack = again()
      const lost = addressesOf(to ?? '').map((address) => rig.lostMeanwhile(from ?? '', address, isBack))
      expect(await Promise.all(lost)).toEqual([0, 0])
      await sameAddresses()
    },
  )

  // Nothing in it has to do with the addresses outside.
  if (underlay === 4)
    test('a site that falls silent keeps no look-up waiting, and is part of the network when it is heard again', async () => {
      rig.signalServe('SIGSTOP', 'u')
      await eventually(async () => (await lookUp('a', nameOf('nobody'), 4)) === 'ENOTFOUND')
      await eventually(async () => (await lookUp('a', nameOf('b'), 4)) === addressesOf('b')[0])
      rig.signalServe('SIGCONT', 'u')
      await pairs(members, reaches)
      await eventually(async () => (await lookUp('a', nameOf('c'), 4)) === addressesOf('c')[0])
      await sameAddresses()
    })
})

function bare(address: string): string {
  return address.slice(0, address.indexOf('/'))
}
