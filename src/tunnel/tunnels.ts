import type { NsmError } from '../base/errors.ts'
import { type PacketWorker, startPacketWorker } from './packet-worker.ts'
import { loadPlatform } from './tun/open.ts'
import type { TunnelStats } from './tunnel-stats.ts'
import type { PeerSettings } from './wireguard/engine.ts'

/** Call it when a tunnel will be wanted soon: opening it then takes 30 ms, not 200. */
export { preparePacketWorker as prepareTunnel } from './packet-worker.ts'
export type { TunnelStats } from './tunnel-stats.ts'
export type { PeerSettings as PeerConfig } from './wireguard/engine.ts'

/** A member's tunnel. */
export interface TunnelConfig {
  /** At most 15 bytes. */
  readonly interfaceName: string
  readonly privateKey: Uint8Array
  /** UDP, both families; 0 = any free one. */
  readonly listenPort: number
  readonly mtuBytes: number
  readonly peers: readonly PeerSettings[]
  /** Uses neither super-packets nor segmentation, as on a system that has none; some ten times the cost per byte. */
  readonly singlePackets?: boolean
}

/** An open tunnel: one interface, one UDP socket, one thread. */
export interface Tunnel {
  readonly interfaceName: string
  readonly listenPort: number
  /** Adds a peer or changes endpoint, prefixes and keepalive of one; its keys stay. */
  setPeer(peer: PeerSettings): Promise<void>
  /** A peer that is not there is fine. */
  removePeer(publicKey: Uint8Array): Promise<void>
  /** Starts a handshake and resolves when its session exists; `NOT_FOUND` for no peer. */
  handshake(publicKey: Uint8Array, signal: AbortSignal): Promise<void>
  stats(): Promise<TunnelStats>
  /** Resolves with `LOST` when the worker or the interface died by itself; the rest is freed by `close`. */
  readonly failed: Promise<NsmError>
  /** Ends everything; the interface and its routes are gone afterwards. Idempotent. */
  close(): Promise<void>
}

/**
 * Opens a tunnel; its interface is up and has neither addresses nor routes. Throws `PERMISSION` without the right to
 * make a TUN interface, `CONFLICT` when the interface's name or the UDP port is taken.
 */
export async function openTunnel(config: TunnelConfig, signal?: AbortSignal): Promise<Tunnel> {
  const { openTun, openUdp, applyChange } = await loadPlatform()
  signal?.throwIfAborted()
  const tun = openTun(config.interfaceName, { superPackets: !config.singlePackets })
  const opened: { close(): void }[] = [tun]
  try {
    const udp = openUdp({ address: '::', port: config.listenPort })
    opened.push(udp)
    applyChange(tun.name, { kind: 'link', mtuBytes: config.mtuBytes, beforeBytes: 0 })
    const handles = {
      tun: { fd: tun.fd, vnetHeader: tun.vnetHeader, merging: tun.merging },
      udp: { fd: udp.fd, segments: !config.singlePackets },
    }
    const worker = await startPacketWorker({ kind: 'member', privateKey: config.privateKey, ...handles }, signal)
    const tunnel = createTunnel(worker, { interfaceName: tun.name, listenPort: udp.port, opened })
    await Promise.all(config.peers.map((peer) => tunnel.setPeer(peer))).catch(async (error) => {
      await tunnel.close()
      throw error
    })
    return tunnel
  } catch (error) {
    closeAll(opened)
    throw error
  }
}

interface Opened {
  readonly interfaceName: string
  readonly listenPort: number
  readonly opened: { close(): void }[]
}

function createTunnel({ control, close }: PacketWorker, { interfaceName, listenPort, opened }: Opened): Tunnel {
  return {
    interfaceName,
    listenPort,
    failed: control.failed,
    setPeer: async (peer) => void (await control.ask({ kind: 'setPeer', peer })),
    removePeer: async (publicKey) => void (await control.ask({ kind: 'removePeer', publicKey })),
    handshake: async (publicKey, signal) => void (await control.ask({ kind: 'handshake', publicKey }, signal)),
    stats: async () => (await control.ask({ kind: 'stats' })) ?? { peers: [], counters: {} },
    async close() {
      await close()
      closeAll(opened)
    },
  }
}

/** Closes each once: a number that was given back may belong to another file. */
function closeAll(opened: { close(): void }[]): void {
  for (const resource of opened.splice(0)) resource.close()
}
