import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { plainRead, udpPacket } from './packets.ts'
import {
  carry,
  collect,
  connectedPair,
  createNode,
  createPair,
  deviceReads,
  inner,
  join,
  type Node,
  receive,
  receiveBytes,
  tickAll,
} from './wire.ts'

const aToB = (payloadBytes: number) =>
  udpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: randomBytes(payloadBytes) })
const bToA = (payloadBytes: number) =>
  udpPacket({ from: '10.0.0.2', to: '10.0.0.1', payload: randomBytes(payloadBytes) })

function sealed(node: Node, packet: Buffer, nowMs: number): Buffer {
  const [run] = deviceReads(node, [plainRead(packet)], nowMs)
  if (!run) throw new Error('nothing was sent')
  return run.bytes
}

test.each([
  ['without a preshared key', undefined],
  ['with a preshared key', randomBytes(32)],
])('engine shakes hands %s and delivers what was staged meanwhile', (_, presharedKey) => {
  const { a, b, both, toB, toA } = createPair(presharedKey ? { presharedKey } : {})
  const packets = [aToB(1_000), aToB(10), aToB(0)]
  const sends = deviceReads(a, packets.map(plainRead), 1)
  expect(sends.map((run) => run.bytes.length)).toEqual([148])
  carry(both, a, sends, 1)
  expect(b.writes.map(inner)).toEqual(packets)
  const back = bToA(700)
  carry(both, b, deviceReads(b, [plainRead(back)], 2), 2)
  expect(inner(a.writes[0])).toEqual(back)
  expect(a.engine.stats(toB)).toMatchObject({ endpoint: b.at, receivedBytes: back.length, rttMs: 0 })
  expect(b.engine.stats(toA)).toMatchObject({ endpoint: a.at, lastHandshakeAgeMs: expect.any(Number) })
})

test('engine refuses a handshake when the preshared keys differ', () => {
  const a = createNode('member', '192.0.2.1')
  const b = createNode('member', '192.0.2.2')
  const toB = join(a, { publicKey: b.publicKey, endpoint: b.at, presharedKey: randomBytes(32) })
  join(b, { publicKey: a.publicKey, presharedKey: randomBytes(32) })
  a.engine.handshake(toB, 1)
  carry([a, b], a, collect(a, 1), 1)
  expect(a.engine.stats(toB).lastHandshakeAgeMs).toBeUndefined()
  expect(a.engine.counters()['unauthentic']).toBe(1)
})

test('engine stays silent to an unknown static key', () => {
  const a = createNode('member', '192.0.2.1')
  const b = createNode('member', '192.0.2.2')
  const toB = join(a, { publicKey: b.publicKey, endpoint: b.at })
  a.engine.handshake(toB, 1)
  expect(receive(b, collect(a, 1), a.at, 1)).toEqual([])
  expect(b.engine.counters()['unknownKey']).toBe(1)
})

test('engine stays silent to an initiation whose mac1 is for another key', () => {
  const { a, b, toB } = createPair()
  a.engine.handshake(toB, 1)
  const [run] = collect(a, 1)
  run?.bytes.fill(0, 116, 120)
  expect(receive(b, run ? [run] : [], a.at, 1)).toEqual([])
  expect(b.engine.counters()['badMac']).toBe(1)
})

test('engine accepts an initiation once', () => {
  const { a, b, toB } = createPair()
  a.engine.handshake(toB, 1)
  const initiation = collect(a, 1)
  expect(receive(b, initiation, a.at, 1)).toHaveLength(1)
  expect(receive(b, initiation, a.at, 1)).toEqual([])
  expect(b.engine.counters()['replayed']).toBe(1)
})

test('engine follows a peer only after an authentic datagram', () => {
  const { a, b, toA } = connectedPair()
  const elsewhere = { address: '198.51.100.9', port: 4_000 }
  const old = sealed(a, aToB(10), 2)
  receiveBytes(b, old, a.at, 2)
  receiveBytes(b, old, elsewhere, 2)
  const bad = sealed(a, aToB(10), 2)
  bad[20] = (bad[20] ?? 0) ^ 1
  receiveBytes(b, bad, elsewhere, 2)
  expect(b.engine.stats(toA).endpoint).toEqual(a.at)
  receiveBytes(b, sealed(a, aToB(10), 2), elsewhere, 2)
  expect(b.engine.stats(toA).endpoint).toEqual(elsewhere)
  const [run] = deviceReads(b, [plainRead(bToA(10))], 2)
  expect(run?.to).toEqual(elsewhere)
  expect(b.engine.counters()['roamed']).toBe(1)
})

test('engine follows a peer to IPv6 and back', () => {
  const { a, b, toA } = connectedPair()
  const v6 = { address: '2001:db8::7', port: 51_820 }
  receiveBytes(b, sealed(a, aToB(10), 2), v6, 2)
  expect(b.engine.stats(toA).endpoint).toEqual(v6)
  const [run] = deviceReads(b, [plainRead(bToA(10))], 2)
  expect(run?.to).toEqual(v6)
  receiveBytes(b, sealed(a, aToB(10), 2), a.at, 2)
  expect(b.engine.stats(toA).endpoint).toEqual(a.at)
})

test('engine goes back to the configured endpoint when a roamed one stays silent', () => {
  const { a, b, toB } = connectedPair()
  receiveBytes(a, sealed(b, bToA(10), 2), { address: '198.51.100.9', port: 4_000 }, 2)
  expect(a.engine.stats(toB).endpoint?.address).toBe('198.51.100.9')
  for (let i = 0; i < 3; i++) {
    a.engine.handshake(toB, 1)
    collect(a, 2)
  }
  expect(a.engine.stats(toB).endpoint).toEqual(b.at)
})

