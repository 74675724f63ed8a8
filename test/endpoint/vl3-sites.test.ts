import { join as joinPath } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { describe, expect, test } from 'vitest'
import { parsePrefix } from '../../src/base/ip.ts'
import type { Vl3Settings } from '../../src/endpoint/vl3.ts'
import { DNSConfigSchema, RouteSchema } from '../../src/nsm/generated/connectioncontext_pb.js'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { scratchDir } from '../support/scratch.ts'
import {
  addressesOf,
  firstConnection,
  idOf,
  join,
  keyOf,
  leaseMs,
  membersOf,
  openRig,
  peerOf,
  type Rig,
  wireGuardOffer,
} from './vl3-rig.ts'

const { signal } = new AbortController()
const isSite = (spiffeId: string) => spiffeId.startsWith(idOf('site/'))

async function openSite(name: string, part: string, more: Partial<Vl3Settings> = {}): Promise<Rig> {
  const path = joinPath(await scratchDir(), 'endpoint.db')
  return openRig(path, { isSite, parts: [part], endpointName: `vl3-${name}`, ...more })
}

/** Hands the request of one site's endpoint to another's, as the manager in between does. */
async function dial(from: Rig, to: Rig, name = 'west') {
  const wanted = { endpointName: 'vl3-east', clientName: `vl3-${name}`, id: `link-${name}`, address: '192.0.2.7' }
  const request = from.vl3.sites.request(wanted)
  const [own] = request.connection?.path?.pathSegments ?? []
  if (own) own.expires = timestampFromMs(to.clock.wallMs() + leaseMs)
  const answer = await to.vl3.request(request, peerOf(`site/${name}`), signal)
  const link = await from.vl3.sites.link(answer, { spiffeId: idOf('site/east'), isFresh: false })
  return { answer, link }
}

const allowedOf = (rig: Rig) => [...rig.hub.peers.values()].map(({ allowedPrefixes }) => allowedPrefixes)

