import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { checksumsHold, echoRequest, type PacketPlan, plainRead, superPacket, tcpPacket, udpPacket } from './packets.ts'
import { carry, collect, createNode, datagramsOf, deviceReads, inner, join, receive } from './wire.ts'

const gateways = ['10.7.0.1', 'fd07::1']

/** A hub with two members: .2 and .3, all sessions up. */
function createStar() {
  const hub = createNode('hub', '192.0.2.100')
  hub.engine.setGateways(gateways, [53])
  const members = [2, 3].map((n) => {
    const node = createNode('member', `192.0.2.${n}`)
    node.engine.setMerging({ tcp: false, udp: false })
    join(hub, { publicKey: node.publicKey, allowedPrefixes: [`10.7.0.${n}`, `fd07::${n}`] })
    join(node, {
      publicKey: hub.publicKey,
      endpoint: hub.at,
      allowedPrefixes: ['10.7.0.0/16', 'fd07::/64', '0.0.0.0/0', '::/0'],
    })
    return node
  })
  const [a, b] = members
  if (!a || !b) throw new Error('two members')
  const all = [hub, a, b]
  for (const node of all) node.engine.tick(1)
  for (const node of [a, b]) {
    node.engine.handshake(0, 1)
    carry(all, node, collect(node, 1), 1)
  }
  return { hub, a, b, all }
}

test.each([
  ['IPv4', '10.7.0.2', '10.7.0.3', 8],
  ['IPv6', 'fd07::2', 'fd07::3', 7],
] as const)('hub passes %s packets from member to member and counts the hop', (_, from, to, hopsAt) => {
  const { hub, a, b, all } = createStar()
  for (const hops of [64, 2, 255]) {
    const packet = udpPacket({ from, to, payload: randomBytes(100), hops })
    carry(all, a, deviceReads(a, [plainRead(packet)], 2), 2)
    const arrived = inner(b.writes.pop())
    expect(arrived[hopsAt]).toBe(hops - 1)
    expect(checksumsHold(arrived)).toBe(true)
    expect(arrived.subarray(-100)).toEqual(packet.subarray(-100))
  }
  for (const hops of [1, 0]) carry(all, a, deviceReads(a, [plainRead(udpPacket({ from, to, hops }))], 2), 2)
  expect(b.writes).toEqual([])
  expect(hub.engine.counters()['expiredHops']).toBe(2)
})

test('hub keeps a run a run: one receive, one send', () => {
  const { hub, a, b } = createStar()
  const payload = randomBytes(44 * 1_380)
  const read = superPacket(tcpPacket({ from: '10.7.0.2', to: '10.7.0.3', payload }), 1_380)
  const runs = deviceReads(a, [read], 2)
  expect(runs).toHaveLength(1)
  const sends = receive(hub, runs, a.at, 2)
  expect(sends).toHaveLength(1)
  expect(sends[0]).toMatchObject({ segment: 1_452, to: b.at })
  expect(sends.flatMap(datagramsOf)).toHaveLength(44)
  b.engine.setMerging({ tcp: true, udp: true })
  receive(b, sends, hub.at, 2)
  expect(b.writes).toHaveLength(1)
  expect(inner(b.writes[0]).subarray(40)).toEqual(payload)
})

