import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { socketNews } from '../../../src/tunnel/wireguard/engine.ts'
import { hasHeard, openVictim, type StackNet, type StackNode, stackPair, stackStar } from './stack-rig.ts'
import { join } from './wire.ts'

const families = [
  ['IPv4', '10.0.0.2'],
  ['IPv6', 'fd00::2'],
] as const

function pattern(count: number): Buffer {
  return Buffer.from(Uint8Array.from({ length: count }, (_, i) => (i * 31 + (i >> 8)) & 0xff))
}

/** Sends all of it, reading at the other end meanwhile, as long as simulated time allows; gives what arrived. */
function transfer(net: StackNet, [from, socket]: [StackNode, number], [to, other]: [StackNode, number], whole: Buffer) {
  const parts: Buffer[] = []
  let sent = 0
  let arrived = 0
  for (let rounds = 0; arrived < whole.length && rounds < 20_000; rounds++) {
    if (sent < whole.length) {
      sent += from.stack.sendTcp(socket, whole.subarray(sent), net.nowMs) ?? 0
      net.collect(from)
    }
    net.settle()
    const part = net.read(to, other)
    net.settle()
    arrived += part.length
    parts.push(part)
    if (part.length === 0) net.pass(50)
  }
  return Buffer.concat(parts)
}

describe.each(families)('the stack over %s', (_family, address) => {
  test('leaves as runs of many segments: one send each', () => {
    const { net, a, b } = stackPair()
    b.stack.listenTcp(80, true)
    const [socket] = net.connect(a, b, address, 80)
    const segments: number[] = []
    net.fate = (run) => {
      if (run.segment > 0) segments.push(Math.ceil(run.bytes.length / run.segment))
      return 'arrives'
    }
    for (let i = 0; i < 40; i++) {
      a.stack.sendTcp(socket, Buffer.alloc(65_536), net.nowMs)
      net.collect(a)
      net.settle()
      net.read(b, [...b.heard.keys()][0] ?? 0)
      net.settle()
    }
    expect(Math.max(...segments)).toBeGreaterThanOrEqual(40)
  })

  test.each([
    [1_280, 1_420],
    [1_420, 1_280],
    [1_500, 9_000],
  ])('no segment is larger than the MTU of either end (%i and %i)', (own, others) => {
    const { net, a, b } = stackPair(own)
    b.engine.setMtu(others)
    b.stack.listenTcp(80, true)
    let largest = 0
    net.fate = (run) => {
      largest = Math.max(largest, run.segment || run.bytes.length)
      return 'arrives'
    }
    const [socket, other] = net.connect(a, b, address, 80)
    const whole = pattern(200_000)
    expect(transfer(net, [a, socket], [b, other], whole).equals(whole)).toBe(true)
    expect(transfer(net, [b, other], [a, socket], whole).equals(whole)).toBe(true)
    // Padded up to the MTU of its sender, behind WireGuard's header and tag.
    expect(largest).toBeLessThanOrEqual(Math.min(own, others) + 15 + 32)
  })

  test('whatever is lost or late on the way, all arrives in order, or the sender hears that it does not', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), fc.constantFrom(1, 4, 12), (seed, percent) => {
        const { net, a, b } = stackPair()
        b.stack.listenTcp(80, true)
        const [socket, other] = net.connect(a, b, address, 80)
        let state = seed
        const chance = () => {
          state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff
          return (state >> 8) % 100
        }
        net.fate = () => (chance() < percent ? 'lost' : chance() < percent ? 'late' : 'arrives')
        const whole = pattern(150_000)
        const arrived = transfer(net, [a, socket], [b, other], whole)
        expect(arrived.equals(whole.subarray(0, arrived.length))).toBe(true)
        // Two minutes without an answer are rare, but an honest end.
        expect(arrived.length === whole.length || hasHeard(a, socket, socketNews.lost)).toBe(true)
        if (percent < 12) expect(arrived).toHaveLength(whole.length)
      }),
      { numRuns: 8, examples: [[2 ** 31 - 1, 12]] },
    )
  })

  test('a window that was closed opens again although the word of it is lost', () => {
    const { net, a, b } = stackPair()
    b.stack.listenTcp(80, true)
    const [socket, other] = net.connect(a, b, address, 80)
    const whole = pattern(400_000)
    let sent = 0
    for (let i = 0; i < 50; i++) {
      sent += a.stack.sendTcp(socket, whole.subarray(sent), net.nowMs) ?? 0
      net.collect(a)
      net.settle()
    }
    expect(sent).toBeLessThan(300_000)
    net.fate = () => 'lost'
    const first = net.read(b, other)
    net.settle()
    net.fate = () => 'arrives'
    const rest = transfer(net, [a, socket], [b, other], whole.subarray(sent))
    expect(Buffer.concat([first, rest]).equals(whole.subarray(0, first.length + rest.length))).toBe(true)
    expect(first.length + rest.length).toBeGreaterThanOrEqual(whole.length - sent)
  })
})

