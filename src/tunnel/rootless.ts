import { systemClock } from '../base/clock.ts'
import { createNetstack, type Netstack } from './netstack.ts'
import { startPacketWorker } from './packet-worker.ts'
import { loadPlatform } from './tun/open.ts'
import type { Tunnel, TunnelConfig } from './tunnels.ts'

/** A tunnel whose packets end in this process. */
export interface RootlessConfig extends Omit<TunnelConfig, 'interfaceName' | 'singlePackets' | 'fwmark'> {
  /** Own addresses in the tunnel: `10.0.0.2`, `fd00::2`. */
  readonly addresses: readonly string[]
}

/** An open tunnel without an interface. */
export interface RootlessTunnel extends Omit<Tunnel, 'interfaceName' | 'setMtu' | 'heard'> {
  readonly net: Netstack
}

/** Opens a tunnel that needs no right: no interface, no address or route of this machine. `CONFLICT` for a taken UDP port. */
export async function openRootlessTunnel(config: RootlessConfig, signal?: AbortSignal): Promise<RootlessTunnel> {
  const { openUdp } = await loadPlatform()
  signal?.throwIfAborted()
  const { privateKey, mtuBytes } = config
  const udp = openUdp({ address: '::', port: config.listenPort })
  const worker = await startPacketWorker({ kind: 'netstack', privateKey, mtuBytes, udp: { fd: udp.fd } }, signal).catch(
    (error) => {
      udp.close()
      throw error
    },
  )
  const { control } = worker
  let isOpen = true
  const close = async () => {
    await worker.close()
    if (isOpen) udp.close()
    isOpen = false
  }
  const tunnel: RootlessTunnel = {
    net: createNetstack({ control, addresses: config.addresses, clock: systemClock }),
    listenPort: udp.port,
    failed: control.failed,
    setPeer: async (peer) => void (await control.ask({ kind: 'setPeer', peer })),
    removePeer: async (publicKey) => void (await control.ask({ kind: 'removePeer', publicKey })),
    handshake: async (publicKey, stop) => void (await control.ask({ kind: 'handshake', publicKey }, stop)),
    stats: async () => (await control.ask({ kind: 'stats' })) ?? { peers: [], counters: {} },
    close,
  }
  try {
    await control.ask({ kind: 'setGateways', gateways: config.addresses, localUdpPorts: [] })
    for (const peer of config.peers) await tunnel.setPeer(peer)
    return tunnel
  } catch (error) {
    await close()
    throw error
  }
}
