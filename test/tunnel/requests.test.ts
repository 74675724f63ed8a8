import { beforeEach, describe, expect, test } from 'vitest'
import { MemoryNetwork } from '../../src/tunnel/udp-memory.ts'
import { publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'
import { addresses, ask, createStar, joinBoth, type Star } from './machines.ts'
import { echoRequest, udpPacket } from './wireguard/packets.ts'

const stranger = publicKeyOf(new Uint8Array(32).fill(7))
let star: Star
beforeEach(() => {
  star = createStar(new MemoryNetwork())
})

describe('Requests', () => {
  test('handshake is answered when the session exists and not before', () => {
    ask(star.alice, 7, { kind: 'handshake', publicKey: star.hub.publicKey })
    expect(star.alice.said).not.toContainEqual({ kind: 'answer', id: 7 })
    star.settle()
    expect(star.alice.said).toContainEqual({ kind: 'answer', id: 7 })
  })

  test('handshake with a session makes a new one', async () => {
    joinBoth(star)
    await star.alice.clock.advance(1_000)
    ask(star.alice, 8, { kind: 'handshake', publicKey: star.hub.publicKey })
    expect(star.alice.said).not.toContainEqual({ kind: 'answer', id: 8 })
    star.settle()
    expect(star.alice.said).toContainEqual({ kind: 'answer', id: 8 })
  })

  test('handshake of a peer whose keepalive is due sends one initiation, not two', () => {
    const allowedPrefixes = ['10.64.0.0/16']
    const endpoint = { address: '192.0.2.3', port: 51_820 }
    const peer = { publicKey: star.hub.publicKey, keepaliveSeconds: 25, endpoint, allowedPrefixes }
    ask(star.alice, 1, { kind: 'setPeer', peer })
    ask(star.alice, 2, { kind: 'handshake', publicKey: star.hub.publicKey })
    star.settle()
    star.alice.pump.tick()
    star.settle()
    expect(star.alice.engine.counters()).toMatchObject({ initiationsSent: 1, handshakesCompleted: 1 })
    expect(star.hub.engine.counters()).toMatchObject({ handshakesCompleted: 1 })
  })

  test('handshake with an unknown peer is NOT_FOUND', () => {
    ask(star.alice, 9, { kind: 'handshake', publicKey: stranger })
    expect(star.alice.said).toContainEqual(
      expect.objectContaining({ id: 9, error: expect.objectContaining({ code: 'NOT_FOUND' }) }),
    )
  })

  test('a cancelled handshake is never answered', () => {
    ask(star.alice, 10, { kind: 'handshake', publicKey: star.hub.publicKey })
    ask(star.alice, 11, { kind: 'cancel', requestId: 10 })
    star.settle()
    expect(star.alice.said).not.toContainEqual({ kind: 'answer', id: 10 })
  })

  test('removing a peer ends the wait for its handshake and its packets', () => {
    ask(star.alice, 12, { kind: 'handshake', publicKey: star.hub.publicKey })
    ask(star.alice, 13, { kind: 'removePeer', publicKey: star.hub.publicKey })
    expect(star.alice.said).toContainEqual(
      expect.objectContaining({ id: 12, error: expect.objectContaining({ code: 'NOT_FOUND' }) }),
    )
    star.settle()
    star.alice.device.inject(echoRequest({ from: addresses.alice4, to: addresses.gateway4 }))
    star.settle()
    expect(star.alice.device.takeWritten()).toEqual([])
  })

  test('removing a peer that is not there is fine', () => {
    ask(star.alice, 14, { kind: 'removePeer', publicKey: stranger })
    expect(star.alice.said).toContainEqual({ kind: 'answer', id: 14 })
  })

  test('setPeer for a known peer changes what it may send', () => {
    joinBoth(star)
    const moved = { publicKey: star.alice.publicKey, keepaliveSeconds: 0, allowedPrefixes: ['10.64.0.77/32'] }
    ask(star.hub, 15, { kind: 'setPeer', peer: moved })
    star.alice.device.inject(echoRequest({ from: addresses.alice4, to: addresses.gateway4 }))
    star.settle()
    expect(star.alice.device.takeWritten()).toEqual([])
    expect(star.hub.engine.counters()).toMatchObject({ spoofed: 1 })
  })

  test('stats name every peer in base64 and count packets', () => {
    joinBoth(star)
    ask(star.hub, 16, { kind: 'stats' })
    const answer = star.hub.said.find((message) => message.kind === 'answer' && message.id === 16)
    expect(answer).toMatchObject({ stats: { counters: { handshakesCompleted: 2, udpSentMessages: 2 } } })
    const keys = answer?.kind === 'answer' ? answer.stats?.peers.map((peer) => peer.publicKey) : []
    expect(keys).toEqual([star.alice, star.bob].map((m) => Buffer.from(m.publicKey).toString('base64')))
  })

  test('a key of the wrong length is answered with USAGE, and the next request is served', () => {
    const peer = { publicKey: new Uint8Array(5), keepaliveSeconds: 0, allowedPrefixes: [] }
    ask(star.hub, 17, { kind: 'setPeer', peer })
    expect(star.hub.said).toContainEqual(
      expect.objectContaining({ id: 17, error: expect.objectContaining({ code: 'USAGE' }) }),
    )
    ask(star.hub, 18, { kind: 'setGateways', gateways: ['10.9.0.1'], localUdpPorts: [] })
    expect(star.hub.said).toContainEqual({ kind: 'answer', id: 18 })
  })

  test('setMtu changes what TCP is told and what is too big, at once', () => {
    joinBoth(star)
    const big = plainPacket(1_300)
    star.alice.device.inject(big)
    star.settle()
    expect(star.bob.device.takeWritten()).toHaveLength(1)
    ask(star.alice, 20, { kind: 'setMtu', mtuBytes: 1_280 })
    star.alice.device.inject(big)
    star.settle()
    expect(star.bob.device.takeWritten()).toEqual([])
    expect(star.alice.engine.counters()['tooBig']).toBe(1)
    ask(star.alice, 21, { kind: 'setMtu', mtuBytes: 1_420 })
    star.alice.device.inject(big)
    star.settle()
    expect(star.bob.device.takeWritten()).toHaveLength(1)
  })

  test('close ends the loop', () => {
    expect(star.hub.requests.closed).toBe(false)
    ask(star.hub, 19, { kind: 'close' })
    expect(star.hub.requests.closed).toBe(true)
  })
})

/** A packet from alice to bob of so many bytes, which may not be split. */
function plainPacket(bytes: number): Uint8Array {
  return udpPacket({ from: addresses.alice4, to: addresses.bob4, payload: new Uint8Array(bytes - 28) })
}