describe('vL3 endpoints of several sites', () => {
  test('are linked both ways by one request: each hub routes the other’s parts', async () => {
    const [east, west] = [await openSite('east', '10.64.0.0/24'), await openSite('west', '10.64.1.0/24')]
    const { answer } = await dial(west, east)
    expect(allowedOf(east)).toEqual([['10.64.1.0/24']])
    expect(allowedOf(west)).toEqual([['10.64.0.0/24']])
    expect(answer.context?.ipContext).toMatchObject({ srcIpAddrs: ['10.64.1.0/32'], dstIpAddrs: ['10.64.0.0/32'] })
    expect(answer.context?.dnsContext?.configs[0]?.dnsServerIps).toEqual(['10.64.0.0'])
    expect(membersOf(east)).toEqual([])
  })

  test('the link of each side has the other’s name and its name server', async () => {
    const [east, west] = [await openSite('east', '10.64.0.0/24'), await openSite('west', '10.64.1.0/24')]
    await dial(west, east)
    expect(east.vl3.sites.linkWith('vl3-west')).toMatchObject({ gateways: ['10.64.1.0'], nameServers: ['10.64.1.0'] })
    expect(west.vl3.sites.linkWith('vl3-east')).toMatchObject({ gateways: ['10.64.0.0'], nameServers: ['10.64.0.0'] })
  })

  test('of the three routes that an endpoint of NSM names only its prefix counts, and only its own name server', async () => {
    const [east, west] = [await openSite('east', '10.64.0.0/24'), await openSite('west', '10.64.1.0/24')]
    const { answer } = await dial(west, east)
    const { ipContext, dnsContext } = answer.context ?? {}
    const routes = ['10.64.0.0/32', '10.64.0.0/24', '10.64.0.0/16'].map((prefix) => ({ prefix, nextHop: '10.64.0.0' }))
    ipContext?.srcRoutes.splice(0, 1, ...routes.map((route) => create(RouteSchema, route)))
    for (const dnsServerIps of [['10.64.1.0'], ['10.64.0.1']])
      dnsContext?.configs.push(create(DNSConfigSchema, { dnsServerIps }))
    dnsContext?.configs.shift()
    const link = await west.vl3.sites.link(answer, { spiffeId: idOf('site/east'), isFresh: false })
    expect(link).toMatchObject({ gateways: ['10.64.0.0'], nameServers: ['10.64.0.1'], prefixes: ['10.64.0.0/24'] })
    expect(allowedOf(west)).toEqual([['10.64.0.0/24']])
  })

  test('a close by the site that dialed removes its routes at once, one by anybody else does not', async () => {
    const [east, west] = [await openSite('east', '10.64.0.0/24'), await openSite('west', '10.64.1.0/24')]
    const { answer } = await dial(west, east)
    await east.vl3.close(answer, peerOf('site/north'))
    expect(allowedOf(east).length).toBe(1)
    await east.vl3.close(answer, peerOf('site/west'))
    expect(allowedOf(east)).toEqual([])
  })

  test('a site that does not come back is unlinked when its lease ends', async () => {
    const [east, west] = [await openSite('east', '10.64.0.0/24'), await openSite('west', '10.64.1.0/24')]
    await dial(west, east)
    await east.clock.advance(leaseMs)
    expect(allowedOf(east)).toEqual([])
  })

  test('a site with parts that are not its own is refused', async () => {
    const east = await openSite('east', '10.64.0.0/24', { mayHold: (spiffeId) => spiffeId === idOf('site/north') })
    const west = await openSite('west', '10.64.1.0/24')
    await expect(dial(west, east)).rejects.toMatchObject({ code: 'REFUSED' })
    await expect(dial(await openSite('same', '10.64.0.0/24'), east)).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('whoever is no site is a member, whatever the request brings', async () => {
    const [east, west] = [
      await openSite('east', '10.64.0.0/24', { isSite: () => false }),
      await openSite('west', '10.64.1.0/24'),
    ]
    await expect(dial(west, east)).rejects.toMatchObject({ code: 'REFUSED' })
    expect(allowedOf(east)).toEqual([['10.64.0.1/32']])
  })

  test('a member cannot take the WireGuard key of a linked site', async () => {
    const [east, west] = [await openSite('east', '10.64.0.0/24'), await openSite('west', '10.64.1.0/24')]
    await dial(west, east)
    const [siteKey = ''] = east.hub.peers.keys()
    await expect(join(east, { key: siteKey })).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('a request that a site passes on is the member’s at the beginning of the path, without its underlay', async () => {
    const east = await openSite('east', '10.64.0.0/24')
    const claims = Buffer.from(JSON.stringify({ sub: idOf('carol'), aud: [idOf('x')], exp: 4_000_000_000 }))
    const connection = firstConnection(east, {
      id: 'carol',
      change({ path }) {
        const [first] = path?.pathSegments ?? []
        if (first) first.token = `e30.${claims.toString('base64url')}.AA`
      },
    })
    const request = create(NetworkServiceRequestSchema, {
      connection,
      mechanismPreferences: [wireGuardOffer(keyOf('carol'))],
    })
    const answer = await east.vl3.request(request, peerOf('site/west'), signal)
    expect(membersOf(east)).toEqual([[idOf('carol'), '10.64.0.1/32']])
    expect(east.hub.peers.get(keyOf('carol'))?.endpoint).toBe(undefined)
    await east.vl3.close(answer, peerOf('site/west'))
    expect(membersOf(east)).toEqual([])
  })

  test('members have the route of the whole network and an address of the part', async () => {
    const east = await openSite('east', '10.64.3.0/24')
    const { context } = await join(east)
    expect(context?.ipContext?.srcIpAddrs).toEqual(['10.64.3.1/32'])
    expect(context?.ipContext?.srcRoutes.map(({ prefix, nextHop }) => [prefix, nextHop])).toEqual([
      ['10.64.3.0/32', '10.64.3.0'],
      ['10.64.0.0/16', '10.64.3.0'],
    ])
  })

  test('a site whose parts are full takes one more, and only then', async () => {
    const taken: string[] = []
    const takePart = async () => {
      taken.push('10.64.9.0/30')
      return parsePrefix('10.64.9.0/30')
    }
    const east = await openSite('east', '10.64.0.0/30', { takePart })
    const ids = ['a', 'b', 'c']
    const given = []
    for (const id of ids) given.push(addressesOf(await join(east, { id })))
    expect(given).toEqual([['10.64.0.1/32'], ['10.64.0.2/32'], ['10.64.9.1/32']])
    expect(taken.length).toBe(1)
  })
})
