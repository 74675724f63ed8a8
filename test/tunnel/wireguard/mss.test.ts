import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createMtuStar } from './mtu-star.ts'
import { checksumsHold, ipPacket, plainRead, tcpFlags, tcpPacket, udpPacket } from './packets.ts'
import { carry, connectedPair, deviceReads, inner } from './wire.ts'

const mtuBytes = 1_380
const size = (bytes: number) => [2, 4, bytes >> 8, bytes & 0xff]
const linux = (bytes: number) => [...size(bytes), 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]

/** Sends packets from one member to another; both have the MTU. */
function cross(packets: readonly Buffer[], fromBytes?: number, toBytes?: number): Buffer[] {
  const pair = connectedPair({})
  const { a, b, both } = pair
  if (fromBytes !== undefined) a.engine.setMtu(fromBytes)
  if (toBytes !== undefined) b.engine.setMtu(toBytes)
  for (const packet of packets) carry(both, a, deviceReads(a, [plainRead(packet)], 2), 2)
  return b.writes.map(inner)
}

const families = [
  ['IPv4', '10.0.0.1', '10.0.0.2', 40],
  ['IPv6', 'fd00::1', 'fd00::2', 60],
] as const

describe.each(families)('the segment size in %s', (_, from, to, headers) => {
  const l4 = headers - 20
  const syn = (options: readonly number[], flags: number = tcpFlags.syn) =>
    tcpPacket({ from, to, flags, options: Uint8Array.from(options) })

  test.each([
    ['a SYN that leaves the device', tcpFlags.syn, mtuBytes, undefined],
    ['a SYN-ACK that leaves the device', tcpFlags.syn | tcpFlags.ack, mtuBytes, undefined],
    ['a SYN for the device', tcpFlags.syn, undefined, mtuBytes],
    ['a SYN-ACK for the device', tcpFlags.syn | tcpFlags.ack, undefined, mtuBytes],
  ])('of %s is lowered to what fits', (_name, flags, out, into) => {
    const sent = syn(linux(1_460), flags)
    const [arrived] = cross([sent], out, into)
    expect(arrived?.readUInt16BE(l4 + 22)).toBe(mtuBytes - headers)
    expect(checksumsHold(arrived ?? Buffer.alloc(0))).toBe(true)
    const except = (packet: Buffer | undefined) =>
      [...(packet ?? [])].filter((_byte, at) => ![l4 + 16, l4 + 17, l4 + 22, l4 + 23].includes(at))
    expect(except(arrived)).toEqual(except(sent))
  })

  test.each([
    ['at an odd place', [1, ...size(1_460), 1, 1, 1]],
    ['behind others', [1, 3, 3, 7, 4, 2, ...size(9_000), 0, 0]],
    ['of the largest number', [...size(65_535)]],
  ])('is found %s, and the checksum still holds', (_name, options) => {
    const [arrived] = cross([syn(options)], mtuBytes)
    const at = options.indexOf(4, options.indexOf(2) + 1)
    expect(arrived?.readUInt16BE(l4 + 20 + at + 1)).toBe(mtuBytes - headers)
    expect(checksumsHold(arrived ?? Buffer.alloc(0))).toBe(true)
  })

  test.each([
    ['one that fits already', syn(linux(mtuBytes - headers))],
    ['one that is smaller', syn(linux(536))],
    ['a SYN without one', syn([1, 1, 1, 1])],
    ['a packet that is no SYN', syn(linux(1_460), tcpFlags.ack)],
    ['one behind the end of the options', syn([0, ...size(1_460), 0, 0, 0])],
    ['one of a wrong length', syn([2, 3, 5, 1])],
    ['one that is cut by the header', syn([1, 1, 2, 4])],
    ['one behind an option of length 0', syn([9, 0, 1, 1, ...size(1_460)])],
    ['one behind an option of length 1', syn([9, 1, ...size(1_460), 1, 1])],
    ['one behind an option longer than the header', syn([9, 200, 1, 1, ...size(1_460)])],
  ])('stays as it is: %s', (_name, packet) => {
    expect(cross([packet], mtuBytes)).toEqual([packet])
  })

  test('stays as it is in a header that lies about its length', () => {
    const packets = [0, 0x10, 0x40, 0xf0].map((length) => {
      const packet = syn(linux(1_460))
      packet[l4 + 12] = length
      return packet
    })
    expect(cross(packets, mtuBytes)).toEqual(packets)
  })

  test('a wrong checksum stays wrong', () => {
    const packet = syn(linux(1_460))
    packet[l4 + 16] = (packet[l4 + 16] ?? 0) ^ 0x55
    const [arrived] = cross([packet], mtuBytes)
    expect(arrived?.readUInt16BE(l4 + 22)).toBe(mtuBytes - headers)
    expect(checksumsHold(arrived ?? Buffer.alloc(0))).toBe(false)
  })

  test('whatever the options are, only a segment size that is too large changes, and a good checksum stays good', () => {
    const pair = connectedPair({})
    pair.a.engine.setMtu(mtuBytes)
    const options = fc
      .array(fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(0, 1, 2, 4, 5)), { maxLength: 40 })
      .map((bytes) => [...bytes, ...Array<number>((4 - (bytes.length % 4)) % 4).fill(1)])
    fc.assert(
      fc.property(options, (bytes) => {
        const packet = syn(bytes)
        pair.b.writes.length = 0
        carry(pair.both, pair.a, deviceReads(pair.a, [plainRead(packet)], 2), 2)
        const arrived = inner(pair.b.writes[0])
        expect(checksumsHold(arrived)).toBe(true)
        const changed = [...arrived.keys()].filter((at) => arrived[at] !== packet[at] && at - l4 > 17)
        for (const at of changed) expect([at - 1, at].map((place) => arrived[place - 2])).toContain(2)
        expect(arrived.length).toBe(packet.length)
        if (changed.length > 0) {
          const at = Math.min(...changed)
          const place = arrived[at - 1] === 4 && arrived[at - 2] === 2 ? at : at - 1
          expect(arrived.readUInt16BE(place)).toBe(mtuBytes - headers)
          expect(packet.readUInt16BE(place)).toBeGreaterThan(mtuBytes - headers)
        }
      }),
      { numRuns: 2_000 },
    )
  })
})

