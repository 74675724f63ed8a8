import { describe, expect, test } from 'vitest'
import { echoRequest, ipPacket, partOf, partsOf, tcpFlags, tcpPacket, udpPacket } from './packets.ts'
import { openVictim, stackPair } from './stack-rig.ts'

/* Packets in parts: a tunnel without a device puts together what comes, and splits what is larger than its packets. */

const families = [
  { family: 'IPv4', ends: { from: '10.7.0.2', to: '10.7.0.1' }, other: '10.0.0.2', header: 20 },
  { family: 'IPv6', ends: { from: 'fd07::2', to: 'fd07::1' }, other: 'fd00::2', header: 40 },
]

function pattern(count: number): Buffer {
  return Buffer.from(Uint8Array.from({ length: count }, (_, i) => (i * 31 + (i >> 8)) & 0xff))
}

/** A tunnel without a device that listens for datagrams, and what it was sent. */
function openReceiver() {
  const rig = openVictim('netstack')
  const socket = rig.victim.stack.openUdp(9_999) ?? 0
  const datagrams = () => {
    const all: Buffer[] = []
    for (let next = rig.victim.stack.receiveFrom(socket); next; next = rig.victim.stack.receiveFrom(socket)) {
      all.push(Buffer.from(next.bytes))
    }
    return all
  }
  return { ...rig, datagrams }
}

/** Puts parts together, the plain way. */
function joined(parts: readonly Buffer[], header: number): Buffer {
  const extension = header === 40 ? 8 : 0
  const at = (part: Buffer) => (extension ? part.readUInt16BE(42) & 0xfff8 : (part.readUInt16BE(6) & 0x1fff) * 8)
  return Buffer.concat(parts.toSorted((a, b) => at(a) - at(b)).map((part) => part.subarray(header + extension)))
}

