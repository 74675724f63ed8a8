import { describe, expect, test } from 'vitest'
import type { TunDevice } from '../../src/tunnel/tun/device.ts'
import type { UdpSocket } from '../../src/tunnel/udp.ts'
import {
  createEngine,
  descriptorWords,
  generatePrivateKey,
  loadEngineModule,
  type WireGuardEngine,
} from '../../src/tunnel/wireguard/engine.ts'
import { writeSockaddr } from '../../src/tunnel/wireguard/sockaddr.ts'

const module = await loadEngineModule()

/** An engine whose memory a device or socket is tested on; nothing is sealed here. */
export function testMemory(): WireGuardEngine {
  return createEngine(module, { kind: 'member', privateKey: generatePrivateKey() })
}

/** One end of a socket pair. */
export interface SocketEnd {
  readonly socket: UdpSocket
  readonly memory: WireGuardEngine
  readonly at: { readonly address: string; readonly port: number }
}

/** Every UdpSocket passes this. `wait` lets what was sent arrive. */
export function udpContract(
  name: string,
  plan: { openPair: () => [SocketEnd, SocketEnd]; close: () => void; joinsSegments: boolean },
): void {
  const { openPair } = plan
  describe(`UdpSocket (${name})`, () => {
    test('a datagram arrives unchanged, with the address of its sender', () => {
      const [a, b] = openPair()
      send(a, b.at, Buffer.from('hello'))
      const [message] = receive(b)
      expect(message?.bytes.toString()).toBe('hello')
      expect(message?.from).toEqual(a.at)
      plan.close()
    })

    test('nothing waits: receive gives 0 at once', () => {
      const [a] = openPair()
      expect(a.socket.receive(a.memory.received)).toBe(0)
      plan.close()
    })

    test('a run of equal datagrams arrives whole and in order, the last one shorter', () => {
      const [a, b] = openPair()
      const run = Buffer.concat([0, 1, 2].map((i) => Buffer.alloc(1_200, i)).concat(Buffer.alloc(700, 3)))
      send(a, b.at, run, 1_200)
      const messages = receive(b)
      expect(Buffer.concat(messages.map((m) => m.bytes)).equals(run)).toBe(true)
      expect(messages.flatMap(datagramSizes)).toEqual([1_200, 1_200, 1_200, 700])
      if (plan.joinsSegments) expect(messages).toHaveLength(1)
      expect(a.socket.counters()).toMatchObject({ udpSentMessages: 1, udpSentSegments: 4 })
      plan.close()
    })

    test('a message with no receiver is no failure', () => {
      const [a] = openPair()
      send(a, { address: '127.0.0.1', port: 9 }, Buffer.from('anybody?'))
      expect(a.socket.receive(a.memory.received)).toBe(0)
      plan.close()
    })
  })
}

/** Sends one message; bytes of a segment make it a run. */
export function send(from: SocketEnd, to: SocketEnd['at'], bytes: Uint8Array, segmentBytes = 0): void {
  const { u8, u32, received, sends } = from.memory
  const start = u32[received.offset / 4] ?? 0
  u8.set(bytes, start)
  u32.set([start, bytes.length, segmentBytes, 0], sends.offset / 4)
  writeSockaddr(u8.subarray(sends.offset + 16, sends.offset + 48), to)
  from.socket.send(sends, 1)
}

/** What waits at a socket. */
export function receive({ socket, memory }: SocketEnd) {
  const count = socket.receive(memory.received)
  return Array.from({ length: count }, (_, i) => {
    const at = memory.received.offset / 4 + i * descriptorWords
    const [start = 0, length = 0, segmentBytes = 0] = memory.u32.subarray(at, at + 3)
    const port = Buffer.from(memory.u8.slice(at * 4 + 22, at * 4 + 24)).readUInt16BE()
    const v4 = (memory.u32[at + 4] ?? 0) === 16
    const address = v4 ? [...memory.u8.subarray(at * 4 + 24, at * 4 + 28)].join('.') : 'IPv6'
    return { bytes: Buffer.from(memory.u8.slice(start, start + length)), segmentBytes, from: { address, port } }
  })
}

function datagramSizes({ bytes, segmentBytes }: { bytes: Uint8Array; segmentBytes: number }): number[] {
  const step = segmentBytes || bytes.length
  return Array.from({ length: Math.ceil(bytes.length / step) }, (_, i) => Math.min(step, bytes.length - i * step))
}

/** A device under test: `inject` is what the machine sends, `takeWritten` what it receives. */
export interface DeviceUnderTest {
  readonly device: TunDevice
  readonly memory: WireGuardEngine
  inject(packet: Uint8Array): Promise<void> | void
  takeWritten(): Promise<Uint8Array[]> | Uint8Array[]
  remove(): Promise<void> | void
  close(): Promise<void> | void
}

/** Every TunDevice passes this. */
export function tunContract(name: string, open: () => Promise<DeviceUnderTest>, packet: () => Uint8Array): void {
  describe(`TunDevice (${name})`, () => {
    test('a packet of the machine is read unchanged behind an empty virtio_net_hdr', async () => {
      const under = await open()
      await under.inject(packet())
      const { u8, u32, deviceReads } = under.memory
      expect(under.device.receive(deviceReads)).toBe(1)
      const [start = 0, bytes = 0] = u32.subarray(deviceReads.offset / 4, deviceReads.offset / 4 + 2)
      expect(Buffer.from(u8.slice(start + 10, start + bytes))).toEqual(Buffer.from(packet()))
      expect(u8[start + 1]).toBe(0)
      expect(under.device.receive(deviceReads)).toBe(0)
      await under.close()
    })

    test('a packet written reaches the machine unchanged', async () => {
      const under = await open()
      const { u8, u32, deviceReads, deviceWrites } = under.memory
      const start = u32[deviceReads.offset / 4] ?? 0
      u8.fill(0, start, start + 10)
      u8.set(packet(), start + 10)
      u32.set([start, packet().length + 10], deviceWrites.offset / 4)
      under.device.send(deviceWrites, 1)
      expect((await under.takeWritten()).map((bytes) => Buffer.from(bytes))).toEqual([Buffer.from(packet())])
      expect(under.device.counters()).toMatchObject({ deviceWrites: 1, deviceWriteErrors: 0 })
      await under.close()
    })

    test('when the interface is removed, receive throws LOST', async () => {
      const under = await open()
      await under.remove()
      expect(() => under.device.receive(under.memory.deviceReads)).toThrow(expect.objectContaining({ code: 'LOST' }))
      await under.close()
    })
  })
}
