import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { plainRead, udpPacket } from './packets.ts'
import { carry, collect, connectedPair, createNode, deviceReads, fill, join, receive, receiveBytes } from './wire.ts'

const stranger = { address: '203.0.113.66', port: 666 }

/** Datagrams that look like WireGuard's: right types and sizes, known indexes, wrong contents. */
const nearValid = fc
  .tuple(
    fc.constantFrom(1, 2, 3, 4, 0, 5, 0x0100_0004),
    fc.constantFrom(0, 1, 3, 4, 15, 16, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1_452),
    fc.constantFrom(0, 1, 2, 256, 257, 0xffff_ffff),
    fc.uint8Array({ minLength: 1_452, maxLength: 1_452 }),
  )
  .map(([type, length, index, filler]) => {
    const bytes = Buffer.from(filler)
    bytes.writeUInt32LE(type, 0)
    bytes.writeUInt32LE(index, 4)
    bytes.writeUInt32LE(index, 8)
    return bytes.subarray(0, length)
  })

test('engine answers nothing to garbage, writes nothing, and does not fail', () => {
  const { a, b, both } = connectedPair()
  const one = fc.oneof(nearValid, fc.uint8Array({ maxLength: 2_000 }))
  fc.assert(
    fc.property(fc.array(one, { minLength: 1, maxLength: 16 }), fc.nat(3_000), (datagrams, segment) => {
      const inputs = datagrams.map((bytes) => ({ bytes, segment, from: stranger }))
      b.engine.fromNetwork(fill(b.engine, b.engine.received, inputs), 2)
      expect(collect(b, 2)).toEqual([])
      expect(b.writes).toEqual([])
    }),
    { numRuns: 500 },
  )
  carry(both, a, deviceReads(a, [plainRead(udpPacket({ from: '10.0.0.1', to: '10.0.0.2' }))], 2), 2)
  expect(b.writes).toHaveLength(1)
})

test('engine answers nothing to 20,000 random datagrams and keeps its memory', () => {
  const { b } = connectedPair()
  for (let round = 0; round < 1_250; round++) {
    const inputs = Array.from({ length: 16 }, (_, i) => ({
      bytes: randomBytes((round + i * 97) % 1_500),
      from: stranger,
    }))
    b.engine.fromNetwork(fill(b.engine, b.engine.received, inputs), 2)
    expect(b.engine.result).toMatchObject({ sends: 0, deviceWrites: 0, more: false })
  }
  expect(b.engine.memory.buffer.byteLength).toBe(64 * 1024 * 1024)
})

test('engine takes any inner packet from an authentic peer without failing', () => {
  const { a, b } = connectedPair({ merging: true })
  const hub = createNode('hub', '192.0.2.50')
  hub.engine.setGateways(['10.0.0.2', 'fd00::2'], [53])
  const member = createNode('member', '192.0.2.51')
  join(hub, { publicKey: member.publicKey, allowedPrefixes: ['0.0.0.0/0', '::/0'] })
  const toHub = join(member, { publicKey: hub.publicKey, endpoint: hub.at, allowedPrefixes: ['0.0.0.0/0', '::/0'] })
  member.engine.handshake(toHub, 1)
  carry([hub, member], member, collect(member, 1), 1)
  // The device path wants a sane IP header, so the version and lengths are right and all else is anything.
  const packet = fc.tuple(fc.boolean(), fc.uint8Array({ minLength: 40, maxLength: 300 })).map(([v6, filler]) => {
    const bytes = Buffer.from(filler)
    if (v6) bytes.writeUInt16BE(bytes.length - 40, 4)
    else bytes.writeUInt16BE(bytes.length, 2)
    bytes[0] = v6 ? 0x60 : 0x40 | (5 + ((bytes[0] ?? 0) % 6))
    bytes.set(v6 ? [0xfd, 0, ...Buffer.alloc(13), 2] : [10, 0, 0, 2], v6 ? 24 : 16)
    return bytes
  })
  fc.assert(
    fc.property(fc.array(packet, { minLength: 1, maxLength: 16 }), (packets) => {
      receive(b, deviceReads(a, packets.map(plainRead), 2), a.at, 2)
      receive(hub, deviceReads(member, packets.map(plainRead), 2), member.at, 2)
    }),
    { numRuns: 500 },
  )
  expect(b.writes.length + (b.engine.counters()['spoofed'] ?? 0)).toBeGreaterThan(500)
})