describe.each(families)('over $family', ({ ends, other, header }) => {
  const datagram = (bytes: number) => udpPacket({ ...ends, payload: pattern(bytes) })

  test.each([
    ['in order', (parts: Buffer[]) => parts],
    ['the last first', (parts: Buffer[]) => parts.toReversed()],
    ['mixed', (parts: Buffer[]) => parts.toSorted((a, b) => (((a[60] ?? 0) * 7) % 11) - (((b[60] ?? 0) * 7) % 11))],
  ])('a datagram in parts arrives whole, %s', (_name, order) => {
    const { send, datagrams } = openReceiver()
    send(order(partsOf(datagram(9_000), 1_200)))
    expect(datagrams()).toEqual([pattern(9_000)])
  })

  test('parts of several datagrams are told apart', () => {
    const { send, datagrams } = openReceiver()
    const [one = [], two = []] = [2_000, 3_000].map((bytes, id) => partsOf(datagram(bytes), 1_000, id))
    send(
      [one[1], two[2], two[0], one[0], two[1], ...one.slice(2), ...two.slice(3)].map((part) => part ?? Buffer.alloc(0)),
    )
    expect(datagrams().map(({ length }) => length)).toEqual([2_000, 3_000])
  })

  test('a large echo request is answered in parts that fit', () => {
    const { send } = openVictim('netstack')
    const request = echoRequest({ ...ends, payload: pattern(5_000) })
    const answers = send(partsOf(request, 1_200))
    expect(answers.map(({ length }) => length <= 1_420)).toEqual([true, true, true, true])
    const reply = Buffer.from(request.subarray(header))
    reply.set([header === 40 ? 129 : 0, 0, 0, 0])
    const whole = ipPacket({ from: ends.to, to: ends.from }, header === 40 ? 58 : 1, reply, 2)
    expect(joined(answers, header)).toEqual(whole.subarray(header))
  })

  test('a segment in parts reaches its port', () => {
    const { send } = openVictim('netstack')
    const syn = tcpPacket({ ...ends, toPort: 53, flags: tcpFlags.syn })
    expect(send(partsOf(syn, 8))).toHaveLength(1)
  })

  test.each([1_280, 1_420, 9_000])(
    'datagrams of every size go from stack to stack, packets of %i bytes',
    (mtuBytes) => {
      const { net, a, b } = stackPair(mtuBytes)
      const from = a.stack.openUdp(0) ?? 0
      const to = b.stack.openUdp(9) ?? 0
      let largest = 0
      net.fate = (run) => {
        largest = Math.max(largest, run.segment || run.bytes.length)
        return 'arrives'
      }
      for (const bytes of [mtuBytes - header - 8, mtuBytes - header - 7, mtuBytes, 2 * mtuBytes, 30_000, 65_507]) {
        expect(a.stack.sendTo(from, { address: other, port: 9, bytes: pattern(bytes) }, net.nowMs)).toBe(true)
        net.collect(a)
        net.settle()
        expect(b.stack.receiveFrom(to)?.bytes).toEqual(Uint8Array.from(pattern(bytes)))
      }
      expect(largest).toBeLessThanOrEqual(mtuBytes + 32)
      expect(a.stack.sendTo(from, { address: other, port: 9, bytes: pattern(65_508) }, net.nowMs)).toBe(false)
    },
  )

  test('a datagram that has lost a part is lost, and the next one is not', () => {
    const { send, datagrams } = openReceiver()
    send(partsOf(datagram(4_000), 1_000, 1).toSpliced(1, 1))
    send(partsOf(datagram(3_000), 1_000, 2))
    expect(datagrams()).toEqual([pattern(3_000)])
  })

  test('what is not complete after 15 s is forgotten', () => {
    const { send, datagrams } = openReceiver()
    const [first = Buffer.alloc(0), ...rest] = partsOf(datagram(3_000), 1_000)
    send([first], 2)
    send(rest, 15_002)
    expect(datagrams()).toEqual([])
    send([first], 15_003)
    expect(datagrams()).toEqual([pattern(3_000)])
  })

  test('a flood of first parts takes room for sixteen, and a whole datagram still comes through', () => {
    const { send, datagrams, target } = openReceiver()
    const [first = Buffer.alloc(0)] = partsOf(datagram(3_000), 1_000)
    // Each makes room for a largest packet: 5,000 of them are several times the memory of the engine.
    const plan = { at: 65_000, more: false, bytes: pattern(200) }
    send(Array.from({ length: 5_000 }, (_, id) => partOf(unsplit(first.subarray(0, header)), { id, ...plan })))
    send(partsOf(datagram(3_000), 1_000, 6_000))
    expect(datagrams()).toEqual([pattern(3_000)])
    expect(target.engine.counters()['badPacket']).toBe(0)
  })

  test.each([
    ['overlap', [{ at: 0 }, { at: 16 }]],
    ['come twice', [{ at: 0 }, { at: 0 }]],
    [
      'end twice',
      [
        { at: 24, more: false },
        { at: 48, more: false },
      ],
    ],
    ['go beyond the end', [{ at: 24, more: false }, { at: 48 }]],
    ['end before another', [{ at: 48 }, { at: 24, more: false }]],
    ['are larger together than a packet', [{ at: 65_528, more: false }]],
    ['begin beside a multiple of eight', [{ at: 0, bytes: 23 }]],
    ['are empty', [{ at: 0, bytes: 0 }]],
  ] as const)('parts that %s are dropped and counted', (_name, plans) => {
    const { send, datagrams, target } = openReceiver()
    const [first = Buffer.alloc(0)] = partsOf(datagram(3_000), 1_000)
    const plain = unsplit(first.subarray(0, header))
    send(
      plans.map((plan) =>
        partOf(plain, { id: 9, more: true, ...plan, bytes: pattern('bytes' in plan ? plan.bytes : 24) }),
      ),
    )
    expect(target.engine.counters()['badPacket']).toBe(1)
    send(partsOf(datagram(3_000), 1_000, 10))
    expect(datagrams()).toEqual([pattern(3_000)])
  })
})

/** The header as it was before its packet was split. */
function unsplit(header: Buffer): Buffer {
  const plain = Buffer.from(header)
  if (plain.length === 40) plain[6] = 17
  return plain
}

test('a part cut within the header that tells its place is dropped', () => {
  const { send, target } = openVictim('netstack')
  send([0, 4, 7].map((bytes) => ipPacket({ from: 'fd07::2', to: 'fd07::1' }, 44, Buffer.alloc(Math.max(bytes, 2)), 0)))
  expect(target.engine.counters()['badPacket']).toBe(3)
})
