import { createHash, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { blake2s } from './blake2s.ts'
import { NoisePeer } from './noise-peer.ts'
import { plainRead, udpPacket } from './packets.ts'
import { createNode, datagramsOf, deviceReads, inner, join, type Node, receiveBytes } from './wire.ts'

const at = { address: '192.0.2.1', port: 51_820 }
const aToB = (bytes: number) => udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: randomBytes(bytes) })

/** The engine, and a peer of our own making that it knows. */
function pair(presharedKey?: Uint8Array): { readonly node: Node; readonly peer: NoisePeer } {
  const node = createNode('member', '192.0.2.2')
  node.engine.setMerging({ tcp: false, udp: false })
  const peer = new NoisePeer(node.publicKey, presharedKey)
  join(node, { publicKey: peer.publicKey, allowedPrefixes: ['10.0.0.1'], ...(presharedKey ? { presharedKey } : {}) })
  node.engine.tick(1)
  return { node, peer }
}

/** The same after a handshake. */
function connected(presharedKey?: Uint8Array) {
  const made = pair(presharedKey)
  const [response] = receiveBytes(made.node, made.peer.initiation(), at, 1)
  if (!response) throw new Error('no response')
  made.peer.complete(response.bytes)
  return made
}

test('blake2s of this folder is BLAKE2s', () => {
  for (const length of [0, 1, 63, 64, 65, 128, 1_000]) {
    const input = randomBytes(length)
    expect(blake2s(input).equals(createHash('blake2s256').update(input).digest()), String(length)).toBe(true)
  }
})

describe('engine and a peer written from the paper', () => {
  test.each([
    ['without', undefined],
    ['with', randomBytes(32)],
  ])('%s a preshared key agree on keys and exchange packets', (_how, presharedKey) => {
    const { node, peer } = connected(presharedKey)
    const packet = aToB(100)
    receiveBytes(node, peer.data(packet, 0n), at, 2)
    expect(inner(node.writes[0])).toEqual(packet)
    const back = udpPacket({ from: '10.0.0.2', to: '10.0.0.1', payload: randomBytes(77) })
    const [run] = deviceReads(node, [plainRead(back)], 3)
    if (!run) throw new Error('nothing was sent')
    const messages = datagramsOf(run).map((datagram) => peer.opened(datagram).packet)
    expect(messages.at(-1)?.subarray(0, back.length)).toEqual(back)
  })

  test('the answer is 92 bytes, the handshake alone lets the engine send nothing, the first packet does', () => {
    const { node, peer } = pair()
    const back = plainRead(udpPacket({ from: '10.0.0.2', to: '10.0.0.1', payload: randomBytes(9) }))
    const [response] = receiveBytes(node, peer.initiation(), at, 1)
    expect(response?.bytes).toHaveLength(92)
    peer.complete(response?.bytes ?? Buffer.alloc(0))
    const early = deviceReads(node, [back], 2).flatMap(datagramsOf)
    expect(early.filter((datagram) => datagram[0] === 4)).toEqual([])
    const after = receiveBytes(node, peer.data(Buffer.alloc(0), 0n), at, 3).flatMap(datagramsOf)
    expect(after.filter((datagram) => datagram[0] === 4).length).toBeGreaterThan(0)
  })

  test('an initiation is taken once, an older stamp never, a newer one at once', () => {
    const { node, peer } = pair()
    const first = peer.initiation({ seconds: 1_000 })
    expect(receiveBytes(node, first, at, 1)).toHaveLength(1)
    expect(receiveBytes(node, first, at, 2)).toEqual([])
    expect(receiveBytes(node, peer.initiation({ seconds: 1_000 }), at, 3)).toEqual([])
    expect(receiveBytes(node, peer.initiation({ seconds: 999 }), at, 4)).toEqual([])
    expect(receiveBytes(node, peer.initiation({ seconds: 1_001 }), at, 5)).toHaveLength(1)
  })

  test.each([
    ['a byte of its type', 1],
    ['its ephemeral key', 20],
    ['its static key', 60],
    ['its stamp', 100],
  ])('an initiation with %s changed and a right mac1 gets no answer', (_what, index) => {
    const { node, peer } = pair()
    const message = peer.initiation()
    message[index] = (message[index] ?? 0) ^ 1
    expect(receiveBytes(node, peer.withMac(message), at, 1)).toEqual([])
    expect(receiveBytes(node, peer.initiation({ seconds: 1_800_000_000 }), at, 2)).toHaveLength(1)
  })

  /** Every point of small order, and its twins above the prime [RFC 7748 6.1, Linux wireguard/netns.sh]. */
  test.each([
    '0000000000000000000000000000000000000000000000000000000000000000',
    '0100000000000000000000000000000000000000000000000000000000000000',
    'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
    '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157',
    'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
    'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
    'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  ])('an initiation from the point of small order %s gets no answer', (point) => {
    const { node, peer } = pair()
    expect(receiveBytes(node, peer.initiation({ ephemeral: Buffer.from(point, 'hex') }), at, 1)).toEqual([])
    expect(node.engine.counters()['handshakesCompleted']).toBe(0)
    expect(receiveBytes(node, peer.initiation({ seconds: 1_800_000_000 }), at, 2)).toHaveLength(1)
  })
})

