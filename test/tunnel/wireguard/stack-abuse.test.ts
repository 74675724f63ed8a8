import { describe, expect, test } from 'vitest'
import { socketNews } from '../../../src/tunnel/wireguard/engine.ts'
import { tcpFlags, tcpPacket } from './packets.ts'
import { hasHeard, openVictim, type StackNode, stackStar } from './stack-rig.ts'

/* Members that hold on to what they have of the hub's stack. What they have is bounded, and ends; others are served. */

const ends = { from: '10.7.0.2', to: '10.7.0.1', toPort: 53 }
const { syn, ack, fin, rst, psh } = tcpFlags
const flagsOf = (packet: Buffer | undefined) => packet?.[33]

/** A member's connection made by hand: its packets are what the test says they are. */
function openByHand(rig: ReturnType<typeof openVictim>, fromPort: number) {
  const known = new Set(rig.victim.heard.keys())
  const answer = rig.send([tcpPacket({ ...ends, fromPort, sequence: 1_000, flags: syn })])[0]
  if (flagsOf(answer) !== (syn | ack) || !answer) throw new Error(`port ${fromPort} is not answered`)
  const acknowledged = answer.readUInt32BE(24) + 1
  const packet = (plan: object) =>
    tcpPacket({ ...ends, fromPort, sequence: 1_001, acknowledged, flags: ack, window: 4_000, ...plan })
  rig.send([packet({})])
  const socket = [...rig.victim.heard.keys()].find((one) => !known.has(one)) ?? 0
  return { packet, socket, fromPort }
}

function isServed({ send }: ReturnType<typeof openVictim>, fromPort: number): boolean {
  const answers = send([tcpPacket({ ...ends, fromPort, flags: syn })])
  return answers.some((one) => one.readUInt16BE(22) === fromPort && flagsOf(one) === (syn | ack))
}

/** One question and its answer, both whole. */
function ask(net: ReturnType<typeof stackStar>['net'], from: StackNode, hub: StackNode): string {
  const [socket, accepted] = net.connect(from, hub, '10.7.0.1', 53)
  from.stack.sendTcp(socket, Buffer.from('question'), net.nowMs)
  net.collect(from)
  net.settle()
  const question = net.read(hub, accepted)
  hub.stack.sendTcp(accepted, Buffer.from(`answer to ${question}`), net.nowMs)
  net.collect(hub)
  net.settle()
  return String(net.read(from, socket))
}

test('connections that a member never closes are its own sixteen, and an answer to another is not late for them', () => {
  const { net, hub, members } = stackStar(2)
  const [greedy, honest] = members
  if (!greedy || !honest) throw new Error('two members')
  for (let i = 0; i < 200; i++) {
    greedy.stack.connectTcp({ address: '10.7.0.1', port: 53 }, net.nowMs)
    net.collect(greedy)
    net.settle()
    if (i % 20 === 0) expect(ask(net, honest, hub)).toBe('answer to question')
  }
  expect(net.nowMs).toBe(1)
})

test.each([
  ['by turns', (members: readonly StackNode[]) => Array.from({ length: 16 }, () => members).flat()],
  [
    'one after the other',
    (members: readonly StackNode[]) => members.flatMap((one) => Array.from({ length: 16 }, () => one)),
  ],
])('nineteen members that take all they can, %s, leave a place for one that has nothing', (_order, attempts) => {
  const { net, hub, members } = stackStar(20)
  const honest = members.at(-1)
  if (!honest) throw new Error('members')
  for (const member of attempts(members.slice(0, -1))) {
    member.stack.connectTcp({ address: '10.7.0.1', port: 53 }, net.nowMs)
    net.collect(member)
    net.settle()
  }
  expect(hub.engine.counters()['connectionsLimited']).toBeGreaterThan(0)
  expect(ask(net, honest, hub)).toBe('answer to question')
})

test('a peer that falls silent loses its connections after two minutes', () => {
  const rig = openVictim('hub')
  const sockets = Array.from({ length: 16 }, (_, i) => openByHand(rig, 2_000 + i).socket)
  expect(isServed(rig, 3_000)).toBe(false)
  rig.net.pass(125_000)
  expect(sockets.map((socket) => hasHeard(rig.victim, socket, socketNews.lost))).toEqual(sockets.map(() => true))
  for (const socket of sockets) rig.victim.stack.release(socket, true, rig.net.nowMs)
  rig.net.collect(rig.victim)
  rig.net.settle()
  expect(isServed(rig, 3_001)).toBe(true)
})

