import { NsmError } from '../../base/errors.ts'
import { addressBytes, parsePrefix } from '../../base/ip.ts'
import { addressRecordBytes, controlAt, type EngineParts, prefixesMax } from './engine-layout.ts'
import { keyBytes, requireKey } from './keys.ts'
import { readSockaddr, type SocketAddress, writeSockaddr } from './sockaddr.ts'

/** What the control plane knows about a peer. */
export interface PeerSettings {
  readonly publicKey: Uint8Array
  readonly presharedKey?: Uint8Array
  readonly keepaliveSeconds: number
  readonly endpoint?: SocketAddress
  /** Largest packet that a hub passes on to it; TCP to and from it is kept within. No limit by default. */
  readonly mtuBytes?: number
  readonly allowedPrefixes: readonly string[]
}

/** What the engine knows about a peer; bytes are those of inner packets. */
export interface PeerStats {
  readonly lastHandshakeAgeMs: number | undefined
  readonly rttMs: number | undefined
  readonly receivedBytes: number
  readonly sentBytes: number
  /** Packets from a source that is not its own. */
  readonly spoofed: number
  readonly endpoint: SocketAddress | undefined
}

/** `add_peer` answers below zero, from wasm/engine/src/abi.rs. */
const refusal = { full: -1, duplicate: -2 } as const

/** The engine's calls that change or show peers. */
export function createPeers({ exports, layout, u8 }: EngineParts) {
  const control = (from: number, bytes: number) => u8.subarray(layout.control + from, layout.control + from + bytes)
  const apply = (peer: number, settings: PeerSettings): boolean => {
    const endpoint = control(controlAt.endpoint, 32)
    if (settings.endpoint) writeSockaddr(endpoint, settings.endpoint)
    else endpoint.fill(0)
    const records = prefixRecords(settings.allowedPrefixes)
    control(controlAt.prefixes, records.length).set(records)
    return (
      exports.set_peer(peer, settings.keepaliveSeconds, settings.mtuBytes ?? 0, settings.allowedPrefixes.length) === 1
    )
  }
  return {
    addPeer(settings: PeerSettings): number | 'full' | 'duplicate' {
      writeKeys(control(0, 2 * keyBytes), settings)
      const peer = exports.add_peer(settings.presharedKey ? 1 : 0)
      control(controlAt.presharedKey, keyBytes).fill(0)
      if (peer === refusal.full) return 'full'
      if (peer === refusal.duplicate) return 'duplicate'
      if (peer < 0) throw new NsmError('USAGE', 'no peer can have this public key', 'ask the peer for its own key')
      if (apply(peer, settings)) return peer
      exports.remove_peer(peer)
      return 'full'
    },
    setPeer(peer: number, settings: PeerSettings) {
      if (apply(peer, settings)) return
      throw new NsmError('CONFLICT', 'the peer is gone or the table of allowed prefixes is full', 'remove other peers')
    },
    removePeer: (peer: number) => exports.remove_peer(peer),
    peerOf(publicKey: Uint8Array) {
      requireKey(publicKey, 'public key')
      control(controlAt.key, keyBytes).set(publicKey)
      const peer = exports.peer_of()
      return peer < 0 ? undefined : peer
    },
    setGateways(addresses: readonly string[], localUdpPorts: readonly number[]) {
      const records = prefixRecords(addresses)
      control(0, records.length).set(records)
      control(records.length, 2 * localUdpPorts.length).set(new Uint8Array(Uint16Array.from(localUdpPorts).buffer))
      exports.set_gateways(addresses.length, localUdpPorts.length)
    },
    stats(peer: number): PeerStats {
      return exports.stats(peer) === 1 ? readStats(control(0, 72)) : noStats
    },
  }
}

function writeKeys(target: Uint8Array, settings: PeerSettings): void {
  requireKey(settings.publicKey, 'public key')
  target.set(settings.publicKey)
  if (!settings.presharedKey) return
  requireKey(settings.presharedKey, 'preshared key')
  target.set(settings.presharedKey, controlAt.presharedKey)
}

/** Prefixes (or single addresses) as the engine reads them. */
function prefixRecords(prefixes: readonly string[]): Uint8Array {
  if (prefixes.length > prefixesMax) {
    throw new NsmError('USAGE', `${prefixes.length} prefixes for one peer`, `give at most ${prefixesMax}`)
  }
  const records = new Uint8Array(prefixes.length * addressRecordBytes)
  for (const [index, text] of prefixes.entries()) {
    const prefix = parsePrefix(text)
    records.set([prefix.family, prefix.length, 0, 0, ...addressBytes(prefix)], index * addressRecordBytes)
  }
  return records
}

const noStats: PeerStats = {
  lastHandshakeAgeMs: undefined,
  rttMs: undefined,
  receivedBytes: 0,
  sentBytes: 0,
  spoofed: 0,
  endpoint: undefined,
}

function readStats(raw: Uint8Array): PeerStats {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength)
  const known = (value: number) => (value < 0 ? undefined : value)
  return {
    lastHandshakeAgeMs: known(view.getFloat64(0, true)),
    rttMs: known(view.getFloat64(8, true)),
    receivedBytes: view.getFloat64(16, true),
    sentBytes: view.getFloat64(24, true),
    spoofed: view.getFloat64(32, true),
    endpoint: readSockaddr(raw.subarray(40, 72)),
  }
}
