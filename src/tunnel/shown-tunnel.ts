import { systemClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { UapiDevice } from './device-control.ts'
import { keyToHex } from './key-text.ts'
import { errno } from './sys/errno.ts'
import { openTunnel, type Tunnel, type TunnelConfig } from './tunnels.ts'
import { getLines, handshakeMoments } from './uapi-get.ts'
import { openUapi, type UapiServer } from './uapi-server.ts'
import type { PeerSettings } from './wireguard/engine.ts'

/**
 * Opens a tunnel that wg(8) shows and may not change: its peers are the service's word. Without the right to serve the control
 * socket, or beside another one of this name, the tunnel works and is not shown.
 */
export async function openShownTunnel(config: TunnelConfig, signal?: AbortSignal): Promise<Tunnel> {
  const tunnel = await openTunnel(config, signal)
  const peers = new Map(config.peers.map((peer) => [keyToHex(peer.publicKey), peer]))
  const uapi = await openUapi(tunnel.interfaceName, deviceOf(tunnel, { config, peers })).catch(absent)
  void tunnel.failed.then(() => uapi?.close())
  return {
    interfaceName: tunnel.interfaceName,
    listenPort: tunnel.listenPort,
    failed: tunnel.failed,
    async setPeer(peer) {
      await tunnel.setPeer(peer)
      const presharedKey = peer.presharedKey ?? peers.get(keyToHex(peer.publicKey))?.presharedKey
      peers.set(keyToHex(peer.publicKey), { ...peer, ...(presharedKey ? { presharedKey } : {}) })
    },
    async removePeer(publicKey) {
      await tunnel.removePeer(publicKey)
      peers.delete(keyToHex(publicKey))
    },
    handshake: (publicKey, stop) => tunnel.handshake(publicKey, stop),
    setMtu: (mtuBytes) => tunnel.setMtu(mtuBytes),
    stats: () => tunnel.stats(),
    heard: () => tunnel.heard(),
    async close() {
      await uapi?.close()
      await tunnel.close()
    },
  }
}

interface Known {
  readonly config: TunnelConfig
  readonly peers: ReadonlyMap<string, PeerSettings>
}

function deviceOf(tunnel: Tunnel, { config, peers }: Known): UapiDevice {
  const momentOf = handshakeMoments(systemClock)
  return {
    async get() {
      const { privateKey } = config
      const device = { privateKey, listenPort: tunnel.listenPort, fwmark: 0, peers: [...peers.values()] }
      return getLines(device, await tunnel.stats(), momentOf)
    },
    set: async () => errno.EPERM,
  }
}

function absent(error: unknown): UapiServer | undefined {
  if (error instanceof NsmError) return undefined
  throw error
}