test('engine renews its keys every two minutes of traffic and loses no packet', () => {
  const { a, b, both } = connectedPair()
  for (let second = 1; second <= 400; second++) {
    const nowMs = second * 1_000
    tickAll(both, nowMs)
    const [out, back] = [aToB(100), bToA(100)]
    carry(both, a, deviceReads(a, [plainRead(out)], nowMs), nowMs)
    carry(both, b, deviceReads(b, [plainRead(back)], nowMs), nowMs)
    expect([inner(b.writes.pop()), inner(a.writes.pop())]).toEqual([out, back])
  }
  expect(a.engine.counters()['handshakesCompleted']).toBe(4)
})

test('engine tries a silent peer for 90 seconds, then only when there is something to send', () => {
  const { a, toB } = createPair()
  let nowMs = 1
  deviceReads(a, [plainRead(aToB(10))], nowMs)
  const run = (seconds: number) => {
    const before = a.engine.counters()['initiationsSent'] ?? 0
    for (let i = 0; i < seconds; i++) {
      nowMs += 1_000
      a.engine.tick(nowMs)
      collect(a, nowMs)
    }
    return (a.engine.counters()['initiationsSent'] ?? 0) - before
  }
  expect(run(95)).toBe(17)
  expect(run(100)).toBe(0)
  expect(deviceReads(a, [plainRead(aToB(10))], nowMs).map((sent) => sent.bytes.length)).toEqual([148])
  expect(run(21)).toBe(4)
  expect(a.engine.stats(toB).lastHandshakeAgeMs).toBeUndefined()
})

test('engine with a keepalive never stops trying', () => {
  const { a } = createPair({ keepaliveSeconds: 25 })
  const sizes: number[] = []
  for (let nowMs = 0; nowMs < 1_000_000; nowMs += 1_000) {
    a.engine.tick(nowMs)
    sizes.push(...collect(a, nowMs).map((run) => run.bytes.length))
  }
  expect(new Set(sizes)).toEqual(new Set([148]))
  expect(sizes.length).toBeGreaterThan(180)
})

test('engine sends a keepalive only when nothing else was sent for that long', () => {
  const { a, b, both } = connectedPair({ keepaliveSeconds: 20 })
  for (let second = 1; second <= 100; second++) {
    if (second <= 50) carry(both, a, deviceReads(a, [plainRead(aToB(10))], second * 1_000), second * 1_000)
    if (second === 50) a.sent.length = 0
    tickAll(both, second * 1_000)
  }
  expect(a.sent.filter((run) => run.bytes.length === 32)).toHaveLength(2)
  expect(b.writes).toHaveLength(50)
})

test('engine under load asks for a cookie and lets the next initiation with it in', () => {
  const { a, b, toB, both } = createPair()
  for (let i = 0; i < 70; i++) {
    a.engine.handshake(toB, 1)
    carry(both, a, collect(a, 1), 1)
  }
  const counters = b.engine.counters()
  expect(counters['cookiesSent']).toBeGreaterThan(0)
  expect(a.engine.counters()['cookiesReceived']).toBeGreaterThan(0)
  expect(counters['handshakesCompleted']).toBeGreaterThan(64)
  expect(Math.max(...b.sent.map((run) => run.bytes.length))).toBe(92)
})

test('engine under load gives no source more than its share of handshakes', () => {
  const { a, b, toB, both } = createPair()
  for (let i = 0; i < 300; i++) {
    a.engine.handshake(toB, 1)
    carry(both, a, collect(a, 1), 1)
  }
  expect(b.engine.counters()['handshakesCompleted']).toBeLessThanOrEqual(64 + 5)
  expect(b.engine.counters()['sourceLimited']).toBeGreaterThan(200)
})

test('engine binds a cookie to the IPv6 address that asked', () => {
  const { a, b, toB } = createPair()
  const v6 = { address: '2001:db8::1', port: 1_000 }
  const exchange = (from: { address: string; port: number }) => {
    a.engine.handshake(toB, 1)
    const answers = receive(b, collect(a, 1), from, 1)
    receive(a, answers, b.at, 1)
    return answers.map((run) => run.bytes.length)
  }
  for (let i = 0; i < 65; i++) exchange(v6)
  expect(exchange({ ...v6, address: '2001:db8::2' })).toEqual([64])
  expect(exchange({ ...v6, address: '2001:db8::2' })).toEqual([92])
  expect(exchange(v6)).toEqual([64])
})

test("engine changes a peer's endpoint, prefixes and keepalive while its session lives", () => {
  const { a, b, toB } = connectedPair()
  const moved = { address: '203.0.113.5', port: 7 }
  a.engine.setPeer(toB, {
    publicKey: b.publicKey,
    keepaliveSeconds: 5,
    endpoint: moved,
    allowedPrefixes: ['10.9.0.0/16'],
  })
  expect(deviceReads(a, [plainRead(aToB(1))], 2)).toEqual([])
  const [run] = deviceReads(a, [plainRead(udpPacket({ from: '10.0.0.1', to: '10.9.1.1' }))], 2)
  expect(run).toMatchObject({ to: moved, peer: toB })
  a.engine.tick(5_500)
  expect(collect(a, 5_500).map((sent) => sent.bytes.length)).toEqual([32])
})

test('engine survives a clock that goes back', () => {
  const { a, b, both } = connectedPair()
  for (const nowMs of [5_000, 100, Number.NaN, Number.POSITIVE_INFINITY, 6_000]) {
    tickAll(both, nowMs)
    carry(both, a, deviceReads(a, [plainRead(aToB(1))], nowMs), nowMs)
  }
  expect(b.writes).toHaveLength(5)
})