test('a window that is held closed keeps an answer for a minute, and no longer', () => {
  const rig = openVictim('hub')
  const { net, victim, send } = rig
  const connections = Array.from({ length: 16 }, (_, i) => openByHand(rig, 2_000 + i))
  for (const { packet, socket } of connections) {
    victim.stack.sendTcp(socket, Buffer.alloc(10_000), net.nowMs)
    net.collect(victim)
    net.settle()
    const reached = rig.received().map((one) => one.readUInt32BE(24) + one.length - 40)
    send([packet({ window: 0, acknowledged: Math.max(...reached) })])
    victim.stack.release(socket, false, net.nowMs)
    net.collect(victim)
  }
  let probes = 0
  for (let seconds = 0; seconds < 59; seconds++) {
    net.pass(1_000)
    for (const probe of rig.received()) {
      probes++
      // Each is answered: the peer is there, and takes nothing.
      const of = connections.find(({ fromPort }) => fromPort === probe.readUInt16BE(22))
      if (of) send([of.packet({ window: 0, acknowledged: probe.readUInt32BE(24) })])
    }
  }
  expect(probes).toBeGreaterThan(16)
  expect(isServed(rig, 3_000)).toBe(false)
  net.pass(2_000)
  expect(isServed(rig, 3_001)).toBe(true)
})

describe('a storm of', () => {
  const kinds = {
    resets: rst,
    'resets with acknowledgement': rst | ack,
    ends: fin | ack,
    'SYN-ACKs': syn | ack,
    nothing: 0,
  }
  test.each(Object.entries(kinds))('%s beside the window changes nothing for the connection', (_kind, flags) => {
    const rig = openVictim('hub')
    const { packet, socket } = openByHand(rig, 2_000)
    const storm = Array.from({ length: 5_000 }, (_, i) => packet({ flags, sequence: (i * 858_993) >>> 0 || 5 }))
    const outside = storm.filter((one) => Math.abs(one.readUInt32BE(24) - 1_001) > 10_000)
    // No more than one answer for each, and none larger.
    expect(rig.send(outside).length).toBeLessThanOrEqual(outside.length)
    rig.send([packet({ payload: Buffer.from('still here'), flags: ack | psh })])
    expect(String(rig.net.read(rig.victim, socket))).toBe('still here')
    expect(hasHeard(rig.victim, socket, socketNews.reset | socketNews.lost | socketNews.ended)).toBe(false)
  })

  test('connections that are opened and reset takes no memory that stays', () => {
    const rig = openVictim('hub')
    // With buffers of 36 KiB each: twice the memory of the engine.
    for (let i = 0; i < 4_000; i++) {
      const { packet, socket } = openByHand(rig, 2_000 + i)
      rig.send([packet({ flags: rst })])
      expect(hasHeard(rig.victim, socket, socketNews.reset)).toBe(true)
      rig.victim.stack.release(socket, true, rig.net.nowMs)
      rig.net.collect(rig.victim)
    }
    expect(isServed(rig, 10_000)).toBe(true)
  })

  test('SYNs that are taken back at once leaves every place free', () => {
    const rig = openVictim('hub')
    for (let i = 0; i < 100; i++) {
      expect(isServed(rig, 2_000 + i)).toBe(true)
      rig.send([tcpPacket({ ...ends, fromPort: 2_000 + i, sequence: 2, flags: rst })])
    }
    expect(rig.target.engine.counters()['connectionsLimited']).toBe(0)
  })
})

test('data with thousands of holes is held within the window, and arrives in order once they are filled', () => {
  const rig = openVictim('hub')
  const { packet, socket } = openByHand(rig, 2_000)
  const whole = Buffer.from(Uint8Array.from({ length: 4_000 }, (_, i) => i & 0xff))
  const piece = (at: number, bytes: number) =>
    packet({ sequence: 1_001 + at, payload: whole.subarray(at, at + bytes), flags: ack | psh })
  rig.send(Array.from({ length: 1_999 }, (_, i) => piece(2 * i + 1, 1)).toReversed())
  rig.send([piece(100_000, 0), packet({ sequence: 101_001, payload: whole })])
  expect(rig.net.read(rig.victim, socket)).toHaveLength(0)
  rig.send(Array.from({ length: 8 }, (_, i) => piece(500 * i, 500)))
  expect(rig.net.read(rig.victim, socket).equals(whole)).toBe(true)
})

describe.each(['hub', 'netstack'] as const)('a peer of a %s that has forgotten a connection', (kind) => {
  test.each(['open', 'ending', 'over'])('opens another from the same port while the old one is %s', (state) => {
    const rig = openVictim(kind)
    const { packet, socket } = openByHand(rig, 2_000)
    if (state !== 'open') {
      rig.victim.stack.endTcp(socket, rig.net.nowMs)
      rig.net.collect(rig.victim)
      rig.net.settle()
      const [last] = rig.received()
      expect(flagsOf(last)).toBe(fin | ack)
    }
    const acknowledged = packet({}).readUInt32BE(28)
    if (state === 'ending') rig.send([packet({ flags: fin | ack })])
    if (state === 'over') rig.send([packet({ flags: fin | ack, acknowledged: acknowledged + 1 })])
    const again = tcpPacket({ ...ends, fromPort: 2_000, sequence: 77_000, flags: syn })
    const [challenge] = rig.send([again])
    expect(flagsOf(challenge)).toBe(ack)
    // What TCP says to an answer to a SYN that it did not send [RFC 9293 3.10.7.3].
    rig.send([tcpPacket({ ...ends, fromPort: 2_000, sequence: challenge?.readUInt32BE(28) ?? 0, flags: rst })])
    expect(flagsOf(rig.send([again])[0])).toBe(syn | ack)
  })
})
