import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { checksumsHold, type PacketPlan, plainRead, superPacket, tcpFlags, tcpPacket, udpPacket } from './packets.ts'
import { carry, collect, connectedPair, datagramsOf, deviceReads, inner, type Output, receive } from './wire.ts'

const families = [
  ['IPv4', { from: '10.0.0.1', to: '10.0.0.2' }, 20],
  ['IPv6', { from: 'fd00::1', to: 'fd00::2' }, 40],
] as const

const mtuBytes = 1_420
const timestamps = Buffer.from('0101080a0000000100000002', 'hex')

/** One large TCP packet with the timestamp option, as iperf3 makes them. */
function tcpSuper(plan: PacketPlan, ipBytes: number, payloadBytes: number) {
  const payload = randomBytes(payloadBytes)
  const flags = tcpFlags.ack | tcpFlags.psh
  const packet = tcpPacket({ ...plan, payload, options: timestamps, flags, sequence: 0xffff_f000 })
  const segmentBytes = mtuBytes - ipBytes - 32
  return { payload, read: superPacket(packet, segmentBytes), segmentBytes }
}

function vnetOf(write: Output | undefined) {
  const head = write?.bytes ?? Buffer.alloc(10)
  return {
    flags: head[0],
    gso: head[1],
    headerBytes: head.readUInt16LE(2),
    segmentBytes: head.readUInt16LE(4),
    checksumStart: head.readUInt16LE(6),
    checksumField: head.readUInt16LE(8),
  }
}

test.each(families)(
  'engine sends a full %s super-packet as one run of 44 segments and merges it back whole',
  (_, plan, ipBytes) => {
    const { a, b } = connectedPair({ merging: true })
    const { payload, read, segmentBytes } = tcpSuper(plan, ipBytes, 44 * (mtuBytes - ipBytes - 32))
    const sends = deviceReads(a, [read], 2)
    expect(sends).toHaveLength(1)
    expect(sends[0]).toMatchObject({ segment: mtuBytes + 32, to: b.at })
    expect(sends.flatMap(datagramsOf)).toHaveLength(44)
    receive(b, sends, a.at, 2)
    expect(b.writes).toHaveLength(1)
    const headerBytes = ipBytes + 32
    expect(vnetOf(b.writes[0])).toEqual({
      flags: 1,
      gso: ipBytes === 40 ? 4 : 1,
      headerBytes,
      segmentBytes,
      checksumStart: ipBytes,
      checksumField: 16,
    })
    const merged = inner(b.writes[0])
    expect(merged.subarray(headerBytes)).toEqual(payload)
    expect(merged.readUInt32BE(ipBytes + 4)).toBe(0xffff_f000)
    expect(merged[ipBytes + 13]).toBe(tcpFlags.ack | tcpFlags.psh)
  },
)

test.each(families)(
  'engine splits a 64 KiB %s super-packet into two runs within the limits of a send',
  (_, plan, ipBytes) => {
    const { a, b } = connectedPair({ merging: true })
    const { payload, read } = tcpSuper(plan, ipBytes, 65_535 - ipBytes - 32)
    const sends = deviceReads(a, [read], 2)
    expect(sends).toHaveLength(2)
    for (const run of sends) expect(run.bytes.length).toBeLessThanOrEqual(65_000)
    expect(sends.flatMap(datagramsOf).length).toBeGreaterThanOrEqual(47)
    receive(b, sends, a.at, 2)
    expect(b.writes).toHaveLength(1)
    expect(inner(b.writes[0]).subarray(ipBytes + 32)).toEqual(payload)
  },
)

test.each(families)('engine makes %s TCP segments that any host accepts', (_, plan, ipBytes) => {
  const { a, b } = connectedPair()
  const { payload, read, segmentBytes } = tcpSuper(plan, ipBytes, 10 * 1_000 + 7)
  receive(b, deviceReads(a, [read], 2), a.at, 2)
  const packets = b.writes.map(inner)
  expect(packets).toHaveLength(Math.ceil(payload.length / segmentBytes))
  expect(packets.every(checksumsHold)).toBe(true)
  expect(Buffer.concat(packets.map((packet) => packet.subarray(ipBytes + 32)))).toEqual(payload)
  for (const [i, packet] of packets.entries()) {
    expect(packet.readUInt32BE(ipBytes + 4)).toBe((0xffff_f000 + i * segmentBytes) >>> 0)
    expect(packet[ipBytes + 13]).toBe(i === packets.length - 1 ? tcpFlags.ack | tcpFlags.psh : tcpFlags.ack)
    if (ipBytes === 20) expect(packet.readUInt16BE(4)).toBe(i)
  }
})