test('an end, a refusal and a silence are told apart', () => {
  const { net, a, b } = stackPair()
  b.stack.listenTcp(80, true)
  const [ended, other] = net.connect(a, b, '10.0.0.2', 80)
  b.stack.endTcp(other, net.nowMs)
  net.collect(b)
  net.settle()
  const refused = a.stack.connectTcp({ address: '10.0.0.2', port: 81 }, net.nowMs) ?? 0
  net.collect(a)
  net.settle()
  net.fate = () => 'lost'
  const lost = a.stack.connectTcp({ address: '10.0.0.2', port: 80 }, net.nowMs) ?? 0
  net.collect(a)
  net.pass(130_000)
  const { ended: end, reset, lost: silent } = socketNews
  const told = (socket: number) => [end, reset, silent].map((news) => hasHeard(a, socket, news))
  expect([told(ended), told(refused), told(lost)]).toEqual([
    [true, false, true],
    [false, true, false],
    [false, false, true],
  ])
})

test('without an own address of the family, no connection is opened and nothing is sent', () => {
  const { net, a } = stackPair()
  a.engine.setGateways(['10.0.0.1'], [])
  const to = { address: 'fd00::2', port: 80, bytes: Buffer.alloc(8) }
  expect(a.stack.connectTcp(to, net.nowMs)).toBeUndefined()
  for (const socket of [a.stack.openUdp(0), a.stack.openEcho()]) {
    expect(a.stack.sendTo(socket ?? 0, to, net.nowMs)).toBe(false)
    expect(a.stack.sendTo(socket ?? 0, { ...to, address: '10.0.0.2' }, net.nowMs)).toBe(true)
  }
})

test('a connection that is over leaves its place, whoever ended it first', () => {
  const { net, a, b } = stackPair()
  b.stack.listenTcp(80, true)
  for (let i = 0; i < 300; i++) {
    const [socket, other] = net.connect(a, b, '10.0.0.2', 80)
    const [first, second] = i % 2 === 0 ? ([a, b] as const) : ([b, a] as const)
    for (const one of [first, second]) {
      const own = one === a ? socket : other
      if (i % 3 === 0) one.stack.release(own, true, net.nowMs)
      else {
        one.stack.endTcp(own, net.nowMs)
        net.collect(one)
        net.settle()
        one.stack.release(own, false, net.nowMs)
      }
      net.collect(one)
      net.settle()
    }
  }
  // Its limit is 64 from one peer.
  expect(net.connect(a, b, '10.0.0.2', 80)).toHaveLength(2)
})

/** A question that ends, and an answer whose end comes in a packet of its own; both sockets are given back at once. */
function converse(net: StackNet, [a, socket]: [StackNode, number], [b, other]: [StackNode, number]): string {
  const say = (node: StackNode, own: number, text: string) => {
    node.stack.sendTcp(own, Buffer.from(text), net.nowMs)
    net.collect(node)
    net.settle()
    node.stack.endTcp(own, net.nowMs)
    net.collect(node)
    net.settle()
  }
  say(a, socket, 'question')
  say(b, other, `answer to ${net.read(b, other)}`)
  const answer = net.read(a, socket)
  for (const [node, own] of [
    [a, socket],
    [b, other],
  ] as const) {
    node.stack.release(own, false, net.nowMs)
    net.collect(node)
    net.settle()
  }
  return String(answer)
}