test.each([
  ["a neighbour's address as source", 'spoofed', { from: '10.7.0.3', to: '10.7.0.3' }],
  ['a foreign source', 'spoofed', { from: '10.9.0.2', to: '10.7.0.3' }],
  ['the gateway as source', 'spoofed', { from: '10.7.0.1', to: '10.7.0.3' }],
  ['an IPv6 neighbour as source', 'spoofed', { from: 'fd07::3', to: 'fd07::3' }],
  ['multicast', 'forbiddenAddress', { from: '10.7.0.2', to: '224.0.0.1' }],
  ['broadcast', 'forbiddenAddress', { from: '10.7.0.2', to: '255.255.255.255' }],
  ['link-local', 'forbiddenAddress', { from: '10.7.0.2', to: '169.254.169.254' }],
  ['loopback', 'forbiddenAddress', { from: '10.7.0.2', to: '127.0.0.1' }],
  ['the unspecified address', 'forbiddenAddress', { from: '10.7.0.2', to: '0.0.0.0' }],
  ['IPv6 multicast', 'forbiddenAddress', { from: 'fd07::2', to: 'ff02::1' }],
  ['IPv6 link-local', 'forbiddenAddress', { from: 'fd07::2', to: 'fe80::1' }],
  ['IPv6 loopback', 'forbiddenAddress', { from: 'fd07::2', to: '::1' }],
  ['the unspecified IPv6 address', 'forbiddenAddress', { from: 'fd07::2', to: '::' }],
  ['an IPv4-mapped address', 'forbiddenAddress', { from: 'fd07::2', to: '::ffff:10.7.0.3' }],
  ['an address nobody has', 'noRoute', { from: '10.7.0.2', to: '10.7.0.77' }],
  ['the sender itself', 'hairpin', { from: '10.7.0.2', to: '10.7.0.2' }],
  ['an unserved port of the gateway', 'notServed', { from: '10.7.0.2', to: '10.7.0.1', toPort: 54 }],
] as const)('hub drops packets with %s', (_, counter, plan) => {
  const { hub, a, b, all } = createStar()
  carry(all, a, deviceReads(a, [plainRead(udpPacket(plan))], 2), 2)
  expect([...b.writes, ...hub.locals, ...a.writes]).toEqual([])
  expect(hub.engine.counters()).toMatchObject({ [counter]: 1, echoAnswered: 0 })
})

test('hub drops TCP to the gateway', () => {
  const { hub, a, all } = createStar()
  carry(all, a, deviceReads(a, [plainRead(tcpPacket({ from: '10.7.0.2', to: '10.7.0.1', toPort: 53 }))], 2), 2)
  expect(hub.engine.counters()['notServed']).toBe(1)
})

test.each([
  ['IPv4', '10.7.0.2', '10.7.0.1', 20, 0],
  ['IPv6', 'fd07::2', 'fd07::1', 40, 129],
] as const)('hub answers %s echo requests to its gateway address', (_, from, to, headerBytes, reply) => {
  const { hub, a, all } = createStar()
  const request = echoRequest({ from, to, payload: randomBytes(57), hops: 3 })
  carry(all, a, deviceReads(a, [plainRead(request)], 2), 2)
  const answer = inner(a.writes[0])
  expect(checksumsHold(answer)).toBe(true)
  expect(answer[headerBytes]).toBe(reply)
  expect(answer.subarray(headerBytes + 4)).toEqual(request.subarray(headerBytes + 4))
  const half = headerBytes === 20 ? 4 : 16
  const source = headerBytes === 20 ? 12 : 8
  expect(answer.subarray(source, source + half)).toEqual(request.subarray(source + half, source + 2 * half))
  expect(answer.subarray(source + half, source + 2 * half)).toEqual(request.subarray(source, source + half))
  expect(hub.engine.counters()['echoAnswered']).toBe(1)
})

test.each([
  ['IPv4', '10.7.0.2', '10.7.0.1'],
  ['IPv6', 'fd07::2', 'fd07::1'],
])('hub hands %s packets for its UDP port to JavaScript and routes the answer', (_, member, gateway) => {
  const { hub, a, all } = createStar()
  const query = udpPacket({ from: member, to: gateway, toPort: 53, payload: Buffer.from('query') })
  carry(all, a, deviceReads(a, [plainRead(query)], 2), 2)
  expect(hub.locals.map((local) => local.bytes)).toEqual([query])
  const answer = udpPacket({ from: gateway, to: member, fromPort: 53, payload: Buffer.from('answer') })
  hub.engine.fromLocal(answer, 2)
  carry(all, hub, collect(hub, 2), 2)
  expect(inner(a.writes[0])).toEqual(answer)
  hub.engine.fromLocal(udpPacket({ from: gateway, to: '10.99.0.1' }), 2)
  hub.engine.fromLocal(Buffer.from('no packet'), 2)
  expect(hub.engine.counters()).toMatchObject({ noRoute: 1, badPacket: 1 })
})

