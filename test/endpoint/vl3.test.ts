import { join as joinPath } from 'node:path'
import { clone, create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import type { Vl3Settings } from '../../src/endpoint/vl3.ts'
import { type Connection, ConnectionSchema, PathSegmentSchema, State } from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'
import { admissionOf } from '../support/policy.ts'
import { scratchDir } from '../support/scratch.ts'
import { addressesOf, idOf, join, keyOf, membersOf, openRig, peerOf, refresh, restMs } from './vl3-rig.ts'

const fresh = async (wish: Partial<Vl3Settings> = {}) => openRig(joinPath(await scratchDir(), 'vl3.db'), wish)
const sets = (fields: Partial<Connection>) => ({
  change: (connection: Connection) => void Object.assign(connection, fields),
})

const admitted = (...names: readonly string[]) =>
  admissionOf({
    td: 'example.org',
    grants: names.map((name) => ({ who: idOf(name), may: ['request'], services: ['blue'] })),
  })

describe('vL3 answer', () => {
  test('gives address, gateway routes, name server, MTU and its side of WireGuard', async () => {
    const rig = await fresh()
    const answer = await join(rig)
    expect(answer.context?.ipContext).toMatchObject({
      srcIpAddrs: ['10.64.0.1/32'],
      dstIpAddrs: ['10.64.0.0/32'],
      srcRoutes: [
        { prefix: '10.64.0.0/32', nextHop: '10.64.0.0' },
        { prefix: '10.64.0.0/16', nextHop: '10.64.0.0' },
      ],
      dstRoutes: [{ prefix: '10.64.0.1/32', nextHop: '' }],
    })
    expect(answer.context?.dnsContext?.configs).toMatchObject([
      { dnsServerIps: ['10.64.0.0'], searchDomains: ['blue.nsm.internal'] },
    ])
    expect(answer.context?.MTU).toBe(1420)
    const publicKey = Buffer.from(publicKeyOf(rig.hub.config.privateKey)).toString('base64')
    expect(answer.mechanism).toMatchObject({
      cls: 'REMOTE',
      type: 'WIREGUARD',
      parameters: {
        src_ip: '192.0.2.7',
        src_port: '51820',
        src_public_key: keyOf('alice'),
        dst_ip: '192.0.2.1',
        dst_port: '51820',
        dst_public_key: publicKey,
        MTU: '1420',
      },
    })
    expect(answer).toMatchObject({ payload: 'IP', networkServiceEndpointName: 'vl3-blue', state: State.UP })
  })

  test('adds its own segment with a token for the manager and hands the caller its view back', async () => {
    const rig = await fresh()
    const answer = await join(rig)
    expect(answer.path?.index).toBe(1)
    expect(answer.id).toBe('manager-alice-0')
    const [, , own, ...rest] = answer.path?.pathSegments ?? []
    expect(rest).toEqual([])
    expect(own).toMatchObject({ name: 'vl3-blue', token: `token for ${idOf('alice')}` })
    expect(own?.expires).toBeDefined()
  })

  test('cuts what stood behind its own segment', async () => {
    const rig = await fresh()
    const answer = await refresh(rig, await join(rig), 'alice', (connection) => {
      connection.path?.pathSegments.push(create(PathSegmentSchema, { name: 'old', id: 'old' }))
    })
    expect(answer.path?.pathSegments.map(({ name }) => name)).toEqual(['client-alice', 'manager', 'vl3-blue'])
  })

  test('gives one address of each prefix when there are several', async () => {
    const rig = await fresh({ prefixes: ['10.64.0.0/16', 'fd00:64::/64'] })
    const answer = await join(rig)
    expect(addressesOf(answer)).toEqual(['10.64.0.1/32', 'fd00:64::1/128'])
    expect(answer.context?.ipContext?.dstIpAddrs).toEqual(['10.64.0.0/32', 'fd00:64::/128'])
    expect(answer.context?.dnsContext?.configs[0]?.dnsServerIps).toEqual(['10.64.0.0', 'fd00:64::'])
    expect(rig.hub.peers.get(keyOf('alice'))?.allowedPrefixes).toEqual(['10.64.0.1/32', 'fd00:64::1/128'])
    expect(rig.hub.config).toMatchObject({ gateways: ['10.64.0.0', 'fd00:64::'], localUdpPorts: [53] })
  })

  test.each([
    ['a smaller mechanism MTU', { mtu: '1380' }, 1380],
    ['a larger mechanism MTU', { mtu: '9000' }, 1420],
    ['no mechanism MTU', { mtu: '' }, 1420],
  ])('with %s the MTU is the smaller one', async (_, ask, mtu) => {
    const answer = await join(await fresh(), ask)
    expect([answer.context?.MTU, answer.mechanism?.parameters['MTU']]).toEqual([mtu, String(mtu)])
  })

  test('takes a request without context, without payload and with a domain in the service name', async () => {
    const answer = await join(await fresh(), {
      change(connection) {
        delete connection.context
        connection.payload = ''
        connection.networkService = 'blue@example.org'
      },
    })
    expect(addressesOf(answer)).toEqual(['10.64.0.1/32'])
    expect(answer.payload).toBe('IP')
  })

  test('replaces what another endpoint had given and keeps what the client excludes', async () => {
    const answer = await join(await fresh(), {
      excluded: ['192.168.1.0/24'],
      change(connection) {
        const ip = connection.context?.ipContext
        ip?.srcIpAddrs.push('172.16.0.9/32')
        ip?.dstIpAddrs.push('172.16.0.0/32')
        ip?.extraPrefixes.push('172.17.0.0/24')
      },
    })
    expect(addressesOf(answer)).toEqual(['10.64.0.1/32'])
    expect(answer.context?.ipContext?.extraPrefixes).toEqual([])
    expect(answer.context?.ipContext?.excludedPrefixes).toEqual(['192.168.1.0/24'])
  })
})

describe('vL3 refusal', () => {
  test.each([
    ['another service', sets({ networkService: 'green' }), 'NOT_FOUND'],
    ['payload ETHERNET', sets({ payload: 'ETHERNET' }), 'REFUSED'],
    ['a key that is none', { key: 'c2hvcnQ=' }, 'REFUSED'],
    ['no key', { key: '' }, 'REFUSED'],
    ['an excluded prefix that is none', { excluded: ['10.0.0.0/33'] }, 'USAGE'],
    ['an id that is not the one of its segment', sets({ id: 'x' }), 'REFUSED'],
  ])('%s is refused and leaves nothing behind', async (_, ask, code) => {
    const rig = await fresh()
    await expect(join(rig, ask)).rejects.toMatchObject({ code })
    expect([rig.hub.calls, membersOf(rig)]).toEqual([[], []])
  })

  test.each([
    [[], 'cannot support any of the requested mechanism: none offered'],
    [['KERNEL', 'VXLAN'], 'cannot support any of the requested mechanism: KERNEL, VXLAN'],
  ])('mechanisms %j are refused in the words of NSM', async (types, message) => {
    const rig = await fresh()
    const connection = await join(rig)
    delete connection.mechanism
    const request = create(NetworkServiceRequestSchema, {
      connection,
      mechanismPreferences: types.map((type) => ({ type })),
    })
    const asked = rig.vl3.request(request, peerOf('alice'), new AbortController().signal)
    await expect(asked).rejects.toMatchObject({ code: 'REFUSED', message })
  })

  test('a mechanism in the connection wins over the preferences', async () => {
    const rig = await fresh()
    const first = await join(rig)
    const asked = refresh(rig, first, 'alice', (connection) => {
      if (connection.mechanism) connection.mechanism.type = 'VXLAN'
    })
    await expect(asked).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('a lease without an end is refused', async () => {
    const rig = await fresh()
    const change: NonNullable<Parameters<typeof join>[1]>['change'] = (connection) => {
      for (const segment of connection.path?.pathSegments ?? []) delete segment.expires
    }
    await expect(join(rig, { change })).rejects.toThrow('expiration for the previous path segment cannot be nil')
  })

  test('a policy lets in whom it grants a request and nobody else', async () => {
    const rig = await fresh({ admission: admitted('alice') })
    await join(rig)
    await expect(join(rig, { id: 'bob' })).rejects.toMatchObject({ code: 'REFUSED' })
    expect(membersOf(rig)).toEqual([[idOf('alice'), '10.64.0.1/32']])
  })

  test("the endpoint's own WireGuard key is refused as a member's", async () => {
    const rig = await fresh()
    const key = Buffer.from(publicKeyOf(rig.hub.config.privateKey)).toString('base64')
    await expect(join(rig, { key })).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('an aborted request is not begun', async () => {
    const rig = await fresh()
    const request = create(NetworkServiceRequestSchema, {})
    await expect(rig.vl3.request(request, peerOf('alice'), AbortSignal.abort())).rejects.toThrow()
    expect(rig.hub.calls).toEqual([])
  })
})

describe('vL3 member', () => {
  test('has its WireGuard peer before the answer, with exactly its addresses', async () => {
    const rig = await fresh()
    await join(rig)
    await join(rig, { id: 'bob' })
    expect([...rig.hub.peers.values()].map(({ allowedPrefixes }) => allowedPrefixes)).toEqual([
      ['10.64.0.1/32'],
      ['10.64.0.2/32'],
    ])
  })

  test('is sent to at its own word only when its TCP connection comes from that address', async () => {
    const rig = await fresh()
    await join(rig)
    expect(rig.hub.peers.get(keyOf('alice'))?.endpoint).toEqual({ address: '192.0.2.7', port: 51820 })
    const away = create(NetworkServiceRequestSchema, {
      connection: clone(ConnectionSchema, await join(rig, { id: 'bob' })),
    })
    if (away.connection?.mechanism) away.connection.mechanism.parameters['src_public_key'] = keyOf('other')
    const peer = { ...peerOf('bob'), address: '198.51.100.9' }
    await rig.vl3.request(away, peer, new AbortController().signal)
    expect(rig.hub.peers.get(keyOf('other'))?.endpoint).toBeUndefined()
  })

  test('keeps address and peer on refresh, also with an empty context, and the hub is not touched', async () => {
    const rig = await fresh()
    const first = await join(rig)
    const calls = [...rig.hub.calls]
    const second = await refresh(rig, first)
    const third = await refresh(rig, second, 'alice', (connection) => delete connection.context)
    expect([addressesOf(second), addressesOf(third)]).toEqual([['10.64.0.1/32'], ['10.64.0.1/32']])
    expect(third.path?.pathSegments[2]?.id).toBe(first.path?.pathSegments[2]?.id)
    expect(third.mechanism?.parameters).toEqual(first.mechanism?.parameters)
    expect(rig.hub.calls).toEqual(calls)
  })

  test('that restarts with the same connection id and a new key keeps its address; the old key goes first', async () => {
    const rig = await fresh()
    await join(rig)
    const again = await join(rig, { key: keyOf('alice, restarted') })
    expect(addressesOf(again)).toEqual(['10.64.0.1/32'])
    expect(rig.hub.calls).toEqual([
      `set ${keyOf('alice')}`,
      `remove ${keyOf('alice')}`,
      `set ${keyOf('alice, restarted')}`,
    ])
  })

  test('with a second connection and another key has a second address', async () => {
    const rig = await fresh()
    await join(rig)
    const second = await join(rig, { connectionId: 'alice-1', key: keyOf('second') })
    expect(addressesOf(second)).toEqual(['10.64.0.2/32'])
    expect(rig.hub.peers.size).toBe(2)
  })

  test('that comes back under another connection id with the same key takes its own place', async () => {
    const rig = await fresh()
    await join(rig)
    const again = await join(rig, { connectionId: 'alice-new' })
    expect(addressesOf(again)).toEqual(['10.64.0.1/32'])
    expect(membersOf(rig)).toHaveLength(1)
    expect(rig.hub.peers.size).toBe(1)
  })

  test('cannot take the key of another identity', async () => {
    const rig = await fresh()
    await join(rig)
    await expect(join(rig, { id: 'mallory', key: keyOf('alice') })).rejects.toMatchObject({ code: 'REFUSED' })
    expect(membersOf(rig)).toEqual([[idOf('alice'), '10.64.0.1/32']])
    expect(rig.hub.calls).toEqual([`set ${keyOf('alice')}`])
  })

  test('cannot take the connection of another identity by its id', async () => {
    const rig = await fresh()
    await join(rig)
    const other = await join(rig, { id: 'mallory', connectionId: 'alice-0' })
    expect(addressesOf(other)).toEqual(['10.64.0.2/32'])
    expect(membersOf(rig)).toHaveLength(2)
  })

  test('whose peer the hub refuses leaves no address, peer or row behind', async () => {
    const rig = await fresh()
    rig.hub.failNext(new NsmError('REFUSED', 'weak key', 'make another'))
    await expect(join(rig)).rejects.toMatchObject({ code: 'REFUSED' })
    expect([membersOf(rig), rig.hub.peers.size, rig.store.leases('blue')]).toEqual([[], 0, []])
  })

  test('whose new key the hub refuses is ended as a whole', async () => {
    const rig = await fresh()
    await join(rig)
    rig.hub.failNext(new NsmError('REFUSED', 'weak key', 'make another'))
    await expect(join(rig, { key: keyOf('weak') })).rejects.toMatchObject({ code: 'REFUSED' })
    expect([membersOf(rig), rig.hub.peers.size]).toEqual([[], 0])
    expect(addressesOf(await join(rig))).toEqual(['10.64.0.1/32'])
  })

  test('cannot hold more than 64 connections of one identity', async () => {
    const rig = await fresh()
    for (let i = 0; i < 64; i++) await join(rig, { connectionId: `c-${i}`, key: keyOf(`${i}`) })
    const more = join(rig, { connectionId: 'c-64', key: keyOf('64') })
    await expect(more).rejects.toMatchObject({ code: 'REFUSED' })
    await join(rig, { connectionId: 'c-63', key: keyOf('again') })
    await join(rig, { id: 'bob' })
  })

  test('a hundred at once get a hundred addresses', async () => {
    const rig = await fresh()
    const names = Array.from({ length: 100 }, (_, i) => `member-${i}`)
    const answers = await Promise.all(names.map((id) => join(rig, { id })))
    expect(new Set(answers.flatMap((answer) => addressesOf(answer))).size).toBe(100)
    expect(rig.hub.peers.size).toBe(100)
  })
})

describe('vL3 addresses', () => {
  test('excluded prefixes are honoured; a refresh that excludes the own address moves the member', async () => {
    const rig = await fresh()
    const first = await join(rig, { excluded: ['10.64.0.0/24', '10.64.1.0/25'] })
    expect(addressesOf(first)).toEqual(['10.64.1.128/32'])
    const second = await refresh(rig, first, 'alice', (connection) => {
      connection.context?.ipContext?.excludedPrefixes.push('10.64.1.128/25')
    })
    expect(addressesOf(second)).toEqual(['10.64.2.0/32'])
    expect(rig.hub.peers.get(keyOf('alice'))?.allowedPrefixes).toEqual(['10.64.2.0/32'])
    expect(rig.hub.peers.size).toBe(1)
  })

  test('a pool that is excluded as a whole is named with what excludes it', async () => {
    const rig = await fresh()
    await expect(join(rig, { excluded: ['10.0.0.0/8'] })).rejects.toMatchObject({
      code: 'CONFLICT',
      message: 'address pool 10.64.0.0/16 lies wholly in the excluded prefix 10.0.0.0/8',
    })
  })

  test('exhaustion is said clearly, takes nothing of the other family, and ends when an address has rested', async () => {
    const rig = await fresh({ prefixes: ['fd00:64::/64', '10.64.0.0/30'] })
    const alice = await join(rig)
    await join(rig, { id: 'bob' })
    await expect(join(rig, { id: 'carol' })).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('address pool 10.64.0.0/30 is exhausted'),
    })
    await rig.vl3.close(alice, peerOf('alice'))
    await expect(join(rig, { id: 'carol' })).rejects.toMatchObject({ code: 'CONFLICT' })
    await rig.clock.advance(restMs)
    const carol = await join(rig, { id: 'carol' })
    expect(addressesOf(carol)).toEqual(['fd00:64::1/128', '10.64.0.1/32'])
  })

  test('a member that left gets its address back while it rests', async () => {
    const rig = await fresh()
    await rig.vl3.close(await join(rig), peerOf('alice'))
    expect(addressesOf(await join(rig, { id: 'bob' }))).toEqual(['10.64.0.2/32'])
    expect(addressesOf(await join(rig, { connectionId: 'alice-9', key: keyOf('new') }))).toEqual(['10.64.0.1/32'])
  })

  test.each([
    [[], 'USAGE'],
    [['10.64.0.0/32'], 'USAGE'],
    [['10.64.0.0/16', '10.64.128.0/17'], 'CONFLICT'],
  ])('prefixes %j are refused at the start with %s', async (prefixes, code) => {
    await expect(fresh({ prefixes })).rejects.toMatchObject({ code })
  })
})