test('the end of the other end is acknowledged at once, although the socket goes with it', () => {
  const { net, a, b } = stackPair()
  b.stack.listenTcp(80, true)
  const [socket, other] = net.connect(a, b, '10.0.0.2', 80)
  expect(converse(net, [a, socket], [b, other])).toBe('answer to question')
  const late: unknown[] = []
  net.fate = (run) => {
    late.push(run)
    return 'arrives'
  }
  net.pass(30_000)
  // Nobody repeats what it said, and both places are free.
  expect(late).toEqual([])
})

test('3,000 connections, twenty of them open at any time, open at once, whoever ends them and however', () => {
  const { net, a, b } = stackPair()
  b.stack.listenTcp(80, true)
  const open: [number, number][] = []
  for (let i = 0; i < 3_000; i++) {
    open.push(net.connect(a, b, i % 2 === 0 ? '10.0.0.2' : 'fd00::2', 80))
    const [socket, other] = open[20] ? (open.shift() ?? []) : []
    if (socket === undefined || other === undefined) continue
    const [first, second] = [[a, socket] as const, [b, other] as const]
    if (i % 3 === 0) expect(converse(net, [...first], [...second])).toBe('answer to question')
    else if (i % 3 === 1) expect(converse(net, [...second], [...first])).toBe('answer to question')
    else {
      a.stack.release(socket, true, net.nowMs)
      net.collect(a)
      net.settle()
      b.stack.release(other, false, net.nowMs)
      net.collect(b)
      net.settle()
    }
    a.heard.delete(socket)
    b.heard.delete(other)
  }
  // No time passed: no packet was repeated.
  expect(net.nowMs).toBe(1)
  expect(b.engine.counters()['connectionsLimited']).toBe(0)
})

test('own ports do not come again soon, so that no connection looks like one that the other end still knows', () => {
  const { target, victim, net, received } = openVictim('netstack')
  const ports = Array.from({ length: 200 }, () => {
    const socket = target.engine.stack.connectTcp({ address: '10.7.0.2', port: 80 }, net.nowMs) ?? 0
    net.collect(victim)
    net.settle()
    target.engine.stack.release(socket, true, net.nowMs)
    net.collect(victim)
    net.settle()
    return received()[0]?.readUInt16BE(20)
  })
  expect(new Set(ports).size).toBe(200)
  expect(Math.min(...ports.map((port) => port ?? 0))).toBeGreaterThanOrEqual(49_152)
})

test('a connection that only the other end keeps is given up after a minute', () => {
  const { net, a, b } = stackPair()
  b.stack.listenTcp(80, true)
  const [socket, other] = net.connect(a, b, '10.0.0.2', 80)
  a.stack.release(socket, false, net.nowMs)
  net.collect(a)
  net.pass(59_000)
  expect(hasHeard(b, other, socketNews.reset)).toBe(false)
  net.pass(2_000)
  expect(hasHeard(b, other, socketNews.reset)).toBe(true)
})

test.each([0, 3_000, 100_000])('what came before both ends were done waits for a slow reader, %i bytes', (count) => {
  const { net, a, b } = stackPair()
  b.stack.listenTcp(80, true)
  const [socket, other] = net.connect(a, b, '10.0.0.2', 80)
  // Read once, so that what waits goes over the end of the ring.
  const before = pattern(90_000)
  expect(transfer(net, [a, socket], [b, other], before).equals(before)).toBe(true)
  b.stack.endTcp(other, net.nowMs)
  net.collect(b)
  net.settle()
  const whole = pattern(count)
  let sent = 0
  while (sent < count) {
    sent += a.stack.sendTcp(socket, whole.subarray(sent), net.nowMs) ?? 0
    net.collect(a)
    net.settle()
  }
  a.stack.endTcp(socket, net.nowMs)
  net.collect(a)
  net.pass(200_000)
  expect(hasHeard(b, other, socketNews.ended)).toBe(count === 0)
  expect(net.read(b, other).equals(whole)).toBe(true)
  expect(hasHeard(b, other, socketNews.ended)).toBe(true)
  expect(hasHeard(b, other, socketNews.reset | socketNews.lost)).toBe(false)
})

