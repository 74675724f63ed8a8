import { readPart } from '../../base/parts.ts'
import {
  type Descriptors,
  type EngineLayout,
  type EngineParts,
  type InputRing,
  readCounters,
  readLayout,
} from './engine-layout.ts'
import { createPeers, type PeerSettings, type PeerStats } from './engine-peers.ts'
import { createStack, type EngineStack } from './engine-stack.ts'
import { type EngineExports, type EngineTime, instantiate } from './instance.ts'
import { keyBytes, requireKey } from './keys.ts'

export type { Descriptors, InputRing } from './engine-layout.ts'
export type { PeerSettings, PeerStats } from './engine-peers.ts'
export { type Datagram, type EngineStack, type SocketEvent, socketNews } from './engine-stack.ts'
export { clamped, generatePrivateKey, publicKeyOf } from './keys.ts'

/* Outbound: TUN -> deviceReads -> fromDevice -> sends -> UDP.   Inbound: UDP -> received -> fromNetwork -> deviceWrites -> TUN.
 * One call per burst; the host reads and writes the engine's memory, JavaScript touches no packet.
 * Outputs are borrowed: the next call overwrites them. Inputs belong to the engine until `result.more` is false. */

/**
 * 16 words of 32 bits: [0] byte offset of the data, [1] bytes, [2] segment bytes (0 = one datagram), [3] peer handle
 * (0xffff_ffff for an answer to somebody who is no peer: a cookie reply), [4] sockaddr bytes (16 or 28), [5..11] Linux sockaddr_in / sockaddr_in6, rest reserved.
 */
export const descriptorWords = 16

/** `member`: inner packets go to a TUN device. `hub`: from peer to peer. `netstack`: to a TCP/IP stack of the engine's own. */
export type EngineKind = 'member' | 'hub' | 'netstack'

/** Counts of the last call. */
export interface EngineResult {
  sends: number
  deviceWrites: number
  locals: number
  /** Outputs were full: use them, then call `drain`. */
  more: boolean
  /** Handshakes completed. */
  handshakes: number
  /** Events of sockets. */
  events: number
  /** Until the stack wants `drain`; Infinity when it waits for packets only. */
  waitMs: number
}

/** One WireGuard device: a static key, a UDP socket's worth of peers, everything done per packet. */
export interface WireGuardEngine {
  /** Never grows, so its address never changes. */
  readonly memory: WebAssembly.Memory
  readonly u8: Uint8Array
  readonly u32: Uint32Array
  /** Datagrams from the socket: word 1 = bytes, 2 = UDP_GRO segment size (0 = single), 4.. = source. */
  readonly received: InputRing
  /** Reads from the TUN device, each virtio_net_hdr (10 bytes) and packet: word 1 = bytes. Member only. */
  readonly deviceReads: InputRing
  /** Datagrams to send: contiguous, equal stride, word 2 = UDP_SEGMENT size. */
  readonly sends: Descriptors
  /** Packets for the TUN device, each virtio_net_hdr and packet. Member only. */
  readonly deviceWrites: Descriptors
  /** Raw IP packets for JavaScript. Hub only. */
  readonly locals: Descriptors
  readonly result: EngineResult
  addPeer(settings: PeerSettings): number | 'full' | 'duplicate'
  /** Changes endpoint, prefixes and keepalive; the keys stay. Throws `CONFLICT` when the prefixes do not fit. */
  setPeer(peer: number, settings: PeerSettings): void
  removePeer(peer: number): void
  peerOf(publicKey: Uint8Array): number | undefined
  /** Own addresses of a hub or a netstack, and the UDP ports of a hub that go to `locals`. */
  setGateways(addresses: readonly string[], localUdpPorts: readonly number[]): void
  /** Changes `mtuBytes` of the settings. */
  setMtu(bytes: number): void
  /** Sockets behind the own addresses; not of a member. */
  readonly stack: EngineStack
  /** Which packets may be merged for the TUN device; both at first. Kernels before 6.2 take no merged UDP. */
  setMerging(protocols: { readonly tcp: boolean; readonly udp: boolean }): void
  /** Starts a handshake, also when one is in flight. */
  handshake(peer: number, nowMs: number): void
  fromNetwork(count: number, nowMs: number): void
  fromDevice(count: number, nowMs: number): void
  /** Routes a raw IP packet made by JavaScript to its peer. */
  fromLocal(packet: Uint8Array, nowMs: number): void
  drain(nowMs: number): void
  /** Timers of all peers; call every 100 to 250 ms. */
  tick(nowMs: number): void
  stats(peer: number): PeerStats
  /** Drops by reason, handshakes, cookies: `counterNames`. */
  counters(): Record<string, number>
}

