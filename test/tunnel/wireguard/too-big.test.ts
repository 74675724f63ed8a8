import { describe, expect, test } from 'vitest'
import { createMtuStar } from './mtu-star.ts'
import { checksumsHold, echoRequest, plainRead, superPacket, tcpPacket, udpPacket } from './packets.ts'
import { carry, connectedPair, deviceReads, inner } from './wire.ts'

/** Type, code, MTU and the quoted packet of an ICMP message about a packet that is too big. */
function readMessage(packet: Buffer) {
  const v6 = (packet[0] ?? 0) >> 4 === 6
  const header = v6 ? 40 : 20
  const mtu = v6 ? packet.readUInt32BE(header + 4) : packet.readUInt16BE(header + 6)
  return { type: packet[header], code: packet[header + 1], mtu, quoted: packet.subarray(header + 8) }
}

const families = [
  ['IPv4', 'fragmentation needed', { type: 3, code: 4, mtu: 1_300 }, '10.0.0.1', '10.0.0.2', 12, 576],
  ['IPv6', 'packet too big', { type: 2, code: 0, mtu: 1_300 }, 'fd00::1', 'fd00::2', 8, 1_280],
] as const

describe.each(families)('a %s packet of the device that does not fit', (_family, name, message, from, to, at, most) => {
  const start = () => {
    const pair = connectedPair({})
    pair.a.engine.setMtu(1_300)
    return pair
  }
  const width = at === 12 ? 4 : 16

  test(`is answered with ${name}, as if from further along, and not sent`, () => {
    const { a } = start()
    const packet = udpPacket({ from, to, payload: Buffer.alloc(1_301 - (at === 12 ? 28 : 48), 7) })
    expect(deviceReads(a, [plainRead(packet)], 2)).toEqual([])
    const answer = inner(a.writes[0])
    expect(readMessage(answer)).toMatchObject(message)
    expect(answer.length).toBeLessThanOrEqual(most)
    expect(readMessage(answer).quoted).toEqual(packet.subarray(0, most - (at === 12 ? 28 : 48)))
    expect(checksumsHold(answer)).toBe(true)
    expect(answer.subarray(at, at + width)).toEqual(packet.subarray(at + width, at + 2 * width))
    expect(answer.subarray(at + width, at + 2 * width)).toEqual(packet.subarray(at, at + width))
    expect(a.engine.counters()['tooBig']).toBe(1)
  })

  test('of exactly the MTU is sent', () => {
    const { a } = start()
    const packet = udpPacket({ from, to, payload: Buffer.alloc(1_300 - (at === 12 ? 28 : 48)) })
    expect(deviceReads(a, [plainRead(packet)], 2)).toHaveLength(1)
    expect(a.writes).toEqual([])
  })

  test('is answered when it is a super-packet whose segments are too large', () => {
    const { a } = start()
    const read = superPacket(tcpPacket({ from, to, payload: Buffer.alloc(20_000) }), 1_360)
    expect(deviceReads(a, [read], 2)).toEqual([])
    expect(readMessage(inner(a.writes[0]))).toMatchObject(message)
  })

  test('is answered at a bounded rate', () => {
    const { a } = start()
    const read = plainRead(udpPacket({ from, to, payload: Buffer.alloc(1_380) }))
    for (let i = 0; i < 10; i++) deviceReads(a, Array<Buffer>(30).fill(read), 2)
    expect(a.writes).toHaveLength(50)
    deviceReads(a, Array<Buffer>(30).fill(read), 502)
    expect(a.writes).toHaveLength(60)
    expect(a.engine.counters()['tooBig']).toBe(330)
  })
})

test('a packet that may be split is passed on', () => {
  const { a, b, both } = connectedPair({})
  a.engine.setMtu(1_300)
  const packet = udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: Buffer.alloc(1_380) })
  packet.writeUInt16BE(0, 6)
  carry(both, a, deviceReads(a, [plainRead(packet)], 2), 2)
  expect(b.writes).toHaveLength(1)
  expect(a.writes).toEqual([])
})

test.each([
  ['an error', (packet: Buffer) => packet.writeUInt8(3, 20)],
  ['a later part', (packet: Buffer) => packet.writeUInt16BE(0x4001, 6)],
  ['a packet to many', (packet: Buffer) => packet.writeUInt8(224, 12)],
])('%s that does not fit is dropped without an answer', (_name, change) => {
  const { a } = connectedPair({})
  a.engine.setMtu(1_300)
  const packet = echoRequest({ from: '10.0.0.1', to: '10.0.0.2', payload: Buffer.alloc(1_380) })
  change(packet)
  expect(deviceReads(a, [plainRead(packet)], 2)).toEqual([])
  expect(a.writes).toEqual([])
  expect(a.engine.counters()['tooBig']).toBe(1)
})

describe('a hub', () => {
  const star = () => createMtuStar([undefined, 1_300])

  test.each([
    ['IPv4', '10.7.0.2', '10.7.0.3', [10, 7, 0, 1], 12],
    ['IPv6', 'fd07::2', 'fd07::3', [0xfd, 7, ...Array<number>(13).fill(0), 1], 8],
  ])('answers an %s packet that a member cannot take from its gateway address', (_family, from, to, gateway, at) => {
    const { hub, a, b, all } = star()
    const send = (bytes: number) => {
      const packet = udpPacket({ from, to, payload: Buffer.alloc(bytes - (at === 12 ? 28 : 48)) })
      carry(all, a, deviceReads(a, [plainRead(packet)], 2), 2)
    }
    send(1_300)
    expect([a.writes.length, b.writes.length]).toEqual([0, 1])
    send(1_301)
    expect([a.writes.length, b.writes.length]).toEqual([1, 1])
    const answer = inner(a.writes[0])
    expect(readMessage(answer).mtu).toBe(1_300)
    expect([...answer.subarray(at, at + gateway.length)]).toEqual(gateway)
    expect(checksumsHold(answer)).toBe(true)
    expect(hub.engine.counters()['tooBig']).toBe(1)
  })

  test.each([
    ['the first part', 1, 1],
    ['a later part', 1_280 | 1, 0],
    ['the last part', 1_280, 0],
    ['the whole as one part', 0, 1],
  ])('tells the sender of an IPv6 datagram that is sent in parts, with %s', (_name, offset, answers) => {
    const { a, b, all } = star()
    const packet = udpPacket({ from: 'fd07::2', to: 'fd07::3', payload: Buffer.alloc(1_344) })
    const head = Buffer.from([packet[6] ?? 0, 0, offset >> 8, offset & 0xff, 0, 0, 0, 9])
    const part = Buffer.concat([packet.subarray(0, 40), head, packet.subarray(40)])
    part[6] = 44
    part.writeUInt16BE(part.length - 40, 4)
    carry(all, a, deviceReads(a, [plainRead(part)], 2), 2)
    expect([a.writes.length, b.writes.length]).toEqual([answers, 0])
    if (answers) expect(readMessage(inner(a.writes[0]))).toMatchObject({ type: 2, mtu: 1_300 })
  })

  test('passes on in the other direction what its sender could send', () => {
    const { a, b, all } = star()
    const packet = udpPacket({ from: '10.7.0.3', to: '10.7.0.2', payload: Buffer.alloc(1_392) })
    carry(all, b, deviceReads(b, [plainRead(packet)], 2), 2)
    expect(a.writes).toHaveLength(1)
  })
})
