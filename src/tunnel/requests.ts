import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { NumberedRequest, Request, WorkerMessage } from './control.ts'
import { keyToBase64 } from './key-text.ts'
import type { Pump } from './pump.ts'
import type { StackSockets } from './stack-sockets.ts'
import type { TunnelStats } from './tunnel-stats.ts'
import type { PeerSettings, WireGuardEngine } from './wireguard/engine.ts'

/** What the worker's side of the control acts on. */
export interface RequestParts {
  readonly engine: WireGuardEngine
  readonly pump: Pump
  readonly clock: Clock
  readonly say: (message: WorkerMessage) => void
  readonly sockets: Pick<StackSockets, 'handle'>
  /** Counters of device and socket. */
  readonly counters: () => Readonly<Record<string, number>>
}

/** Answers the main thread's requests beside the packets. */
export class Requests {
  /** True after a close request: the loop ends. */
  closed = false
  readonly #parts: RequestParts
  readonly #peers = new Map<string, number>()
  readonly #handshakes = new Map<number, { readonly peer: number; readonly startedMs: number }>()

  constructor(parts: RequestParts) {
    this.#parts = parts
  }

  /** Handles one request; what fails is answered, never thrown. */
  handle({ id, request }: NumberedRequest): void {
    try {
      const stats = this.#act(id, request)
      if (stats !== 'later') this.#parts.say({ kind: 'answer', id, ...(stats ? { stats } : {}) })
    } catch (error) {
      this.#parts.say({ kind: 'answer', id, error: toNsmError(error).toData() })
    }
  }

  /** Answers the handshakes that were waited for; call it when the engine completed some. */
  answerHandshakes(): void {
    const nowMs = this.#parts.clock.monotonicMs()
    for (const [id, { peer, startedMs }] of this.#handshakes) {
      const ageMs = this.#parts.engine.stats(peer).lastHandshakeAgeMs
      if (ageMs === undefined || ageMs > nowMs - startedMs + engineClockAheadMs) continue
      this.#handshakes.delete(id)
      this.#parts.say({ kind: 'answer', id })
    }
  }

  #act(id: number, request: Request): TunnelStats | undefined | 'later' {
    const { engine, pump, clock } = this.#parts
    switch (request.kind) {
      case 'setPeer':
        return this.#setPeer(request.peer)
      case 'removePeer':
        return this.#removePeer(request.publicKey)
      case 'handshake':
        return this.#handshake(id, request.publicKey)
      case 'cancel':
        this.#handshakes.delete(request.requestId)
        return undefined
      case 'setGateways':
        engine.setGateways(request.gateways, request.localUdpPorts)
        return undefined
      case 'setMtu':
        engine.setMtu(request.mtuBytes)
        return undefined
      case 'sendLocal':
        engine.fromLocal(request.packet, clock.monotonicMs())
        pump.deliver()
        return 'later'
      case 'stack':
        this.#parts.sockets.handle(request.command)
        // What becomes of a socket is told as its news.
        return request.command.act === 'listen' ? undefined : 'later'
      case 'stats':
        return this.#stats()
      case 'close':
        this.closed = true
        return undefined
    }
  }

  #setPeer(peer: PeerSettings): undefined {
    const { engine } = this.#parts
    const known = engine.peerOf(peer.publicKey)
    if (known !== undefined) return void engine.setPeer(known, peer)
    const added = engine.addPeer(peer)
    if (added === 'full') throw new NsmError('REFUSED', 'no room for another peer', 'wait until a member leaves')
    if (added === 'duplicate') throw new NsmError('CONFLICT', 'the peer is there already', 'use another key')
    this.#peers.set(keyToBase64(peer.publicKey), added)
  }

  #removePeer(publicKey: Uint8Array): undefined {
    const peer = this.#peers.get(keyToBase64(publicKey))
    if (peer === undefined) return
    this.#parts.engine.removePeer(peer)
    this.#peers.delete(keyToBase64(publicKey))
    for (const [id, waiting] of this.#handshakes) {
      if (waiting.peer !== peer) continue
      this.#handshakes.delete(id)
      this.#parts.say({ kind: 'answer', id, error: unknownPeer().toData() })
    }
  }

  /**
   * The timers run behind it: a keepalive that is due then finds the handshake in flight and starts no second one, and
   * the engine tells a session's age from its last tick on.
   */
  #handshake(id: number, publicKey: Uint8Array): 'later' {
    const { engine, pump, clock } = this.#parts
    const peer = this.#peers.get(keyToBase64(publicKey))
    if (peer === undefined) throw unknownPeer()
    const startedMs = clock.monotonicMs()
    this.#handshakes.set(id, { peer, startedMs })
    engine.handshake(peer, startedMs)
    pump.deliver()
    engine.tick(startedMs)
    pump.deliver()
    return 'later'
  }

  #stats(): TunnelStats {
    const { engine, counters } = this.#parts
    const peers = [...this.#peers].map(([publicKey, peer]) => ({ ...engine.stats(peer), publicKey }))
    return { peers, counters: { ...engine.counters(), ...counters() } }
  }
}

/** The engine moves its clock a microsecond per handshake, so that no two carry the same stamp. */
const engineClockAheadMs = 1

function unknownPeer(): NsmError {
  return new NsmError('NOT_FOUND', 'the tunnel has no such peer', 'add the peer first')
}
