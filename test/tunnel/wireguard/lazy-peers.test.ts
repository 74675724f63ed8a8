import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { generatePrivateKey } from '../../../src/tunnel/wireguard/engine.ts'
import { NoisePeer } from './noise-peer.ts'
import { plainRead, udpPacket } from './packets.ts'
import {
  carry,
  collect,
  createNode,
  createPair,
  datagramsOf,
  deviceReads,
  inner,
  join,
  receiveBytes,
  tickAll,
} from './wire.ts'

/* A peer that is only configured is an entry in a table: its keys are worked with at its first message. */

const aToB = udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: Buffer.from('first') })
const stranger = { address: '192.0.2.66', port: 1 }

/** Pages of the engine's memory that hold anything. */
function pagesTouched(memory: WebAssembly.Memory): number {
  const pageWords = 512
  const words = new BigUint64Array(memory.buffer)
  let touched = 0
  for (let at = 0; at < words.length; at += pageWords) {
    if (words.subarray(at, at + pageWords).some((word) => word !== 0n)) touched++
  }
  return touched
}

test('a peer that is only configured takes less than 1 KiB, also while timers run', () => {
  const { engine } = createNode('hub', '192.0.2.1', { peersMax: 4_096 })
  engine.tick(1)
  const before = pagesTouched(engine.memory)
  for (let i = 0; i < 2_000; i++) {
    engine.addPeer({
      publicKey: generatePrivateKey(),
      presharedKey: randomBytes(32),
      keepaliveSeconds: 0,
      endpoint: stranger,
      allowedPrefixes: [`10.${i >> 8}.${i & 255}.1`],
    })
  }
  for (let nowMs = 1_000; nowMs < 700_000; nowMs += 10_000) engine.tick(nowMs)
  expect(((pagesTouched(engine.memory) - before) * 4) / 2_000).toBeLessThan(1)
  expect(engine.result.sends).toBe(0)
})

test.each([
  ['data', 4, 48],
  ['a keepalive', 4, 32],
  ['a cookie', 3, 64],
])('engine answers nothing to %s for a peer that never spoke, and makes nothing of it', (_name, type, bytes) => {
  const { b, toA } = createPair()
  const message = Buffer.concat([Buffer.from([type, 0, 0, 0]), randomBytes(bytes - 4)])
  message.writeUInt32LE((toA << 8) | 1, 4)
  expect(receiveBytes(b, message, stranger, 1)).toEqual([])
  expect(b.engine.counters()).toMatchObject({ unknownIndex: 1, unauthentic: 0, replayed: 0 })
  expect(b.engine.stats(toA).endpoint).toBeUndefined()
})

test('engine answers nothing to a response nobody waits for', () => {
  const { b, toA } = createPair()
  const peer = new NoisePeer(b.publicKey)
  const response = Buffer.concat([Buffer.from([2, 0, 0, 0]), randomBytes(88)])
  response.writeUInt32LE((toA << 8) | 1, 8)
  expect(receiveBytes(b, peer.withMac(response), stranger, 1)).toEqual([])
  expect(b.engine.counters()).toMatchObject({ unknownIndex: 1, unauthentic: 0, badMac: 0 })
})

test('engine shows the endpoint of a peer that never spoke, and knows nothing else of it', () => {
  const { a, b, toB } = createPair()
  expect(a.engine.stats(toB)).toEqual({
    lastHandshakeAgeMs: undefined,
    rttMs: undefined,
    receivedBytes: 0,
    sentBytes: 0,
    spoofed: 0,
    endpoint: b.at,
  })
})

test.each([
  ['at once', 1],
  ['after ten minutes of silence, longer than sessions and handshakes last', 600_000],
])('a packet %s starts a handshake and arrives', (_when, nowMs) => {
  const { a, b, both, toB } = createPair({ presharedKey: randomBytes(32) })
  for (let at = 0; at < nowMs; at += 10_000) tickAll(both, at)
  expect([a, b].flatMap((node) => node.sent)).toEqual([])
  carry(both, a, deviceReads(a, [plainRead(aToB)], nowMs), nowMs)
  expect(b.writes.map(inner)).toEqual([aToB])
  expect(a.engine.counters()).toMatchObject({ initiationsSent: 1, handshakesCompleted: 1 })
  expect(a.engine.stats(toB).lastHandshakeAgeMs).toBe(0)
})

test('both may begin at once with their first packets, and lose none', () => {
  const { a, b, both, toA } = createPair()
  b.engine.setPeer(toA, {
    publicKey: a.publicKey,
    keepaliveSeconds: 0,
    endpoint: a.at,
    allowedPrefixes: ['10.0.0.1'],
  })
  const bToA = udpPacket({ from: '10.0.0.2', to: '10.0.0.1', payload: Buffer.from('also first') })
  const [fromA, fromB] = [deviceReads(a, [plainRead(aToB)], 1), deviceReads(b, [plainRead(bToA)], 1)]
  carry(both, a, fromA, 1)
  carry(both, b, fromB, 1)
  expect(b.writes.map(inner)).toEqual([aToB])
  expect(a.writes.map(inner)).toEqual([bToA])
})

test('a keepalive starts the handshake of a new peer at the first tick, and tries again until the peer is there', () => {
  const { a, b, both } = createPair({ keepaliveSeconds: 25 })
  a.engine.tick(1)
  const lost = collect(a, 1).flatMap(datagramsOf)
  expect(lost.map((datagram) => datagram[0])).toEqual([1])
  for (let nowMs = 1_000; nowMs < 7_000; nowMs += 250) tickAll(both, nowMs)
  expect(a.engine.counters()).toMatchObject({ initiationsSent: 2, handshakesCompleted: 1 })
  expect(b.engine.counters()).toMatchObject({ initiationsSent: 0, handshakesCompleted: 1 })
})

test('a peer that never spoke may be removed and added again with another preshared key', () => {
  const [right, wrong] = [randomBytes(32), randomBytes(32)]
  const { a, b, both, toB } = createPair({ presharedKey: right })
  const settings = { publicKey: b.publicKey, keepaliveSeconds: 0, endpoint: b.at, allowedPrefixes: ['10.0.0.2'] }
  const shake = (presharedKey: Buffer, nowMs: number) => {
    a.engine.removePeer(toB)
    expect(join(a, { ...settings, presharedKey })).toBe(toB)
    a.engine.handshake(toB, nowMs)
    carry(both, a, collect(a, nowMs), nowMs)
    return a.engine.counters()['handshakesCompleted']
  }
  expect(shake(wrong, 1_000)).toBe(0)
  expect(a.engine.counters()['unauthentic']).toBe(1)
  expect(shake(right, 2_000)).toBe(1)
})
