import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { echoRequest, ipPacket, tcpFlags, tcpPacket, udpPacket } from './packets.ts'
import { hasHeard, openVictim, stackStar } from './stack-rig.ts'
import { collect, join, tickAll } from './wire.ts'

/* A member with a device of its own sends whatever it likes, under a good session. */

const v4 = { from: '10.7.0.2', to: '10.7.0.1' }
const v6 = { from: 'fd07::2', to: 'fd07::1' }
const syn = (fromPort: number, ends = v4) => tcpPacket({ ...ends, fromPort, toPort: 53, flags: tcpFlags.syn })
const isSynAck = (packet: Buffer) => packet[9] === 6 && packet[33] === (tcpFlags.syn | tcpFlags.ack)

describe('a flood of SYNs from one member', () => {
  test('takes eight places of the hub and no more, until they are given up', () => {
    const { target, send } = openVictim('hub')
    const flood = Array.from({ length: 5_000 }, (_, i) => syn(1_024 + i))
    expect(send(flood, 2).filter(isSynAck)).toHaveLength(8)
    expect(target.engine.counters()['connectionsLimited']).toBe(5_000 - 8)
    for (let nowMs = 250; nowMs < 12_000; nowMs += 250) {
      target.engine.tick(nowMs)
      collect(target, nowMs)
    }
    expect(send([syn(60_000)], 12_001).filter(isSynAck)).toHaveLength(1)
  })

  test('keeps no other member from connecting', () => {
    const { net, hub, members } = stackStar(9)
    const honest = members.at(-1)
    if (!honest) throw new Error('a member')
    net.fate = () => 'arrives'
    for (const member of members.slice(0, -1)) {
      for (let i = 0; i < 100; i++) member.stack.connectTcp({ address: '10.7.0.1', port: 53 }, net.nowMs)
      net.collect(member)
    }
    net.settle()
    const [socket] = net.connect(honest, hub, '10.7.0.1', 53)
    expect(hasHeard(honest, socket, 1)).toBe(true)
  })
})

test.each([
  ['a wrong checksum', 'badPacket', (packet: Buffer) => void packet.writeUInt8((packet[36] ?? 0) ^ 1, 36)],
  ['a fragment', 'notServed', (packet: Buffer) => void packet.writeUInt16BE(0x2000, 6)],
])('a SYN with %s is dropped', (_name, counter, change) => {
  const { target, send } = openVictim('hub')
  const packet = syn(2_000)
  change(packet)
  expect(send([packet], 2)).toEqual([])
  expect(target.engine.counters()[counter]).toBe(1)
})

test('a header that ends before it is complete is dropped', () => {
  const { target, send } = openVictim('netstack')
  const short = [0, 4, 8, 19].map((bytes) => ipPacket(v4, 6, Buffer.alloc(Math.max(bytes, 2)), 0))
  expect(send(short, 2)).toEqual([])
  expect(target.engine.counters()['badPacket']).toBe(short.length)
})

test('headers that extend IPv6 are not followed into the stack', () => {
  const { target, send } = openVictim('netstack')
  const inside = syn(2_000, v6)
  const extended = Buffer.concat([inside.subarray(0, 40), Buffer.from([6, 0, 1, 4, 0, 0, 0, 0]), inside.subarray(40)])
  for (const next of [0, 43, 60]) {
    extended[6] = next
    extended.writeUInt16BE(extended.length - 40, 4)
    expect(send([extended], 2)).toEqual([])
  }
  expect(target.engine.counters()['notServed']).toBe(3)
})

test('sources that nobody has are not answered', () => {
  const { target, send } = openVictim('netstack')
  join(target, { publicKey: randomBytes(32), allowedPrefixes: [] })
  const packets = ['10.7.0.255', '10.7.0.0'].map((from) => udpPacket({ ...v4, from, toPort: 9 }))
  send(packets, 2)
  expect(send([udpPacket({ ...v4, from: '224.0.0.1' }), udpPacket({ ...v4, from: '127.0.0.1' })], 2)).toEqual([])
})

describe.each(['hub', 'netstack'] as const)('a %s', (kind) => {
  test('takes 20,000 segments and datagrams, right, nearly right and wrong, without failing, and works on', () => {
    const { target, both, send } = openVictim(kind)
    for (let round = 0; round < 100; round++)
      send(
        Array.from({ length: 200 }, (_, i) => nearly(round * 200 + i)),
        round * 40 + 2,
      )
    expect(target.engine.counters()['notDrained']).toBe(0)
    const nowMs = 20_000
    for (let at = 4_250; at < nowMs; at += 250) tickAll(both, at)
    const answers = send([syn(60_001)], nowMs).filter(isSynAck)
    expect(answers.filter((packet) => packet.readUInt16BE(22) === 60_001)).toHaveLength(1)
  })
})

/** A packet that begins right and has some of its bytes changed; half of them have good checksums all the same. */
function nearly(number: number): Buffer {
  const random = randomBytes(64)
  const [a = 0, b = 0, c = 0, d = 0] = random
  const ends = number % 2 === 0 ? v4 : v6
  const plan = {
    ...ends,
    fromPort: 2_000 + (a & 15),
    toPort: b & 1 ? 53 : 54,
    sequence: random.readUInt32BE(8),
    flags: c & 0x3f,
    options: random.subarray(16, 16 + (d & 0x28)),
    payload: random.subarray(20, 20 + (c & 31)),
  }
  const options = number % 5 === 0 ? random.subarray(16, 16 + 4 * (d & 7)) : undefined
  const packet =
    number % 7 === 0
      ? udpPacket(plan)
      : number % 11 === 0
        ? echoRequest(plan)
        : tcpPacket({ ...plan, options: options ?? new Uint8Array(0), sequence: number % 3 === 0 ? 1 : plan.sequence })
  if (number % 4 === 0) packet[(random[5] ?? 0) % packet.length] = random[6] ?? 0
  return packet
}
