import { describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { AddressPlan } from '../../src/endpoint/addresses.ts'
import { type SiteLink, SiteLinks } from '../../src/endpoint/site-links.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { openFakeHub } from '../support/fake-hub.ts'

const keyOf = (fill: number) => Buffer.alloc(32, fill).toString('base64')

function open(mayHold: (spiffeId: string, prefixes: readonly string[]) => boolean = () => true) {
  const clock = createFakeClock()
  const hub = openFakeHub({
    privateKey: new Uint8Array(32),
    listenAddress: '::',
    listenPort: 0,
    gateways: ['10.64.0.0'],
    localUdpPorts: [53],
    onLocalPacket() {},
  })
  const plan = new AddressPlan({ prefixes: ['10.64.0.0/16'], parts: ['10.64.0.0/24'], restMs: 0 })
  return { clock, hub, links: new SiteLinks({ hub, plan, mayHold, clock, log: silentLog }) }
}

function linkOf(change: Partial<SiteLink> = {}, clock = createFakeClock()): SiteLink {
  return {
    spiffeId: 'spiffe://test.internal/site/west',
    endpointName: 'vl3-west',
    connectionId: 'west-0',
    segmentId: 'segment-west',
    publicKey: keyOf(1),
    gateways: ['10.64.1.0'],
    nameServers: ['10.64.1.0'],
    prefixes: ['10.64.1.0/24'],
    underlay: { address: '192.0.2.2', port: 51_820 },
    expiresMs: clock.wallMs() + 600_000,
    ...change,
  }
}

describe('SiteLinks', () => {
  test('a link is a hub peer whose allowed prefixes are all that lies behind it, and one that we asked for is woken', async () => {
    const { hub, links } = open()
    await links.put(linkOf(), { isFresh: false })
    expect(hub.peers.get(keyOf(1))).toMatchObject({
      allowedPrefixes: ['10.64.1.0/24'],
      endpoint: { address: '192.0.2.2', port: 51_820 },
    })
    expect(hub.sent.length).toBe(1)
    expect(links.bySegment('segment-west')?.publicKey).toBe(keyOf(1))
  })

  test('who asked shakes hands, and who answers does not: the asking side would not know its key yet', async () => {
    const { clock, hub, links } = open()
    await links.put(linkOf({}, clock))
    expect(hub.sent.length).toBe(0)
    await clock.advance(1_000)
    expect(hub.sent.length).toBe(1)
  })

  test('a refresh that changes nothing does not touch the hub; a new part does', async () => {
    const { hub, links } = open()
    await links.put(linkOf())
    await links.put(linkOf())
    expect(hub.calls.length).toBe(1)
    await links.put(linkOf({ prefixes: ['10.64.1.0/24', '10.64.2.0/24'] }))
    expect(hub.peers.get(keyOf(1))?.allowedPrefixes).toEqual(['10.64.1.0/24', '10.64.2.0/24'])
  })

  test('a fresh one begins its session anew', async () => {
    const { hub, links } = open()
    await links.put(linkOf())
    await links.put(linkOf(), { isFresh: true })
    expect(hub.calls).toEqual([`set ${keyOf(1)}`, `remove ${keyOf(1)}`, `set ${keyOf(1)}`])
  })

  test('ends with its lease, unless it was put again', async () => {
    const { clock, hub, links } = open()
    await links.put(linkOf({}, clock))
    await clock.advance(500_000)
    await links.put(linkOf({}, clock))
    await clock.advance(500_000)
    expect(hub.peers.size).toBe(1)
    await clock.advance(100_000)
    expect([hub.peers.size, links.all().length]).toEqual([0, 0])
  })

  test('a site that comes back with another key takes its own place', async () => {
    const { hub, links } = open()
    await links.put(linkOf())
    await links.put(linkOf({ publicKey: keyOf(2) }))
    expect([...hub.peers.keys()]).toEqual([keyOf(2)])
  })

  test('a site that falls silent is no place of names any more, but its route stays', async () => {
    const { clock, hub, links } = open()
    await links.put(linkOf({ nameServers: ['10.64.1.1'] }, clock))
    expect(links.nameSites()).toEqual([{ nameServers: ['10.64.1.1'], presence: 'live' }])
    await clock.advance(60_000)
    expect(links.nameSites()).toEqual([{ nameServers: ['10.64.1.1'], presence: 'gone' }])
    expect([...hub.peers.keys()]).toEqual([keyOf(1)])
  })

  test('stops looking when it is stopped, and when the last link is gone', async () => {
    const { clock, links } = open()
    await links.put(linkOf({}, clock))
    await links.remove(linkOf({}, clock), 'closed')
    await clock.advance(1_000)
    expect(clock.waiting).toBe(0)
    await links.put(linkOf({}, clock))
    links.stop()
    expect(clock.waiting).toBe(0)
  })

  test('two endpoints of one identity are two sites', async () => {
    const { hub, links } = open()
    const other = { endpointName: 'vl3-west-2', prefixes: ['10.64.2.0/24'], gateways: ['10.64.2.0'], nameServers: [] }
    await links.put(linkOf())
    await links.put(linkOf({ publicKey: keyOf(2), ...other }))
    expect([...hub.peers.keys()]).toEqual([keyOf(1), keyOf(2)])
    expect(links.withEndpoint('vl3-west-2')?.publicKey).toBe(keyOf(2))
    expect(links.withEndpoint('vl3-east')).toBe(undefined)
  })

  test('removes exactly the link that is there', async () => {
    const { hub, links } = open()
    await links.put(linkOf())
    await links.remove(linkOf({ connectionId: 'older' }), 'closed')
    expect(hub.peers.size).toBe(1)
    await links.remove(linkOf(), 'closed')
    expect(hub.peers.size).toBe(0)
  })

  test.each([
    ['of ours', { prefixes: ['10.64.0.0/24'], gateways: ['10.64.0.0'], nameServers: [] }, 'is here'],
    ['that reach into ours', { prefixes: ['10.64.0.0/16'] }, 'is here'],
    [
      'outside the network',
      { prefixes: ['10.65.0.0/24'], gateways: ['10.65.0.0'], nameServers: [] },
      'outside the vL3',
    ],
    ['that are everything', { prefixes: ['0.0.0.0/0'] }, 'outside the vL3'],
    ['that are none', { prefixes: [] }, 'not that site’s'],
    ['with a gateway that lies elsewhere', { gateways: ['10.64.9.0'] }, 'the address 10.64.9.0'],
    ['with a name server that lies elsewhere', { nameServers: ['10.64.8.1'] }, 'the address 10.64.8.1'],
    [
      'of another site',
      { spiffeId: 'spiffe://test.internal/site/north', publicKey: keyOf(3), prefixes: ['10.64.1.128/25'] },
      'overlap those of',
    ],
  ])('refuses prefixes %s', async (_what, change: Partial<SiteLink>, why) => {
    const { hub, links } = open()
    await links.put(linkOf())
    const refused = links.put(linkOf({ publicKey: keyOf(2), ...change }))
    await expect(refused).rejects.toMatchObject({ code: 'REFUSED', message: expect.stringContaining(why) })
    expect([...hub.peers.keys()]).toEqual([keyOf(1)])
  })

  test('refuses prefixes that the plan did not give to that site', async () => {
    const { links } = open((spiffeId) => spiffeId.endsWith('/north'))
    await expect(links.put(linkOf())).rejects.toMatchObject({ code: 'REFUSED' })
  })
})
