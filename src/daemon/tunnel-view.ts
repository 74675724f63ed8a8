import { addressText } from '../base/address-text.ts'
import type { NsmError } from '../base/errors.ts'
import { keyToBase64 } from '../tunnel/key-text.ts'
import type { TunnelStats } from '../tunnel/tunnels.ts'
import type { DeviceSettings } from '../tunnel/uapi-set.ts'
import { publicKeyOf } from '../tunnel/wireguard/keys.ts'
import type { TunnelPeerView, TunnelView } from './tunnel-protocol.ts'

/** What of a tunnel does not change. */
export interface TunnelFacts extends Pick<TunnelView, 'interfaceName' | 'addresses' | 'routes' | 'mtuBytes'> {
  readonly controlSocket: string | undefined
}

/** A tunnel as it is shown: its settings, and how its peers are when that can be known. */
export function tunnelView(
  { controlSocket, ...facts }: TunnelFacts,
  { privateKey, listenPort, fwmark, peers }: DeviceSettings,
  now: { readonly stats: TunnelStats | undefined; readonly error: NsmError | undefined },
): TunnelView {
  const known = new Map(now.stats?.peers.map((peer) => [peer.publicKey, peer]))
  return {
    ...facts,
    state: now.error ? 'failed' : 'up',
    publicKey: privateKey ? keyToBase64(publicKeyOf(privateKey)) : '',
    listenPort,
    ...(fwmark === 0 ? {} : { fwmark }),
    peers: peers.map((peer): TunnelPeerView => {
      const publicKey = keyToBase64(peer.publicKey)
      const stats = known.get(publicKey)
      const endpoint = stats?.endpoint ?? peer.endpoint
      const ageMs = stats?.lastHandshakeAgeMs
      return {
        publicKey,
        ...(endpoint ? { endpoint: addressText(endpoint) } : {}),
        allowedPrefixes: peer.allowedPrefixes,
        ...(ageMs === undefined ? {} : { lastHandshakeAgeMs: ageMs }),
        receivedBytes: stats?.receivedBytes ?? 0,
        sentBytes: stats?.sentBytes ?? 0,
      }
    }),
    counters: now.stats?.counters ?? {},
    ...(controlSocket === undefined ? {} : { controlSocket }),
    ...(now.error ? { error: now.error.toData() } : {}),
  }
}