test('hub drops source-routed packets and fragments for itself', () => {
  const { hub, a, all } = createStar()
  const plan: PacketPlan = { from: '10.7.0.2', to: '10.7.0.3', payload: Buffer.alloc(8) }
  const plain = udpPacket(plan)
  const routed = Buffer.concat([plain.subarray(0, 20), Buffer.from([0x83, 7, 4, 10, 7, 0, 9, 0]), plain.subarray(20)])
  routed[0] = 0x47
  routed.writeUInt16BE(routed.length, 2)
  const fragment = udpPacket({ ...plan, to: '10.7.0.1', toPort: 53 })
  fragment.writeUInt16BE(0x2000, 6)
  const v6 = udpPacket({ from: 'fd07::2', to: 'fd07::3', payload: Buffer.alloc(8) })
  const type0 = Buffer.concat([
    v6.subarray(0, 40),
    Buffer.from([17, 2, 0, 1, 0, 0, 0, 0]),
    Buffer.alloc(16),
    v6.subarray(40),
  ])
  type0[6] = 43
  type0.writeUInt16BE(type0.length - 40, 4)
  carry(all, a, deviceReads(a, [routed, fragment, type0].map(plainRead), 2), 2)
  expect(hub.engine.counters()).toMatchObject({ forbiddenAddress: 2, notServed: 1 })
})

test('hub serves new gateway addresses at once and forgets the old', () => {
  const { hub, a, all } = createStar()
  hub.engine.setGateways(['10.7.9.9'], [])
  for (const to of ['10.7.9.9', '10.7.0.1']) {
    carry(all, a, deviceReads(a, [plainRead(echoRequest({ from: '10.7.0.2', to }))], 2), 2)
  }
  expect(a.writes).toHaveLength(1)
  expect(hub.engine.counters()).toMatchObject({ echoAnswered: 1, noRoute: 1 })
})

test('hub stages for a member that has an endpoint and drops for one that has none', () => {
  const { hub, a, b, all } = createStar()
  const absent = createNode('member', '192.0.2.4')
  join(hub, { publicKey: absent.publicKey, allowedPrefixes: ['10.7.0.4'] })
  carry(all, a, deviceReads(a, [plainRead(udpPacket({ from: '10.7.0.2', to: '10.7.0.4' }))], 2), 2)
  expect(hub.engine.counters()['noEndpoint']).toBe(1)
  const present = createNode('member', '192.0.2.5')
  present.engine.setMerging({ tcp: false, udp: false })
  join(hub, { publicKey: present.publicKey, endpoint: present.at, allowedPrefixes: ['10.7.0.5'] })
  join(present, { publicKey: hub.publicKey, allowedPrefixes: ['10.7.0.0/16'] })
  carry([...all, present], a, deviceReads(a, [plainRead(udpPacket({ from: '10.7.0.2', to: '10.7.0.5' }))], 2), 2)
  expect(present.writes).toHaveLength(1)
  expect(b.writes).toEqual([])
})

test("hub works through bursts that overflow the output for JavaScript, up to a member's share", () => {
  const { hub, a, b, all } = createStar()
  const query = udpPacket({ from: '10.7.0.2', to: '10.7.0.1', toPort: 53, payload: randomBytes(1_200) })
  const sends = Array.from({ length: 16 }, () =>
    deviceReads(
      a,
      Array.from({ length: 32 }, () => plainRead(query)),
      2,
    ),
  ).flat()
  carry(all, a, sends, 2)
  expect(hub.locals).toHaveLength(500)
  expect(hub.locals.every((local) => local.bytes.equals(query))).toBe(true)
  expect(hub.engine.counters()).toMatchObject({ notDrained: 0, localLimited: 12 })
  const other = udpPacket({ from: '10.7.0.3', to: '10.7.0.1', toPort: 53, payload: randomBytes(100) })
  carry(all, b, deviceReads(b, [plainRead(other)], 2), 2)
  expect(hub.locals.at(-1)?.bytes).toEqual(other)
  carry(all, a, deviceReads(a, [plainRead(query)], 1_002), 1_002)
  expect(hub.locals).toHaveLength(502)
})