test.each(families)('engine cuts and merges %s UDP super-packets', (_, plan, ipBytes) => {
  const { a, b, both } = connectedPair({ merging: true })
  const payload = randomBytes(40 * 1_200 + 11)
  const read = superPacket(udpPacket({ ...plan, payload }), 1_200)
  const sends = deviceReads(a, [read], 2)
  expect(sends).toHaveLength(1)
  carry(both, a, sends, 2)
  expect(b.writes).toHaveLength(1)
  expect(vnetOf(b.writes[0])).toMatchObject({ flags: 1, gso: 5, segmentBytes: 1_200, headerBytes: ipBytes + 8 })
  expect(inner(b.writes[0]).subarray(ipBytes + 8)).toEqual(payload)
  b.engine.setMerging({ tcp: true, udp: false })
  carry(both, a, deviceReads(a, [read], 2), 2)
  const packets = b.writes.slice(1).map(inner)
  expect(packets).toHaveLength(41)
  expect(packets.every(checksumsHold)).toBe(true)
})

test('engine completes the partial checksum of a single packet', () => {
  const { a, b, both } = connectedPair()
  const whole = udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: randomBytes(333) })
  const field = 20 + 6
  // What the kernel leaves in the field: the sum over the pseudo header, not complemented.
  const partial = Buffer.from(whole)
  let sum = 0
  for (let i = 12; i < 20; i += 2) sum += whole.readUInt16BE(i)
  sum += 17 + (whole.length - 20)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  partial.writeUInt16BE(sum, field)
  const head = Buffer.from([1, 0, 0, 0, 0, 0, 20, 0, 6, 0])
  carry(both, a, deviceReads(a, [Buffer.concat([head, partial])], 2), 2)
  expect(inner(b.writes[0])).toEqual(whole)
})

/** Sends plain packets of a to b, which may merge, and gives what b writes. */
function merged(packets: readonly Buffer[]): Output[] {
  const { a, b } = connectedPair({ merging: true })
  receive(b, deviceReads(a, packets.map(plainRead), 2), a.at, 2)
  return b.writes
}

const part = (plan: Partial<PacketPlan>) => tcpPacket({ from: '10.0.0.1', to: '10.0.0.2', ...plan })
const bytes = (count: number) => randomBytes(count)

test('engine ends a merge at PSH and keeps the flag', () => {
  const writes = merged([
    part({ sequence: 1, payload: bytes(100) }),
    part({ sequence: 101, payload: bytes(100), flags: tcpFlags.ack | tcpFlags.psh }),
    part({ sequence: 201, payload: bytes(100) }),
  ])
  expect(writes).toHaveLength(2)
  expect(inner(writes[0])[33]).toBe(tcpFlags.ack | tcpFlags.psh)
  expect(inner(writes[1])[33]).toBe(tcpFlags.ack)
})

test.each([
  ['a gap in the sequence', part({ sequence: 1_102, payload: bytes(100) })],
  ['a longer part', part({ sequence: 101, payload: bytes(101) })],
  ['another port', part({ sequence: 101, payload: bytes(100), toPort: 81 })],
  ['FIN', part({ sequence: 101, payload: bytes(100), flags: tcpFlags.ack | tcpFlags.fin })],
  ['other options', part({ sequence: 101, payload: bytes(100), options: timestamps })],
  ['other hops', part({ sequence: 101, payload: bytes(100), hops: 63 })],
  ['no payload', part({ sequence: 101 })],
  ['UDP', udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: bytes(100) })],
])('engine does not merge across %s, and changes neither packet', (_, second) => {
  const first = part({ sequence: 1, payload: bytes(100) })
  expect(merged([first, second]).map(inner)).toEqual([first, second])
})

test('engine never merges a packet whose checksum is wrong', () => {
  const first = part({ sequence: 1, payload: bytes(100) })
  const second = part({ sequence: 101, payload: bytes(100) })
  second[60] = (second[60] ?? 0) ^ 1
  expect(merged([first, second]).map(inner)).toEqual([first, second])
  const header = part({ sequence: 101, payload: bytes(100) })
  header[10] = (header[10] ?? 0) ^ 1
  expect(merged([first, header]).map(inner)).toEqual([first, header])
})

test('engine does not merge UDP without a checksum', () => {
  const packets = [1, 2].map(() => {
    const packet = udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: bytes(50) })
    packet.writeUInt16BE(0, 26)
    return packet
  })
  expect(merged(packets).map(inner)).toEqual(packets)
})

