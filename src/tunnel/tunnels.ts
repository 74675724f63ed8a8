import { NsmError } from '../base/errors.ts'
import { createTurns } from '../base/turns.ts'
import type { Request } from './control.ts'
import { type PacketWorker, startPacketWorker } from './packet-worker.ts'
import { systemError } from './sys/errno.ts'
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
  /** Of its UDP packets; without it, or 0, the program's own. Another one needs CAP_NET_ADMIN. */
  readonly fwmark?: number
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
  /** Largest packet inside: the interface's own is set by `configureInterface`. */
  setMtu(mtuBytes: number): Promise<void>
  stats(): Promise<TunnelStats>
  /** Another number each time packets of peers came in; wakes nobody. */
  heard(): number
  /** Resolves with `LOST` when the worker or the interface died by itself; the rest is freed by `close`. */
  readonly failed: Promise<NsmError>
  /** Ends everything; the interface and its routes are gone afterwards. Idempotent. */
  close(): Promise<void>
}

/** A tunnel whose key, port and mark may change while its interface stays. */
export interface RestartableTunnel extends Tunnel {
  /**
   * Starts packets anew with this key and UDP port (0 = any free one); every peer and session is gone. Throws `CONFLICT` for a
   * taken port, and then goes on with the port it had.
   */
  restart(device: Pick<TunnelConfig, 'privateKey' | 'listenPort'>): Promise<void>
  /** Marks its UDP packets from now on and leads them past the tunnels' routes; 0 is the program's own. Throws `PERMISSION`. */
  setMark(fwmark: number): Promise<void>
}

/** As `openRestartableTunnel`. */
export const openTunnel: (config: TunnelConfig, signal?: AbortSignal) => Promise<Tunnel> = (config, signal) =>
  openRestartableTunnel(config, signal)

/**
 * Opens a tunnel; its interface is up and has neither addresses nor routes. Throws `PERMISSION` without the right to
 * make a TUN interface, `CONFLICT` when the interface's name or the UDP port is taken.
 */
export async function openRestartableTunnel(config: TunnelConfig, signal?: AbortSignal): Promise<RestartableTunnel> {
  const { openTun, openUdp, applyChange, passTables } = await loadPlatform()
  signal?.throwIfAborted()
  const tun = openTun(config.interfaceName, { superPackets: !config.singlePackets })
  const tunnel = new MemberTunnel(tun, {
    openUdp,
    passTables,
    segments: !config.singlePackets,
    mtuBytes: config.mtuBytes,
  })
  try {
    await tunnel.start(config, signal)
    if (config.fwmark) await tunnel.setMark(config.fwmark)
    applyChange(tun.name, { kind: 'link', mtuBytes: config.mtuBytes, beforeBytes: 0 })
    await Promise.all(config.peers.map((peer) => tunnel.setPeer(peer)))
    return tunnel
  } catch (error) {
    await tunnel.close()
    throw error
  }
}

type Platform = Awaited<ReturnType<typeof loadPlatform>>
type Device = Pick<TunnelConfig, 'privateKey' | 'listenPort'>

interface MemberParts {
  readonly openUdp: Platform['openUdp']
  readonly passTables: Platform['passTables']
  readonly segments: boolean
  /** At first. */
  readonly mtuBytes: number
}

/** One interface for good; a UDP socket and a packet worker that may be replaced. */
class MemberTunnel implements RestartableTunnel {
  readonly interfaceName: string
  readonly failed: Promise<NsmError>
  readonly #failed = Promise.withResolvers<NsmError>()
  readonly #parts: MemberParts
  /** Of starts and the end: a thread that is being started holds the numbers of descriptors that the end closes. */
  readonly #turns = createTurns()
  #mtuBytes: number
  #fwmark = 0
  readonly #heard = new Int32Array(new SharedArrayBuffer(4))
  #tun: ReturnType<Platform['openTun']> | undefined
  #udp: ReturnType<Platform['openUdp']> | undefined
  #worker: PacketWorker | undefined

  constructor(tun: ReturnType<Platform['openTun']>, parts: MemberParts) {
    this.interfaceName = tun.name
    this.failed = this.#failed.promise
    this.#tun = tun
    this.#parts = parts
    this.#mtuBytes = parts.mtuBytes
  }

  get listenPort(): number {
    return this.#udp?.port ?? 0
  }

  start(device: Device, signal?: AbortSignal): Promise<void> {
    return this.#turns.run('device', () => this.#start(device, signal))
  }

  async #start({ privateKey, listenPort }: Device, signal?: AbortSignal): Promise<void> {
    if (!this.#tun) throw closed()
    const { fd, vnetHeader, merging } = this.#tun
    const { openUdp, segments } = this.#parts
    const mtuBytes = this.#mtuBytes
    const listen = { address: '::', port: listenPort, fwmark: this.#fwmark }
    const udp = listenPort === this.#udp?.port ? this.#udp : openUdp(listen)
    // A number that was given back may belong to another file: nobody reads the old socket when it is closed.
    await this.#worker?.close()
    if (this.#udp !== udp) this.#udp?.close()
    this.#udp = udp
    const handles = { tun: { fd, vnetHeader, merging }, udp: { fd: udp.fd, segments } }
    const heard = this.#heard
    this.#worker = await startPacketWorker({ kind: 'member', privateKey, mtuBytes, heard, ...handles }, signal)
    void this.#worker.control.failed.then((error) => this.#failed.resolve(error))
  }

  restart(device: Device): Promise<void> {
    return this.start(device)
  }

  async setMark(fwmark: number): Promise<void> {
    if (!this.#udp) throw closed()
    this.#passTables(fwmark, true)
    try {
      this.#udp.setMark(fwmark)
    } catch (error) {
      this.#passTables(fwmark, false)
      throw error
    }
    const former = this.#fwmark
    this.#fwmark = fwmark
    this.#passTables(former, false)
  }

  #passTables(fwmark: number, add: boolean): void {
    const number = fwmark === 0 ? 0 : this.#parts.passTables(fwmark, add)
    if (number !== 0) throw systemError(`ip rule ${add ? 'add' : 'del'} fwmark ${fwmark}`, number)
  }

  async setPeer(peer: PeerSettings): Promise<void> {
    await this.#ask({ kind: 'setPeer', peer })
  }

  async removePeer(publicKey: Uint8Array): Promise<void> {
    await this.#ask({ kind: 'removePeer', publicKey })
  }

  async handshake(publicKey: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.#ask({ kind: 'handshake', publicKey }, signal)
  }

  async setMtu(mtuBytes: number): Promise<void> {
    this.#mtuBytes = mtuBytes
    await this.#ask({ kind: 'setMtu', mtuBytes })
  }

  async stats(): Promise<TunnelStats> {
    return (await this.#ask({ kind: 'stats' })) ?? { peers: [], counters: {} }
  }

  heard(): number {
    return Atomics.load(this.#heard, 0)
  }

  close(): Promise<void> {
    return this.#turns.run('device', () => this.#close())
  }

  async #close(): Promise<void> {
    await this.#worker?.close()
    this.#udp?.close()
    this.#tun?.close()
    this.#udp = undefined
    this.#tun = undefined
    const mark = this.#fwmark
    this.#fwmark = 0
    this.#passTables(mark, false)
  }

  async #ask(request: Request, signal?: AbortSignal): Promise<TunnelStats | undefined> {
    if (!this.#worker) throw closed()
    return this.#worker.control.ask(request, signal)
  }
}

function closed(): NsmError {
  return new NsmError('NOT_READY', 'the tunnel is closed', 'connect again')
}
