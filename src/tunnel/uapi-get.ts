import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import { keyToBase64, keyToHex } from './key-text.ts'
import type { TunnelPeerStats, TunnelStats } from './tunnel-stats.ts'
import type { DeviceSettings } from './uapi-set.ts'
import type { PeerSettings } from './wireguard/engine.ts'

/** Wall clock milliseconds of a peer's last handshake; 0 when there was none. */
export type HandshakeMoment = (peer: Pick<TunnelPeerStats, 'publicKey' | 'lastHandshakeAgeMs'>) => number

/**
 * The lines that answer a `get=1` request, without the closing `errno`: settings, and how each peer is. Bytes are those of
 * inner packets; other implementations count the outer ones. `momentOf` tells when a peer's last handshake was, wall clock.
 */
export function getLines(device: DeviceSettings, stats: TunnelStats, momentOf: HandshakeMoment): string[] {
  const known = new Map(stats.peers.map((peer) => [peer.publicKey, peer]))
  return [
    ...(device.privateKey ? [`private_key=${keyToHex(device.privateKey)}`] : []),
    `listen_port=${device.listenPort}`,
    ...(device.fwmark === 0 ? [] : [`fwmark=${device.fwmark}`]),
    ...device.peers.flatMap((peer) => peerLines(peer, known.get(keyToBase64(peer.publicKey)), momentOf)),
  ]
}

/** The engine tells ages at its ticks: the same handshake is told as the same moment each time. */
export function handshakeMoments(clock: Pick<Clock, 'wallMs'>): HandshakeMoment {
  const told = new Map<string, number>()
  return ({ publicKey, lastHandshakeAgeMs: ageMs }) => {
    if (ageMs === undefined) return 0
    const before = told.get(publicKey)
    const momentMs = clock.wallMs() - ageMs
    const isSame = before !== undefined && Math.abs(momentMs - before) < sameHandshakeMs
    if (!isSame) told.set(publicKey, momentMs)
    return isSame ? before : momentMs
  }
}

/** Ours: handshakes are 5 s apart at least [WG 6.1], ticks 250 ms. */
const sameHandshakeMs = 2_000

function peerLines(peer: PeerSettings, stats: TunnelPeerStats | undefined, momentOf: HandshakeMoment): string[] {
  const endpoint = stats?.endpoint ?? peer.endpoint
  const handshakeMs = stats ? momentOf(stats) : 0
  return [
    `public_key=${keyToHex(peer.publicKey)}`,
    `preshared_key=${peer.presharedKey ? keyToHex(peer.presharedKey) : '0'.repeat(64)}`,
    'protocol_version=1',
    ...(endpoint ? [`endpoint=${addressText(endpoint)}`] : []),
    `last_handshake_time_sec=${Math.floor(handshakeMs / 1_000)}`,
    `last_handshake_time_nsec=${Math.floor(handshakeMs % 1_000) * 1_000_000}`,
    `tx_bytes=${stats?.sentBytes ?? 0}`,
    `rx_bytes=${stats?.receivedBytes ?? 0}`,
    `persistent_keepalive_interval=${peer.keepaliveSeconds}`,
    ...peer.allowedPrefixes.map((prefix) => `allowed_ip=${prefix}`),
  ]
}