test('a member that is removed leaves no connection behind, nor its places taken for whoever comes next', () => {
  const { net, hub, members } = stackStar(2)
  const [greedy, next] = members
  if (!greedy || !next) throw new Error('two members')
  const accepted = Array.from({ length: 16 }, () => net.connect(greedy, hub, '10.7.0.1', 53)[1])
  // The lowest handle that is free is given first: that of the greedy one.
  for (const peer of [0, 1]) hub.engine.removePeer(peer)
  net.pass(250)
  expect(accepted.map((socket) => hasHeard(hub, socket, socketNews.lost))).toEqual(accepted.map(() => true))
  for (const socket of accepted) hub.stack.release(socket, true, net.nowMs)
  net.collect(hub)
  join(hub.node, { publicKey: next.node.publicKey, allowedPrefixes: ['10.7.0.3', 'fd07::3'] })
  next.engine.handshake(0, net.nowMs)
  net.collect(next)
  net.settle()
  expect(net.connect(next, hub, '10.7.0.1', 53)).toHaveLength(2)
  expect(hub.engine.counters()['connectionsLimited']).toBe(0)
})

test('connections of an address that the tunnel loses end; others stay', () => {
  const { net, a, b } = stackPair()
  b.stack.listenTcp(80, true)
  const [v4] = net.connect(a, b, '10.0.0.2', 80)
  const [v6] = net.connect(a, b, 'fd00::2', 80)
  b.engine.setGateways(['fd00::2'], [])
  net.pass(10_000)
  a.stack.sendTcp(v4, Buffer.from('x'), net.nowMs)
  net.collect(a)
  net.pass(130_000)
  expect(hasHeard(a, v4, socketNews.reset | socketNews.lost)).toBe(true)
  expect(hasHeard(a, v6, socketNews.reset | socketNews.lost)).toBe(false)
})

test("a member's connections to the gateway are counted, and another's are not refused for it", () => {
  const { net, hub, members } = stackStar(2)
  const [greedy, honest] = members
  if (!greedy || !honest) throw new Error('two members')
  const opened: number[] = []
  for (let i = 0; i < 40; i++) {
    const socket = greedy.stack.connectTcp({ address: i % 2 === 0 ? '10.7.0.1' : 'fd07::1', port: 53 }, net.nowMs)
    net.collect(greedy)
    net.settle()
    if (socket !== undefined && hasHeard(greedy, socket, socketNews.connected)) opened.push(socket)
  }
  expect(opened).toHaveLength(16)
  expect(hub.engine.counters()['connectionsLimited']).toBe(24)
  expect(net.connect(honest, hub, '10.7.0.1', 53)).toHaveLength(2)
  // One that ends makes room for one more.
  greedy.stack.release(opened[0] ?? 0, true, net.nowMs)
  net.collect(greedy)
  net.settle()
  const [, first = 0] = [0, [...hub.heard.keys()][0]]
  hub.stack.release(first, true, net.nowMs)
  net.collect(hub)
  net.settle()
  expect(net.connect(greedy, hub, '10.7.0.1', 53)).toHaveLength(2)
})

test('a member that the hub does not listen to for gets nothing: the port is silent', () => {
  const { net, hub, members } = stackStar(1)
  const [member] = members
  const socket = member?.stack.connectTcp({ address: '10.7.0.1', port: 54 }, net.nowMs) ?? 0
  if (member) net.collect(member)
  net.settle()
  expect(member?.heard.get(socket)).toBeUndefined()
  expect(hub.engine.counters()['notServed']).toBe(1)
})