/** How to make an engine; `peersMax` is 4,096 unless given, 65,536 at most. */
export interface EngineSettings {
  /** Tested loops of the cipher to use in place of the engine's own. */
  readonly wideCipher?: WebAssembly.Module | undefined
  readonly kind: EngineKind
  readonly privateKey: Uint8Array
  readonly peersMax?: number
  /**
   * Of the TUN device. No packet is padded beyond it (without it: 1,280); larger ones are answered with ICMP, and TCP is told what
   * fits (without it: nothing is).
   */
  readonly mtuBytes?: number | undefined
}

/** Ours: about 4 KiB each when used, 0.5 while nothing was ever said. */
const defaultPeersMax = 4_096
/** Largest IP packet [RFC 791 3.1]. */
const packetBytesMax = 65_535

/** Compiles the engine from engine.wasm, beside this file or in the one-file executable. */
export async function loadEngineModule(): Promise<WebAssembly.Module> {
  return WebAssembly.compile(readPart('engine.wasm', new URL('./engine.wasm', import.meta.url)))
}

/** Starts a device; throws `USAGE` for a bad key and `BUG` when the module fails. */
export function createEngine(module: WebAssembly.Module, settings: EngineSettings): WireGuardEngine {
  const time: EngineTime = { sinceFirstMs: 0 }
  const exports = instantiate({ module, wideCipher: settings.wideCipher }, time)
  const layout = start(exports, settings)
  const { memory } = exports
  const parts = { exports, layout, u8: new Uint8Array(memory.buffer), u32: new Uint32Array(memory.buffer) }
  return {
    memory,
    u8: parts.u8,
    u32: parts.u32,
    received: layout.received,
    deviceReads: layout.deviceReads,
    sends: layout.sends,
    deviceWrites: layout.deviceWrites,
    locals: layout.locals,
    ...createBursts(parts, time),
    ...createPeers(parts),
    counters: () => readCounters(memory.buffer, layout.counters),
  }
}

/** The numbers of wasm/engine/src/abi.rs. */
const kindNumber = { member: 0, hub: 1, netstack: 2 } as const
/** What the engine says when its stack waits for packets only. */
const never = 0xffff_ffff

/** Hands the private key over and wipes the copy. */
function start(exports: EngineExports, settings: EngineSettings): EngineLayout {
  requireKey(settings.privateKey, 'private key')
  const space = new Uint8Array(exports.memory.buffer, exports.key_space(), keyBytes)
  space.set(settings.privateKey)
  const table = exports.init(kindNumber[settings.kind], settings.peersMax ?? defaultPeersMax, space.byteOffset)
  space.fill(0)
  if (settings.mtuBytes !== undefined) exports.set_mtu(settings.mtuBytes)
  return readLayout(new Uint32Array(exports.memory.buffer), table)
}

/** The calls that move packets. */
function createBursts(parts: EngineParts, time: EngineTime) {
  const { exports, layout, u8, u32 } = parts
  const result: EngineResult = {
    ...{ sends: 0, deviceWrites: 0, locals: 0, more: false, handshakes: 0 },
    ...{ events: 0, waitMs: Number.POSITIVE_INFINITY },
  }
  const at = layout.result / 4
  let firstMs: number | undefined
  const readResult = () => {
    result.sends = u32[at] ?? 0
    result.deviceWrites = u32[at + 1] ?? 0
    result.locals = u32[at + 2] ?? 0
    result.more = u32[at + 3] === 1
    result.handshakes = u32[at + 4] ?? 0
    result.events = u32[at + 5] ?? 0
    const waitMs = u32[at + 6] ?? never
    result.waitMs = waitMs === never ? Number.POSITIVE_INFINITY : waitMs
  }
  const moment = (nowMs: number) => {
    firstMs ??= nowMs
    time.sinceFirstMs = Math.max(time.sinceFirstMs, nowMs - firstMs)
    return nowMs
  }
  return {
    result,
    stack: createStack(parts, moment, readResult),
    handshake(peer: number, nowMs: number) {
      exports.handshake(peer, moment(nowMs))
      readResult()
    },
    fromNetwork(count: number, nowMs: number) {
      exports.from_network(count, moment(nowMs))
      readResult()
    },
    fromDevice(count: number, nowMs: number) {
      exports.from_device(count, moment(nowMs))
      readResult()
    },
    fromLocal(packet: Uint8Array, nowMs: number) {
      const bytes = Math.min(packet.length, packetBytesMax)
      u8.set(packet.subarray(0, bytes), layout.control)
      exports.from_local(bytes, moment(nowMs))
      readResult()
    },
    drain(nowMs: number) {
      exports.drain(moment(nowMs))
      readResult()
    },
    tick(nowMs: number) {
      exports.tick(moment(nowMs))
      readResult()
    },
    setMtu: (bytes: number) => exports.set_mtu(bytes),
    setMerging: (protocols: { readonly tcp: boolean; readonly udp: boolean }) =>
      exports.set_merging(Number(protocols.tcp), Number(protocols.udp)),
  }
}
