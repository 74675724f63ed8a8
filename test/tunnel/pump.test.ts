import { beforeEach, describe, expect, test } from 'vitest'
import { MemoryNetwork } from '../../src/tunnel/udp-memory.ts'
import { addresses, ask, createMachine, createStar, joinBoth, type Star } from './machines.ts'
import { echoRequest, tcpPacket, udpPacket } from './wireguard/packets.ts'

let star: Star
beforeEach(() => {
  star = createStar(new MemoryNetwork())
  joinBoth(star)
})

/** Runs `body`; when it throws, the packets the network saw are part of the message. */
function showingFlow(body: () => void): void {
  try {
    body()
  } catch (error) {
    throw new Error(`${String(error)}\n${star.network.flow()}`, { cause: error })
  }
}

describe('two members and a hub', () => {
  test.each([
    ['IPv4', addresses.alice4, addresses.bob4],
    ['IPv6', addresses.alice6, addresses.bob6],
  ])('a packet of one member reaches the other unchanged but for its hop count (%s)', (family, from, to) => {
    const payload = Buffer.from('hello bob')
    star.alice.device.inject(udpPacket({ from, to, payload }))
    star.settle()
    showingFlow(() => {
      const [packet, ...others] = star.bob.device.takeWritten()
      expect(others).toEqual([])
      expect(Buffer.from(packet ?? []).subarray(-payload.length)).toEqual(payload)
      expect(packet?.[family === 'IPv4' ? 8 : 7]).toBe(63)
    })
  })

  test.each([
    ['IPv4', addresses.alice4, addresses.gateway4],
    ['IPv6', addresses.alice6, addresses.gateway6],
  ])('the gateway answers a ping (%s)', (_family, from, to) => {
    star.alice.device.inject(echoRequest({ from, to, payload: Buffer.alloc(56) }))
    star.settle()
    showingFlow(() => expect(star.alice.device.takeWritten()).toHaveLength(1))
  })

  test('a packet to a local port of the gateway comes out as a copy, and the answer goes back', () => {
    const { alice4: from, gateway4: to } = addresses
    const query = udpPacket({ from, to, toPort: 53, payload: Buffer.from('who is bob') })
    star.alice.device.inject(query)
    star.settle()
    const [local] = star.hub.locals
    expect(Buffer.from(local ?? [])).toEqual(query)
    const answer = udpPacket({ from: to, to: from, fromPort: 53, toPort: 40_000, payload: Buffer.from('10.64.0.3') })
    ask(star.hub, 3, { kind: 'sendLocal', packet: answer })
    star.settle()
    showingFlow(() => expect(Buffer.from(star.alice.device.takeWritten()[0] ?? [])).toEqual(answer))
  })

  test('a burst of TCP packets is one run on the wire to the hub, one run to the other member and one packet for its kernel', () => {
    const { alice4: from, bob4: to } = addresses
    const before = star.network.seen.length
    const packets = Array.from({ length: 12 }, (_, i) =>
      tcpPacket({ from, to, sequence: 1 + i * 1_000, payload: Buffer.alloc(1_000, i) }),
    )
    for (const packet of packets) star.alice.device.inject(packet)
    star.settle()
    showingFlow(() => {
      const runs = star.network.seen.slice(before).map((m) => Math.ceil(m.bytes.length / (m.segmentBytes || 1e6)))
      expect(runs).toEqual([12, 12])
      const merged = star.bob.device.takeWritten()
      expect(merged.map((packet) => packet.length)).toEqual([40 + 12_000])
    })
  })

  test('a device that takes no merged packets gets them one by one', () => {
    const { alice4: from, bob4: to } = addresses
    Object.assign(star.bob.device, { merging: { tcp: false, udp: false } })
    for (let i = 0; i < 5; i++) {
      star.alice.device.inject(tcpPacket({ from, to, sequence: 1 + i * 1_000, payload: Buffer.alloc(1_000) }))
    }
    star.settle()
    showingFlow(() => expect(star.bob.device.takeWritten()).toHaveLength(5))
  })

  test('many packets at once all arrive, however often the outputs fill up', () => {
    const { alice4: from, bob4: to } = addresses
    for (let i = 0; i < 400; i++) {
      star.alice.device.inject(udpPacket({ from, to, fromPort: 1_000 + i, payload: Buffer.alloc(100 + i) }))
    }
    star.settle()
    showingFlow(() => expect(star.bob.device.takeWritten()).toHaveLength(400))
  })

  test('packets that waited for the handshake leave when it is done', () => {
    const fresh = createStar(new MemoryNetwork())
    const { alice4: from, gateway4: to } = addresses
    fresh.alice.device.inject(echoRequest({ from, to }))
    fresh.settle()
    expect(fresh.alice.device.takeWritten()).toHaveLength(1)
  })
})

describe('Pump', () => {
  test('turn says whether anything waited', () => {
    expect(star.alice.pump.turn()).toBe(false)
    star.alice.device.inject(echoRequest({ from: addresses.alice4, to: addresses.gateway4 }))
    expect(star.alice.pump.turn()).toBe(true)
  })

  test('tick runs the timers when they are due and tells when they are again', async () => {
    expect(star.alice.pump.tick()).toBe(250)
    await star.alice.clock.advance(100)
    expect(star.alice.pump.tick()).toBe(150)
    await star.alice.clock.advance(150)
    expect(star.alice.pump.tick()).toBe(250)
  })

  test('tick runs the timers a little early when the loop is awake anyway, and is not woken for them again', async () => {
    star.alice.pump.tick()
    await star.alice.clock.advance(199)
    expect(star.alice.pump.tick()).toBe(51)
    await star.alice.clock.advance(1)
    expect(star.alice.pump.tick()).toBe(250)
  })

  test('onHeard tells of packets that came in for the device: of no handshake, no keepalive, and nothing of its own', () => {
    const before = star.alice.heard()
    star.alice.device.inject(echoRequest({ from: addresses.alice4, to: addresses.gateway4 }))
    star.alice.pump.turn()
    expect(star.alice.heard()).toBe(before)
    star.settle()
    expect(star.alice.heard()).toBe(before + 1)
    ask(star.alice, 3, { kind: 'handshake', publicKey: star.hub.publicKey })
    star.settle()
    expect(star.alice.heard()).toBe(before + 1)
  })

  test('an initiation that was lost is sent again by the timers', async () => {
    const silent = createMachine({
      kind: 'member',
      openSocket: (engine) => star.network.open({ address: '192.0.2.9', port: 1 }, engine),
    })
    const endpoint = { address: '192.0.2.200', port: 9 }
    const peer = { publicKey: star.hub.publicKey, keepaliveSeconds: 0, endpoint, allowedPrefixes: ['10.0.0.0/8'] }
    ask(silent, 1, { kind: 'setPeer', peer })
    ask(silent, 2, { kind: 'handshake', publicKey: star.hub.publicKey })
    const before = star.network.seen.length
    for (let i = 0; i < 30; i++) {
      await silent.clock.advance(250)
      silent.pump.tick()
    }
    expect(star.network.seen.slice(before).map((m) => m.to)).toContain('192.0.2.200 9')
  })

  test('a removed interface ends the loop with LOST', () => {
    star.alice.device.remove()
    expect(() => star.alice.pump.turn()).toThrow(expect.objectContaining({ code: 'LOST' }))
  })
})