test('engine merges parts shorter than their headers', () => {
  const parts = Array.from({ length: 12 }, (_, i) => part({ sequence: 1 + 3 * i, payload: Buffer.from([i, i, i]) }))
  const writes = merged(parts)
  expect(writes).toHaveLength(1)
  expect(inner(writes[0]).subarray(40)).toEqual(Buffer.concat(parts.map((one) => one.subarray(40))))
})

test('engine restores what a forged datagram overlaid while it was opened', () => {
  const { a, b } = connectedPair({ merging: true })
  const parts = [part({ sequence: 1, payload: bytes(500) }), part({ sequence: 501, payload: bytes(500) })]
  const [run] = deviceReads(a, parts.map(plainRead), 2)
  if (!run) throw new Error('nothing was sent')
  const [first, second] = datagramsOf(run)
  if (!first || !second) throw new Error('two datagrams were expected')
  const forged = Buffer.from(second)
  forged[100] = (forged[100] ?? 0) ^ 1
  receive(b, [{ ...run, bytes: Buffer.concat([first, forged, second]) }], a.at, 2)
  expect(b.writes).toHaveLength(1)
  expect(inner(b.writes[0]).subarray(40)).toEqual(Buffer.concat(parts.map((one) => one.subarray(40))))
})

/** What a receiver sees: merged packets cut again, so that it can be compared with what was sent. */
function payloads(writes: readonly Output[]): Buffer {
  return Buffer.concat(writes.map((write) => inner(write).subarray(40)))
}

test('engine delivers any mix of flows and sizes unchanged, in order, merged or not', () => {
  const { a, b } = connectedPair({ merging: true })
  const step = fc.record({
    flow: fc.integer({ min: 0, max: 1 }),
    size: fc.constantFrom(1, 30, 100, 100, 100, 1_000),
    psh: fc.boolean(),
    skip: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 30 }), (steps) => {
      b.writes.length = 0
      const next = [1, 1]
      const packets = steps.map(({ flow, size, psh, skip }) => {
        const sequence = (next[flow] ?? 1) + (skip ? 5 : 0)
        next[flow] = sequence + size
        const flags = tcpFlags.ack | (psh ? tcpFlags.psh : 0)
        return part({ sequence, payload: bytes(size), flags, toPort: 80 + flow })
      })
      receive(b, deviceReads(a, packets.map(plainRead), 2), a.at, 2)
      expect(payloads(b.writes)).toEqual(Buffer.concat(packets.map((packet) => packet.subarray(40))))
    }),
    { numRuns: 200 },
  )
})

test('engine works through a burst that overflows its outputs', () => {
  const { a, b } = connectedPair()
  const { payload, read } = tcpSuper({ from: '10.0.0.1', to: '10.0.0.2' }, 20, 60_000)
  read.writeUInt16LE(100, 4)
  const sends = deviceReads(
    a,
    Array.from({ length: 32 }, () => read),
    2,
  )
  expect(a.engine.counters()['notDrained']).toBe(0)
  receive(b, sends, a.at, 2)
  expect(b.writes).toHaveLength(32 * 600)
  expect(Buffer.concat(b.writes.slice(0, 600).map((write) => inner(write).subarray(52)))).toEqual(payload)
})

test('engine drops super-packets that make no sense', () => {
  const { a } = connectedPair()
  const { read } = tcpSuper({ from: '10.0.0.1', to: '10.0.0.2' }, 20, 5_000)
  const broken = (change: (copy: Buffer) => void) => {
    const copy = Buffer.from(read)
    change(copy)
    return copy
  }
  const reads = [
    broken((copy) => copy.writeUInt16LE(0, 4)),
    broken((copy) => copy.writeUInt16LE(60_000, 6)),
    broken((copy) => copy.writeUInt8(9, 1)),
    broken((copy) => copy.writeUInt8(4, 1)),
    broken((copy) => copy.writeUInt8(0xf0, 10 + 32)),
    broken((copy) => copy.writeUInt8(0x10, 10 + 32)),
    broken((copy) => copy.writeUInt16BE(60_000, 12)),
    broken((copy) => copy.writeUInt8(0x4f, 10)),
    Buffer.from([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, ...read.subarray(10)]),
    Buffer.alloc(3),
    Buffer.alloc(0),
  ]
  for (const one of reads) {
    a.engine.fromDevice(0, 2)
    deviceReads(a, [one], 2)
    collect(a, 2)
  }
  expect(a.engine.counters()['badPacket']).toBeGreaterThanOrEqual(9)
})
