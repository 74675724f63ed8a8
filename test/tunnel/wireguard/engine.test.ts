import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { counterNames } from '../../../src/tunnel/wireguard/counter-names.ts'
import { createEngine, generatePrivateKey } from '../../../src/tunnel/wireguard/engine.ts'
import { instantiate } from '../../../src/tunnel/wireguard/instance.ts'
import { plainRead, tcpPacket, udpPacket } from './packets.ts'
import {
  carry,
  collect,
  connectedPair,
  createNode,
  createPair,
  datagramsOf,
  deviceReads,
  engineModule,
  inner,
  join,
  type Node,
  receive,
  receiveBytes,
} from './wire.ts'

const aToB = (payloadBytes: number) =>
  udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: randomBytes(payloadBytes) })
const bToA = (payloadBytes: number) =>
  udpPacket({ from: '10.0.0.2', to: '10.0.0.1', payload: randomBytes(payloadBytes) })

function sealed(node: Node, packet: Buffer, nowMs: number): Buffer {
  const [run] = deviceReads(node, [plainRead(packet)], nowMs)
  if (!run) throw new Error('nothing was sent')
  return run.bytes
}

const b7 = { address: '192.0.2.7', port: 1 }
const b7key = generatePrivateKey()
const folder = new URL('../../../src/tunnel/wireguard/', import.meta.url)

test('engine.wasm is the module its checksum names', () => {
  const found = createHash('sha256')
    .update(readFileSync(new URL('engine.wasm', folder)))
    .digest('hex')
  expect(readFileSync(new URL('engine.wasm.sha256', folder), 'utf8')).toBe(`${found}  engine.wasm\n`)
})

test('engine.wasm exports exactly the calls that instance.ts declares', () => {
  const declared = Object.keys(instantiate({ module: engineModule }, { sinceFirstMs: 0 }))
  const exported = WebAssembly.Module.exports(engineModule).map((one) => one.name)
  expect(exported.toSorted()).toEqual(declared.toSorted())
})

test('engine lays its memory out once: 64 MiB that cannot grow', () => {
  const { engine } = createNode('member', '192.0.2.1')
  expect(engine.memory.buffer.byteLength).toBe(64 * 1024 * 1024)
  expect(engine.received).toMatchObject({ capacity: 16, slotBytes: 65_536 })
  expect(engine.deviceReads.capacity).toBeGreaterThanOrEqual(16)
  expect(Object.keys(engine.counters())).toEqual([...counterNames])
})

test('engine carries every packet size both ways', () => {
  const { a, b, both } = connectedPair()
  for (let bytes = 0; bytes <= 1_392; bytes += 3) {
    const [out, back] = [aToB(bytes), bToA(bytes)]
    carry(both, a, deviceReads(a, [plainRead(out)], 2), 2)
    carry(both, b, deviceReads(b, [plainRead(back)], 2), 2)
    expect(inner(b.writes.pop())).toEqual(out)
    expect(inner(a.writes.pop())).toEqual(back)
  }
})

test('engine drops a datagram that it has seen', () => {
  const { a, b } = connectedPair()
  const datagram = sealed(a, aToB(100), 2)
  receiveBytes(b, datagram, a.at, 2)
  receiveBytes(b, datagram, a.at, 2)
  expect(b.writes).toHaveLength(1)
  expect(b.engine.counters()['replayed']).toBe(1)
})

test('engine takes datagrams once in any order within its window of 2,048 and none from before it', () => {
  const { a, b } = connectedPair()
  const early = sealed(a, aToB(8), 2)
  const shuffled = Array.from({ length: 2_000 }, () => sealed(a, aToB(8), 2)).reverse()
  for (const datagram of [...shuffled, ...shuffled]) receiveBytes(b, datagram, a.at, 2)
  expect(b.writes).toHaveLength(2_000)
  expect(b.engine.counters()['replayed']).toBe(2_000)
  for (let i = 0; i < 50; i++) receiveBytes(b, sealed(a, aToB(8), 2), a.at, 2)
  receiveBytes(b, early, a.at, 2)
  expect(b.writes).toHaveLength(2_050)
  expect(b.engine.counters()['replayed']).toBe(2_001)
})

