import { expect, test } from 'vitest'
import { plainRead, udpPacket } from './packets.ts'
import { collect, connectedPair, deviceReads, inner, type Node, type Output, receive, tickAll } from './wire.ts'

const rekeys = 1_000
/** Below the engine's 64 handshakes a second, above which senders must prove their address first. */
const betweenMs = 100

/** Two ends whose packets are numbered, so that each is known by its payload. */
function numbered(pair: ReturnType<typeof connectedPair>) {
  const { a, b } = pair
  const sent = { toA: 0, toB: 0 }
  const number = (value: number) => {
    const payload = Buffer.alloc(4)
    payload.writeUInt32BE(value)
    return payload
  }
  return {
    sent,
    fromA: (nowMs: number) => {
      const payload = number(sent.toB++)
      return deviceReads(a, [plainRead(udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload }))], nowMs)
    },
    fromB: (nowMs: number) => {
      const payload = number(sent.toA++)
      return deviceReads(b, [plainRead(udpPacket({ from: '10.0.0.2', to: '10.0.0.1', payload }))], nowMs)
    },
    arrived: (node: Node) => node.writes.map((write) => inner(write).readUInt32BE(28)),
  }
}

test('1,000 forced rekeys under traffic lose and repeat no packet, whatever is on the way meanwhile', () => {
  const pair = connectedPair()
  const { a, b } = pair
  const traffic = numbered(pair)
  let nowMs = 10
  for (let rekey = 0; rekey < rekeys; rekey++) {
    nowMs += betweenMs
    tickAll(pair.both, nowMs)
    // Sides take turns, as in life.
    const [starter, other, peer, fromStarter, fromOther] =
      rekey % 2 === 0
        ? ([a, b, pair.toB, traffic.fromA, traffic.fromB] as const)
        : ([b, a, pair.toA, traffic.fromB, traffic.fromA] as const)
    const old = [fromStarter(nowMs), fromOther(nowMs)] as const
    starter.engine.handshake(peer, nowMs)
    const initiation = collect(starter, nowMs)
    const during = fromStarter(nowMs)
    const response = receive(other, initiation, starter.at, nowMs)
    // The answering side may not use the new keys yet, and what it sent with the old ones must still be readable.
    const early = fromOther(nowMs)
    const confirmation = receive(starter, response, other.at, nowMs)
    const fresh = fromStarter(nowMs)
    for (const runs of [old[0], fresh, during, confirmation]) receive(other, runs, starter.at, nowMs)
    const late = fromOther(nowMs)
    for (const runs of [late, early, old[1]]) receive(starter, runs, other.at, nowMs)
  }
  const every = (count: number) => Array.from({ length: count }, (_, i) => i)
  expect(traffic.arrived(b).toSorted((x, y) => x - y)).toEqual(every(traffic.sent.toB))
  expect(traffic.arrived(a).toSorted((x, y) => x - y)).toEqual(every(traffic.sent.toA))
  expect(a.engine.counters()).toMatchObject({ replayed: 0, unauthentic: 0, stagingFull: 0, cookiesReceived: 0 })
  expect(a.engine.counters()['handshakesCompleted']).toBeGreaterThanOrEqual(rekeys)
})

test('packets sent while no session is left wait for the handshake and arrive in order', () => {
  const pair = connectedPair()
  const { a, b } = pair
  const traffic = numbered(pair)
  // [WG 6.1] Three times Reject-After-Time: both sides have wiped their keys.
  const nowMs = 600_000
  tickAll(pair.both, nowMs)
  a.writes.length = 0
  b.writes.length = 0
  const sends: Output[] = []
  for (let i = 0; i < 20; i++) sends.push(...traffic.fromA(nowMs))
  const response = receive(b, sends, a.at, nowMs)
  receive(b, receive(a, response, b.at, nowMs), a.at, nowMs)
  expect(traffic.arrived(b)).toEqual(Array.from({ length: 20 }, (_, i) => i))
})
