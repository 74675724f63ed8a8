import { systemClock } from '../base/clock.ts'
import type { NsmError } from '../base/errors.ts'
import { createNetstack, type Netstack } from './netstack.ts'
import { startPacketWorker } from './packet-worker.ts'
import { loadPlatform } from './tun/open.ts'
import type { TunnelStats } from './tunnel-stats.ts'
import type { PeerSettings } from './wireguard/engine.ts'

/** A hub: WireGuard peers and the way between them, in this process alone; no root, no interface. */
export interface HubConfig {
  readonly privateKey: Uint8Array
  /** `::` for both families. */
  readonly listenAddress: string
  /** UDP; 0 = any free one. */
  readonly listenPort: number
  /** The hub's own addresses inside the network; they answer pings. */
  readonly gateways: readonly string[]
  /** UDP ports of the gateways whose packets go to `onLocalPacket`. */
  readonly localUdpPorts: readonly number[]
  /** A raw IP packet from a member to one of those ports; a copy that may be kept. */
  readonly onLocalPacket: (packet: Uint8Array) => void
}

/** An open hub. */
export interface Hub {
  readonly listenPort: number
  /** Adds a peer or changes endpoint, prefixes and keepalive of one; its keys stay. */
  setPeer(peer: PeerSettings): Promise<void>
  removePeer(publicKey: Uint8Array): Promise<void>
  /** Starts a handshake, also when there is a session, and resolves when its session exists; `NOT_FOUND` for no peer. */
  handshake(publicKey: Uint8Array, signal: AbortSignal): Promise<void>
  /** Takes TCP connections to a port of the gateways; `CONFLICT` when it is taken. */
  readonly listenTcp: Netstack['listen']
  /** Sends a raw IP packet of the hub's own to the member it is for; lost when there is none. */
  sendLocal(packet: Uint8Array): void
  setGateways(gateways: readonly string[]): Promise<void>
  stats(): Promise<TunnelStats>
  /** Resolves with `LOST` when the worker died by itself. */
  readonly failed: Promise<NsmError>
  /** Ends everything; idempotent. */
  close(): Promise<void>
}

/** Opens a hub; throws `CONFLICT` when the UDP port is taken. */
export async function openHub(config: HubConfig, signal?: AbortSignal): Promise<Hub> {
  const { openUdp } = await loadPlatform()
  signal?.throwIfAborted()
  const udp = openUdp({ address: config.listenAddress, port: config.listenPort })
  const { privateKey, onLocalPacket: onLocal, localUdpPorts } = config
  const worker = await startPacketWorker({ kind: 'hub', privateKey, udp: { fd: udp.fd }, onLocal }, signal).catch(
    (error) => {
      udp.close()
      throw error
    },
  )
  const { control } = worker
  const net = createNetstack({ control, addresses: config.gateways, clock: systemClock })
  const setGateways = async (gateways: readonly string[]) =>
    void (await control.ask({ kind: 'setGateways', gateways, localUdpPorts }))
  let open = true
  const close = async () => {
    await worker.close()
    if (open) udp.close()
    open = false
  }
  await setGateways(config.gateways).catch(async (error) => {
    await close()
    throw error
  })
  return {
    listenPort: udp.port,
    failed: control.failed,
    setPeer: async (peer) => void (await control.ask({ kind: 'setPeer', peer })),
    removePeer: async (publicKey) => void (await control.ask({ kind: 'removePeer', publicKey })),
    handshake: async (publicKey, signal) => void (await control.ask({ kind: 'handshake', publicKey }, signal)),
    listenTcp: (port, onConnection) => net.listen(port, onConnection),
    sendLocal: (packet) => control.tell({ kind: 'sendLocal', packet }),
    setGateways,
    stats: async () => (await control.ask({ kind: 'stats' })) ?? { peers: [], counters: {} },
    close,
  }
}
