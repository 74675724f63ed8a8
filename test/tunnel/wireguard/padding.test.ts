import fc from 'fast-check'
import { expect, test } from 'vitest'
import { NoisePeer } from './noise-peer.ts'
import { echoRequest, type PacketPlan, plainRead, superPacket, udpPacket } from './packets.ts'
import {
  carry,
  collect,
  connectedPair,
  createNode,
  createPair,
  datagramsOf,
  deviceReads,
  inner,
  join,
  type Node,
  receiveBytes,
} from './wire.ts'

/* Inner packets get zeros up to a multiple of 16, but never past the MTU [WG 5.4.6]. */

const ends = { from: '10.0.0.1', to: '10.0.0.2' } as const
/** WireGuard's header and tag. */
const overhead = 32
const ofBytes = (bytes: number, plan: PacketPlan = ends) =>
  udpPacket({ ...plan, payload: Buffer.alloc(bytes - (plan.from.includes(':') ? 48 : 28), 0xa5) })

/** Bytes inside of the datagrams that one packet became. */
function sealedBytes(node: Node, packet: Buffer): number[] {
  const runs = deviceReads(node, [plainRead(packet)], 2)
  return runs.flatMap(datagramsOf).map((datagram) => datagram.length - overhead)
}

test.each([
  [28, 1_420, 32],
  [32, 1_420, 32],
  [33, 1_420, 48],
  [52, 1_420, 64],
  [1_392, 1_420, 1_392],
  [1_393, 1_420, 1_408],
  [1_408, 1_420, 1_408],
  [1_409, 1_420, 1_420],
  [1_420, 1_420, 1_420],
  [1_425, 1_440, 1_440],
  [1_279, 1_280, 1_280],
  [1_279, 1_279, 1_279],
  [575, 576, 576],
  [8_990, 9_000, 8_992],
  [8_993, 9_000, 9_000],
])('engine pads a packet of %i bytes at an MTU of %i to %i', (bytes, mtuBytes, expected) => {
  const { a, b, both } = connectedPair({ mtuBytes })
  const packet = ofBytes(bytes)
  expect(sealedBytes(a, packet)).toEqual([expected])
  carry(both, a, deviceReads(a, [plainRead(packet)], 2), 2)
  expect(inner(b.writes[0])).toEqual(packet)
})

test('engine pads as if the MTU were 1,280 when nobody says it', () => {
  const { a } = connectedPair()
  expect([1_270, 1_277, 1_290].map((bytes) => sealedBytes(a, ofBytes(bytes)))).toEqual([[1_280], [1_280], [1_290]])
})

test('engine pads any packet by less than 16 bytes, to a multiple of 16 or to the MTU, and delivers it without', () => {
  const pairs = new Map([576, 1_280, 1_407, 1_420].map((mtuBytes) => [mtuBytes, connectedPair({ mtuBytes })]))
  const sizes = fc.record({ mtuBytes: fc.constantFrom(...pairs.keys()), v6: fc.boolean(), below: fc.nat(520) })
  fc.assert(
    fc.property(sizes, ({ mtuBytes, v6, below }) => {
      const { a, b, both } = pairs.get(mtuBytes) ?? connectedPair()
      const packet = ofBytes(mtuBytes - below, v6 ? { from: 'fd00::1', to: 'fd00::2' } : ends)
      const [padded = 0] = sealedBytes(a, packet)
      expect(padded - packet.length).toBeGreaterThanOrEqual(0)
      expect(padded - packet.length).toBeLessThan(16)
      expect(padded % 16 === 0 || padded === mtuBytes).toBe(true)
      expect(padded).toBeLessThanOrEqual(mtuBytes)
      b.writes.length = 0
      carry(both, a, deviceReads(a, [plainRead(packet)], 2), 2)
      expect(b.writes.map(inner)).toEqual([packet])
    }),
  )
})