test('the segment size in a fragment, and in what is not TCP, stays as it is', () => {
  const fragment = tcpPacket({
    from: '10.0.0.1',
    to: '10.0.0.2',
    flags: tcpFlags.syn,
    options: Uint8Array.from(size(1_460)),
  })
  fragment.writeUInt16BE(0x2000, 6)
  const body = Buffer.concat([
    Buffer.from([6, 0, 0, 0, 0, 0, 0, 0]),
    Buffer.alloc(13),
    Buffer.from([2]),
    Buffer.alloc(10),
  ])
  const extended = ipPacket({ from: 'fd00::1', to: 'fd00::2' }, 0, body, 2)
  const udp = udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: Buffer.from(linux(1_460)) })
  expect(cross([fragment, extended, udp], mtuBytes)).toEqual([fragment, extended, udp])
})

describe('a hub', () => {
  const flags = tcpFlags.syn
  test.each([
    ['the sender', 1_300, undefined, 1_300],
    ['the receiver', undefined, 1_340, 1_340],
    ['either', 1_380, 1_300, 1_300],
    ['nobody', undefined, undefined, 1_500],
  ])('lowers the segment size to the MTU of %s', (_name, of, to, fits) => {
    const { a, b, all } = createMtuStar([of, to])
    for (const [from, dest, headers] of [
      ['10.7.0.2', '10.7.0.3', 40],
      ['fd07::2', 'fd07::3', 60],
    ] as const) {
      const packet = tcpPacket({ from, to: dest, flags, options: Uint8Array.from(linux(1_500 - headers)) })
      carry(all, a, deviceReads(a, [plainRead(packet)], 2), 2)
      const arrived = inner(b.writes.pop())
      expect(arrived.readUInt16BE(headers + 2)).toBe(fits - headers)
      expect(checksumsHold(arrived)).toBe(true)
    }
  })
})
