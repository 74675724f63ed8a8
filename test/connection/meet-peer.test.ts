import { create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { isSamePeer, PeerMeeting } from '../../src/connection/meet-peer.ts'
import type { NsmLease, TunnelPeer } from '../../src/connection/wanted.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import type { Tunnel } from '../../src/tunnel/tunnels.ts'
import { FakeClock } from './fake-clock.ts'

const peer = (key: number, port = 51_820): TunnelPeer => ({
  publicKey: new Uint8Array(32).fill(key),
  address: '192.0.2.1',
  port,
})

/** A tunnel whose peers answer the handshake or do not. */
function openTunnel(answers: boolean) {
  const done: string[] = []
  const tunnel: Tunnel = {
    ...{ interfaceName: 'nsm-blue', listenPort: 1, failed: new Promise<never>(() => {}) },
    setPeer: async ({ publicKey, endpoint, allowedPrefixes, keepaliveSeconds }) =>
      void done.push(`set ${publicKey[0]} ${endpoint?.port} ${allowedPrefixes} ${keepaliveSeconds}`),
    removePeer: async (publicKey) => void done.push(`remove ${publicKey[0]}`),
    async handshake(publicKey, signal) {
      done.push(`handshake ${publicKey[0]}`)
      if (answers) return
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
    },
    setMtu: async () => {},
    stats: async () => ({ peers: [], counters: {} }),
    heard: () => 0,
    close: async () => {},
  }
  return { tunnel, done }
}

const signal = new AbortController().signal
const calm = { isHealing: false, signal }
const healing = { isHealing: true, signal }

describe('PeerMeeting', () => {
  test('gives the tunnel its peer, for every packet, and waits for its answer', async () => {
    const { tunnel, done } = openTunnel(true)
    await new PeerMeeting(new FakeClock()).meet(tunnel, { before: undefined, peer: peer(1) }, calm)
    expect(done).toEqual(['set 1 51820 0.0.0.0/0,::/0 10', 'handshake 1'])
  })

  test('takes out the peer before it when that is another, and keeps it when only its place changed', async () => {
    const { tunnel, done } = openTunnel(true)
    const meeting = new PeerMeeting(new FakeClock())
    await meeting.meet(tunnel, { before: peer(1), peer: peer(2) }, calm)
    await meeting.meet(tunnel, { before: peer(2), peer: peer(2, 7) }, calm)
    expect(done.filter((what) => !what.startsWith('handshake'))).toEqual([
      'remove 1',
      'set 2 51820 0.0.0.0/0,::/0 10',
      'set 2 7 0.0.0.0/0,::/0 10',
    ])
  })

  const waitFor = async (meeting: PeerMeeting, clock: FakeClock, how: typeof calm) => {
    const beganMs = clock.nowMs
    const { tunnel } = openTunnel(false)
    const met = meeting.meet(tunnel, { before: undefined, peer: peer(1) }, how).catch((error: unknown) => error)
    let waitedMs = 0
    void met.then(() => {
      waitedMs = clock.nowMs - beganMs
    })
    await clock.advance(20_000)
    return { error: await met, waitedMs }
  }

  test('is UNREACHABLE after 15 s without an answer, and says where it knocked', async () => {
    const clock = new FakeClock()
    const { error, waitedMs } = await waitFor(new PeerMeeting(clock), clock, calm)
    expect(waitedMs).toBe(15_000)
    expect(error).toMatchObject({
      code: 'UNREACHABLE',
      message: 'no WireGuard answer from 192.0.2.1:51820 within 15 s',
    })
  })

  test('while healing is less patient, and more with each peer that does not answer', async () => {
    const clock = new FakeClock()
    const meeting = new PeerMeeting(clock)
    const waited: number[] = []
    for (let i = 0; i < 6; i++) waited.push((await waitFor(meeting, clock, healing)).waitedMs)
    expect(waited).toEqual([1_500, 3_000, 6_000, 12_000, 15_000, 15_000])
    await meeting.meet(openTunnel(true).tunnel, { before: undefined, peer: peer(1) }, healing)
    expect((await waitFor(meeting, clock, healing)).waitedMs).toBe(1_500)
  })

  test('ends with the signal of its caller and leaves no timer', async () => {
    const clock = new FakeClock()
    const stop = new AbortController()
    const { tunnel } = openTunnel(false)
    const met = new PeerMeeting(clock)
      .meet(tunnel, { before: undefined, peer: peer(1) }, { isHealing: false, signal: stop.signal })
      .catch((error: unknown) => error)
    await clock.advance(0)
    stop.abort(new NsmError('LOST', 'over', 'nothing'))
    expect(await met).toMatchObject({ message: 'over' })
    expect(clock.nextMs()).toBeUndefined()
  })
})

describe('isSamePeer', () => {
  const lease = (of: TunnelPeer): NsmLease => ({
    ...{ refreshAtMs: 0, endpointName: '', mtuBytes: 0, expiresMs: 0, renewed: false, peer: of },
    connection: create(ConnectionSchema),
    answer: { addresses: [], endpointAddresses: [], routes: [], policies: 0, dns: [], mtuBytes: 0 },
  })
  test.each([
    ['the same', peer(1), peer(1), true],
    ['another key', peer(1), peer(2), false],
    ['another port', peer(1), peer(1, 7), false],
    ['another address', peer(1), { ...peer(1), address: '192.0.2.2' }, false],
  ])('%s', (_what, a, b, same) => {
    expect(isSamePeer(lease(a), lease(b))).toBe(same)
  })
})