test.each([
  ['reserved bytes', 1],
  ['receiver index', 5],
  ['counter', 8],
  ['ciphertext', 16],
  ['middle', 70],
  ['tag', -1],
])('engine drops a datagram with a flipped bit in its %s', (_, at) => {
  const { a, b } = connectedPair()
  const datagram = sealed(a, aToB(100), 2)
  const bad = Buffer.from(datagram)
  const index = at < 0 ? bad.length + at : at
  bad[index] = (bad[index] ?? 0) ^ 1
  expect(receiveBytes(b, bad, a.at, 2)).toEqual([])
  expect(b.writes).toEqual([])
  receiveBytes(b, datagram, a.at, 2)
  expect(b.writes).toHaveLength(1)
})

test('engine counts what names no peer and answers nothing', () => {
  const { a, b } = connectedPair()
  const datagram = sealed(a, aToB(100), 2)
  datagram.writeUInt32LE(63 << 8, 4)
  expect(receiveBytes(b, datagram, a.at, 2)).toEqual([])
  datagram.writeUInt32LE(0xffff_ffff, 4)
  expect(receiveBytes(b, datagram, a.at, 2)).toEqual([])
  expect(b.engine.counters()['unknownIndex']).toBe(2)
})

test('engine keeps many peers on one socket apart', () => {
  const center = createNode('member', '192.0.2.100', { peersMax: 16 })
  const others = Array.from({ length: 16 }, (_, i) => {
    const node = createNode('member', `192.0.2.${i + 1}`)
    join(center, { publicKey: node.publicKey, allowedPrefixes: [`10.0.0.${i + 1}`] })
    join(node, { publicKey: center.publicKey, endpoint: center.at, allowedPrefixes: ['0.0.0.0/0'] })
    return node
  })
  const all = [center, ...others]
  for (const [i, node] of others.entries()) {
    const packet = udpPacket({ from: `10.0.0.${i + 1}`, to: '10.0.0.100', payload: Buffer.from([i]) })
    carry(all, node, deviceReads(node, [plainRead(packet)], 1), 1)
    const back = udpPacket({ from: '10.0.0.100', to: `10.0.0.${i + 1}`, payload: Buffer.from([i]) })
    carry(all, center, deviceReads(center, [plainRead(back)], 1), 1)
    expect(inner(node.writes[0])).toEqual(back)
  }
  expect(center.writes).toHaveLength(16)
  expect(others.every((node) => node.writes.length === 1)).toBe(true)
})

test("engine drops an inner source outside the sending peer's prefixes", () => {
  const { a, b, both } = connectedPair()
  const spoofed = udpPacket({ from: '10.0.0.9', to: '10.0.0.2' })
  carry(both, a, deviceReads(a, [plainRead(spoofed)], 2), 2)
  expect(b.writes).toEqual([])
  expect(b.engine.counters()['spoofed']).toBe(1)
})

test('engine picks the longest prefix and has no route for the rest', () => {
  const a = createNode('member', '192.0.2.1')
  const wide = join(a, {
    publicKey: createNode('hub', '192.0.2.9').publicKey,
    endpoint: { address: '192.0.2.9', port: 1 },
    allowedPrefixes: ['10.0.0.0/8', 'fd00::/16'],
  })
  const narrow = join(a, {
    publicKey: createNode('hub', '192.0.2.8').publicKey,
    endpoint: { address: '192.0.2.8', port: 1 },
    allowedPrefixes: ['10.1.0.0/16', 'fd00:0:1::/48'],
  })
  const peerFor = (from: string, to: string) => deviceReads(a, [plainRead(udpPacket({ from, to }))], 1)[0]?.peer
  expect(peerFor('10.0.0.1', '10.1.2.3')).toBe(narrow)
  expect(peerFor('10.0.0.1', '10.2.2.3')).toBe(wide)
  a.engine.removePeer(narrow)
  expect(peerFor('fd00::1', 'fd00:0:1::5')).toBe(undefined)
  expect(a.engine.counters()['noRoute']).toBe(0)
  expect(peerFor('10.0.0.1', '192.168.0.1')).toBe(undefined)
  expect(a.engine.counters()['noRoute']).toBe(1)
})