test('engine takes any read of the device without failing', () => {
  const { a } = connectedPair()
  const { read } = { read: fc.uint8Array({ maxLength: 400 }) }
  fc.assert(
    fc.property(fc.array(read, { minLength: 1, maxLength: 16 }), fc.boolean(), fc.boolean(), (reads, fix, gso) => {
      const shaped = reads.map((bytes) => {
        const copy = Buffer.from(bytes)
        if (!fix || copy.length < 60) return copy
        copy[10] = 0x45
        copy.writeUInt16BE(copy.length - 10, 12)
        copy.set([10, 0, 0, 2], 26)
        if (gso) copy[1] = 1
        return copy
      })
      deviceReads(a, shaped, 2)
    }),
    { numRuns: 1_000 },
  )
})

test('engine believes no descriptor the host fills wrongly', () => {
  const { b } = connectedPair()
  const at = b.engine.received.offset / 4
  b.engine.u32[at + 1] = 0xffff_ffff
  b.engine.u32[at + 4] = 999
  b.engine.fromNetwork(1_000_000, 2)
  expect(b.engine.result.sends).toBe(0)
  expect(b.engine.counters()['malformed']).toBeGreaterThan(0)
})

test('engine does no key exchange for messages without a good mac1', () => {
  const { b } = connectedPair()
  const before = b.engine.counters()
  for (let i = 0; i < 2_000; i++) {
    const initiation = randomBytes(148)
    initiation.writeUInt32LE(1, 0)
    receiveBytes(b, initiation, stranger, 2)
  }
  const after = b.engine.counters()
  expect((after['badMac'] ?? 0) - (before['badMac'] ?? 0)).toBe(2_000)
  expect(after).toMatchObject({ unknownKey: 0, unauthentic: 0, cookiesSent: 0 })
})

test('engine lets an honest peer in while strangers flood it with initiations', () => {
  const hub = createNode('hub', '192.0.2.100')
  const honest = createNode('member', '192.0.2.1')
  const flooder = createNode('member', stranger.address)
  join(hub, { publicKey: honest.publicKey, allowedPrefixes: ['10.0.0.1'] })
  const toHub = { publicKey: hub.publicKey, endpoint: hub.at, allowedPrefixes: ['0.0.0.0/0'] }
  join(flooder, toHub)
  join(honest, { ...toHub, keepaliveSeconds: 5 })
  let reachedAtMs = 0
  for (let nowMs = 0; nowMs < 15_000 && reachedAtMs === 0; nowMs += 500) {
    flooder.engine.tick(nowMs)
    collect(flooder, nowMs)
    for (let i = 0; i < 100; i++) {
      flooder.engine.handshake(0, 1)
      const from = { address: `198.51.${i}.${(nowMs / 500) % 250}`, port: 1 }
      receive(hub, collect(flooder, nowMs), from, nowMs)
    }
    honest.engine.tick(nowMs)
    carry([hub, honest], honest, collect(honest, nowMs), nowMs)
    if (honest.engine.stats(0).lastHandshakeAgeMs !== undefined) reachedAtMs = nowMs
  }
  expect(reachedAtMs).toBeGreaterThan(0)
  expect(hub.engine.counters()['cookiesSent']).toBeGreaterThan(0)
  expect(hub.engine.counters()['unknownKey']).toBeGreaterThan(0)
})