test('engine pads with zeros, whatever it sealed before, and a keepalive with nothing', () => {
  const { node, peer } = connectedToNoise()
  const plain = (packet: Buffer) =>
    deviceReads(node, [plainRead(packet)], 3)
      .flatMap(datagramsOf)
      .map((datagram) => peer.opened(datagram).packet)
  const back = { from: ends.to, to: ends.from }
  for (const bytes of [1_201, 49, 130]) {
    const packet = ofBytes(bytes, back)
    expect(plain(packet)).toEqual([Buffer.concat([packet, Buffer.alloc((16 - (bytes % 16)) % 16)])])
  }
  const peerHandle = node.engine.peerOf(peer.publicKey) ?? -1
  const settings = { publicKey: peer.publicKey, keepaliveSeconds: 1, endpoint: at, allowedPrefixes: [ends.from] }
  node.engine.setPeer(peerHandle, settings)
  node.engine.tick(5_000)
  expect(
    collect(node, 5_000)
      .flatMap(datagramsOf)
      .map((datagram) => datagram.length),
  ).toEqual([overhead])
})

test('engine pads what waited for a session', () => {
  const { a, b, both } = createPair({ mtuBytes: 1_420 })
  const packets = [29, 100, 1_419].map((bytes) => ofBytes(bytes))
  carry(both, a, deviceReads(a, packets.map(plainRead), 1), 1)
  expect(b.writes.map(inner)).toEqual(packets)
  const data = a.sent.flatMap(datagramsOf).filter((datagram) => datagram[0] === 4 && datagram.length > overhead)
  expect(data.map((datagram) => datagram.length - overhead)).toEqual([32, 112, 1_420])
})

test('engine pads the parts of a super-packet alike, so they leave as one run', () => {
  const { a, b } = connectedPair({ mtuBytes: 1_420, merging: true })
  const payload = Buffer.alloc(10 * 1_001 + 30, 1)
  const sends = deviceReads(a, [superPacket(udpPacket({ ...ends, payload }), 1_001)], 2)
  expect(sends.map((run) => run.segment)).toEqual([1_040 + overhead])
  const parts = sends.flatMap(datagramsOf).map((datagram) => datagram.length - overhead)
  expect(parts).toEqual([...Array.from({ length: 10 }, () => 1_040), 64])
  for (const run of sends) for (const datagram of datagramsOf(run)) receiveBytes(b, datagram, a.at, 2)
  expect(Buffer.concat(b.writes.map((write) => inner(write).subarray(28)))).toEqual(payload)
})

test('hub forwards and answers with the padding a packet came with, and never more', () => {
  for (const [mtuBytes, bytes, expected] of [
    [1_420, 1_419, 1_420],
    [1_394, 1_393, 1_394],
    [1_420, 70, 80],
  ] as const) {
    const hub = createNode('hub', '192.0.2.100')
    hub.engine.setGateways(['10.0.0.100'], [])
    const [a, b] = ([1, 2] as const).map((n) => {
      const node = createNode('member', `192.0.2.${n}`, { mtuBytes })
      join(hub, { publicKey: node.publicKey, allowedPrefixes: [`10.0.0.${n}`] })
      join(node, { publicKey: hub.publicKey, endpoint: hub.at, allowedPrefixes: ['10.0.0.0/24'] })
      return node
    })
    if (!a || !b) throw new Error('two members')
    const all = [hub, a, b]
    for (const node of [b, a]) {
      node.engine.handshake(0, 1)
      carry(all, node, collect(node, 1), 1)
    }
    hub.sent.length = 0
    const echo = echoRequest({ from: ends.from, to: '10.0.0.100', payload: Buffer.alloc(bytes - 28) })
    for (const packet of [ofBytes(bytes), echo]) carry(all, a, deviceReads(a, [plainRead(packet)], 2), 2)
    expect(hub.sent.flatMap(datagramsOf).map((one) => one.length - overhead)).toEqual([expected, expected])
    expect([a, b].map((node) => node.writes.map((write) => inner(write).length))).toEqual([[bytes], [bytes]])
  }
})

const at = { address: '192.0.2.1', port: 51_820 }

/** The engine with a session to a peer whose packets a test can read. */
function connectedToNoise() {
  const node = createNode('member', '192.0.2.2', { mtuBytes: 1_420 })
  const peer = new NoisePeer(node.publicKey)
  join(node, { publicKey: peer.publicKey, allowedPrefixes: [ends.from] })
  const [response] = receiveBytes(node, peer.initiation(), at, 1)
  peer.complete(response?.bytes ?? Buffer.alloc(0))
  receiveBytes(node, peer.data(Buffer.alloc(0), 0n), at, 1)
  return { node, peer }
}