test('engine keeps at most 128 packets for a peer without a session', () => {
  const { a, b, both } = createPair()
  const packets = Array.from({ length: 200 }, (_, i) => aToB(i))
  const sends = packets.flatMap((packet) => deviceReads(a, [plainRead(packet)], 1))
  expect(a.engine.counters()['stagingFull']).toBe(72)
  carry(both, a, sends, 1)
  expect(b.writes.map(inner)).toEqual(packets.slice(0, 128))
  expect(deviceReads(a, [plainRead(aToB(1))], 1)).toHaveLength(1)
})

test('engine keeps at most 256 KiB for one peer and 8 MiB for all', () => {
  const a = createNode('member', '192.0.2.1', { peersMax: 100 })
  const big = (to: string) => plainRead(udpPacket({ from: '10.0.0.1', to, payload: Buffer.alloc(60_000) }))
  for (let i = 0; i < 50; i++) {
    join(a, {
      publicKey: generatePrivateKey(),
      endpoint: { address: '192.0.2.7', port: 1 },
      allowedPrefixes: [`10.1.0.${i}`],
    })
    for (let k = 0; k < 5; k++) deviceReads(a, [big(`10.1.0.${i}`)], 1)
  }
  const staged = 250 - (a.engine.counters()['stagingFull'] ?? 0)
  expect(staged).toBe(Math.floor((8 * 1024 * 1024) / 60_028))
  for (let i = 0; i < 50; i++) a.engine.removePeer(i)
  join(a, {
    publicKey: generatePrivateKey(),
    endpoint: { address: '192.0.2.7', port: 1 },
    allowedPrefixes: ['10.2.0.1'],
  })
  deviceReads(a, [big('10.2.0.1')], 1)
  expect(a.engine.counters()['stagingFull']).toBe(250 - staged)
})

test('engine has a bounded peer table and takes a key once', () => {
  const node = createNode('member', '192.0.2.1', { peersMax: 2 })
  const settings = (publicKey: Uint8Array) => ({ publicKey, keepaliveSeconds: 0, allowedPrefixes: [] })
  const key = createNode('member', '192.0.2.2').publicKey
  expect(node.engine.addPeer(settings(key))).toBe(0)
  expect(node.engine.addPeer(settings(key))).toBe('duplicate')
  expect(node.engine.addPeer(settings(generatePrivateKey()))).toBe(1)
  expect(node.engine.addPeer(settings(generatePrivateKey()))).toBe('full')
  expect(node.engine.peerOf(key)).toBe(0)
  node.engine.removePeer(0)
  expect(node.engine.peerOf(key)).toBeUndefined()
  expect(node.engine.addPeer(settings(generatePrivateKey()))).toBe(0)
})

test('engine is silent to a removed peer', () => {
  const { a, b, toA } = connectedPair()
  b.engine.removePeer(toA)
  expect(receiveBytes(b, sealed(a, aToB(10), 2), a.at, 2)).toEqual([])
  a.engine.handshake(0, 1)
  expect(receive(b, collect(a, 2), a.at, 2)).toEqual([])
  expect(b.engine.stats(toA)).toMatchObject({ endpoint: undefined, receivedBytes: 0 })
})

test.each([
  ['zero', '00'.repeat(32)],
  ['one', `01${'00'.repeat(31)}`],
  ['order 8', 'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800'],
  ['order 8, the other', '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157'],
  ['p - 1', `ec${'ff'.repeat(30)}7f`],
  ['p', `ed${'ff'.repeat(30)}7f`],
  ['p + 1', `ee${'ff'.repeat(30)}7f`],
  ['p with the unused bit set', `ed${'ff'.repeat(31)}`],
])('engine takes no peer with the key of small order %s', (_, hex) => {
  const { engine } = createNode('member', '192.0.2.1')
  const publicKey = Buffer.from(hex, 'hex')
  expect(() => engine.addPeer({ publicKey, keepaliveSeconds: 0, allowedPrefixes: [] })).toThrow('no peer can have')
})

test('engine refuses keys that are not 32 bytes', () => {
  expect(() => createEngine(engineModule, { kind: 'hub', privateKey: new Uint8Array(31) })).toThrow('32 bytes')
  const { engine } = createNode('member', '192.0.2.1')
  const short = { publicKey: new Uint8Array(33), keepaliveSeconds: 0, allowedPrefixes: [] }
  expect(() => engine.addPeer(short)).toThrow('32 bytes')
})