/** An IPv4 header of 20 bytes with these fields, from the peer's own address. */
function header4(fields: { readonly first?: number; readonly length?: number }): Buffer {
  const packet = Buffer.from(aToB(12))
  packet[0] = fields.first ?? 0x45
  packet.writeUInt16BE(fields.length ?? packet.length, 2)
  return packet
}

function header6(payloadBytes: number, bytes: number): Buffer {
  const packet = Buffer.alloc(bytes)
  packet[0] = 0x60
  if (bytes >= 6) packet.writeUInt16BE(payloadBytes, 4)
  return packet
}

describe('engine drops what an authentic peer may not send:', () => {
  test.each([
    ['one byte', Buffer.of(0x45)],
    ['less than an IPv4 header', header4({}).subarray(0, 19)],
    ['an IPv4 packet that says it is longer', header4({ length: 41 })],
    ['an IPv4 packet that says it is shorter than its header', header4({ length: 19 })],
    ['an IPv4 header of 16 bytes', header4({ first: 0x44 })],
    ['an IPv4 header that is longer than the packet', header4({ first: 0x4f })],
    ['version 0', header4({ first: 0x05 })],
    ['version 5', header4({ first: 0x55 })],
    ['version 7', header4({ first: 0x75 })],
    ['version 15', header4({ first: 0xf5 })],
    ['less than an IPv6 header', header6(0, 39)],
    ['an IPv6 packet that says it is longer', header6(1, 40)],
    ['an IPv6 packet from elsewhere', header6(0, 40)],
    ['zeros of the largest size', Buffer.alloc(65_000)],
    ['random bytes of the largest size', Buffer.concat([Buffer.of(0x95), randomBytes(65_000)])],
  ])('%s', (_what, packet) => {
    const { node, peer } = connected()
    const before = node.engine.counters()
    receiveBytes(node, peer.data(packet, 0n), at, 2)
    expect(node.writes).toEqual([])
    const after = node.engine.counters()
    const dropped = ['badPacket', 'spoofed', 'malformed'].map((name) => (after[name] ?? 0) - (before[name] ?? 0))
    expect(dropped.reduce((sum, count) => sum + count, 0)).toBe(1)
    const good = aToB(50)
    receiveBytes(node, peer.data(good, 1n), at, 2)
    expect(inner(node.writes[0])).toEqual(good)
  })

  test('padding: up to 16 bytes or more behind the packet never reach the device', () => {
    const { node, peer } = connected()
    const packet = aToB(21)
    for (const [i, padding] of [0, 1, 15, 16, 400].entries()) {
      receiveBytes(node, peer.data(Buffer.concat([packet, randomBytes(padding)]), BigInt(i)), at, 2)
    }
    expect(node.writes.map(inner)).toEqual(Array.from({ length: 5 }, () => packet))
  })

  test('a counter that was seen, one below the window, and data of a session that was never made', () => {
    const { node, peer } = connected()
    const send = (counter: bigint) => receiveBytes(node, peer.data(aToB(9), counter), at, 2)
    for (const counter of [5_000n, 5_000n, 5_000n - 2_048n - 64n, 4_000n, 4_000n]) send(counter)
    expect(node.writes).toHaveLength(2)
    expect(node.engine.counters()['replayed']).toBe(3)
    const stray = peer.data(aToB(9), 9_000n)
    stray.writeUInt32LE(0x00ff_ff00, 4)
    receiveBytes(node, stray, at, 2)
    expect(node.writes).toHaveLength(2)
    expect(node.engine.counters()['unknownIndex']).toBe(1)
  })

  test('a counter at the protocol limit [WG 6.1]', () => {
    const { node, peer } = connected()
    receiveBytes(node, peer.data(aToB(9), 2n ** 64n - 2n ** 13n), at, 2)
    expect(node.writes).toEqual([])
  })
})