test('engine ignores handles that were never given', () => {
  const { engine } = createNode('hub', '192.0.2.1')
  for (const peer of [0, 5, 1_000_000, -1]) {
    engine.handshake(peer, 1)
    engine.removePeer(peer)
    expect(engine.stats(peer).endpoint).toBeUndefined()
  }
  expect(engine.result.sends).toBe(0)
})

test('engine sends one run for equal datagrams to one peer', () => {
  const { a, b, both } = connectedPair()
  const packets = [...Array.from({ length: 10 }, () => aToB(500)), aToB(20)]
  const sends = deviceReads(a, packets.map(plainRead), 2)
  expect(sends).toHaveLength(1)
  expect(sends.flatMap(datagramsOf)).toHaveLength(11)
  carry(both, a, sends, 2)
  expect(b.writes.length).toBeGreaterThan(0)
})

test('engine holds 4,096 peers with 8 prefixes each and a full staging area in its memory', () => {
  const a = createNode('member', '192.0.2.1', { peersMax: 4_096 })
  const prefixesOf = (i: number) => Array.from({ length: 8 }, (_, k) => `10.${i >> 8}.${i & 0xff}.${k * 32}/27`)
  for (let i = 0; i < 4_096; i++) {
    join(a, { publicKey: generatePrivateKey(), endpoint: b7, allowedPrefixes: prefixesOf(i) })
  }
  expect(a.engine.addPeer({ publicKey: generatePrivateKey(), keepaliveSeconds: 0, allowedPrefixes: [] })).toBe('full')
  const payload = Buffer.alloc(60_000)
  for (let i = 0; i < 200; i++) {
    const packet = udpPacket({ from: '10.255.0.1', to: `10.${i >> 8}.${i}.200`, payload })
    expect(deviceReads(a, [plainRead(packet)], 1).map((run) => run.peer)).toEqual(i < 139 ? [i] : [])
  }
  a.engine.removePeer(7)
  expect(deviceReads(a, [plainRead(udpPacket({ from: '10.255.0.1', to: '10.0.7.1' }))], 1)).toEqual([])
  expect(a.engine.counters()).toMatchObject({ stagingFull: 61, noRoute: 1 })
})

test('engine moves a prefix to the peer that got it last and not back', () => {
  const { engine } = createNode('member', '192.0.2.1')
  const settings = (prefix: string) => ({
    publicKey: generatePrivateKey(),
    keepaliveSeconds: 0,
    endpoint: b7,
    allowedPrefixes: [prefix],
  })
  const node = { engine, at: b7, publicKey: b7key, writes: [], locals: [], sent: [] }
  const first = join(node, settings('10.5.0.0/16'))
  const second = join(node, settings('10.5.9.9/16'))
  const peer = () => deviceReads(node, [plainRead(udpPacket({ from: '10.0.0.1', to: '10.5.1.1' }))], 1)[0]?.peer
  expect(peer()).toBe(second)
  engine.removePeer(first)
  engine.tick(6_000)
  expect(engine.counters()['noRoute']).toBe(0)
  engine.removePeer(second)
  expect(peer()).toBeUndefined()
  expect(engine.counters()['noRoute']).toBe(1)
})

test.each([
  ['IPv4', '192.0.2.2', '10.0.0.1', 51_820],
  ['IPv6', 'fd99::2', 'fd00::1', 51_820],
] as const)('engine drops its own %s datagrams that the machine routes into the tunnel', (_, address, from, port) => {
  const node = createNode('member', '192.0.2.1')
  const { publicKey } = createNode('member', '192.0.2.2')
  join(node, { publicKey, endpoint: { address, port }, allowedPrefixes: ['0.0.0.0/0', '::/0'] })
  const outer = udpPacket({ from, to: address, toPort: port, payload: Buffer.alloc(148) })
  const others = [
    udpPacket({ from, to: address, toPort: port + 1 }),
    tcpPacket({ from, to: address, toPort: port, payload: Buffer.from('x') }),
  ]
  expect(deviceReads(node, [plainRead(outer)], 1)).toEqual([])
  expect(node.engine.counters()).toMatchObject({ looped: 1, initiationsSent: 0 })
  deviceReads(node, others.map(plainRead), 1)
  expect(node.engine.counters()).toMatchObject({ looped: 1, initiationsSent: 1 })
})
