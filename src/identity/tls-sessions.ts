import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { readCertificate } from './certificate.ts'
import type { CallerAdmission } from './connection-gate.ts'
import { reasonOf, refusal, refusalReason } from './refusal.ts'
import type { IdentitySource, IdentityState, Svid } from './source.ts'
import { chainOfClient } from './tls-material.ts'
import { type PeerIdentity, verifyPeer } from './verify.ts'
import { atWallTime } from './wall-timer.ts'

/** What the connections of a server are judged by, and who takes them over. */
export interface SessionSettings {
  readonly source: IdentitySource
  /** True: a client without a certificate is handed on with `peer` undefined; false: it is cut. */
  readonly allowAnonymous: boolean
  /**
   * Takes over a connection whose handshake is finished and whose peer is verified. `own` is the SVID this peer saw,
   * also after a rotation: answers to it are signed with that key.
   */
  readonly onConnection: (socket: TLSSocket, peer: PeerIdentity | undefined, own: Svid) => void
  /** Takes over a connection of HTTP/1.1, whoever it is from; without it such a client is cut. */
  readonly onWeb?: ((socket: TLSSocket) => void) | undefined
  readonly log: Log
  readonly audit?: Audit
}

/** A connection whose handshake is not finished. */
interface Unfinished {
  /** Takes a place for a verified caller, or for one without a certificate. */
  readonly finish: (spiffeId: string | undefined) => CallerAdmission
  /** What it is shown. */
  readonly own: Svid
}

/** The connections of one server, from the first byte to the last. */
export class TlsSessions {
  readonly #settings: SessionSettings
  readonly #clock: Clock
  readonly #raw = new Set<Socket>()
  /** By remote address and port. */
  readonly #unfinished = new Map<string, Unfinished>()
  readonly #sent = new WeakMap<TLSSocket, readonly Uint8Array[]>()
  readonly #chains = new Map<TLSSocket, readonly Uint8Array[]>()
  #own: Svid

  constructor(settings: SessionSettings, clock: Clock) {
    this.#settings = settings
    this.#clock = clock
    this.#own = settings.source.current().svid
  }

  /** The SVID that the next handshakes show. */
  show({ svid }: IdentityState): void {
    this.#own = svid
  }

  /**
   * A raw connection right before TLS takes it over, which settles with which SVID; `finish` is asked at the end of the
   * handshake whether this caller has a place.
   */
  open(raw: Socket, finish: Unfinished['finish']): void {
    const key = remoteKey(raw)
    this.#raw.add(raw)
    this.#unfinished.set(key, { finish, own: this.#own })
    raw.once('close', () => {
      this.#raw.delete(raw)
      this.#unfinished.delete(key)
    })
  }

  /**
   * Reads the certificates of the client before Node does: `tls.Server` of Node 24.21 loses the intermediates before
   * `secureConnection`. Where this comes too late they are read at `accept`, and without them the peer is refused.
   */
  watch(socket: TLSSocket): void {
    socket.prependOnceListener('secure', () => void this.#sent.set(socket, chainOfClient(socket)))
  }

  /** The verdict on a finished handshake. */
  accept(socket: TLSSocket): void {
    socket.on('error', () => socket.destroy())
    try {
      if (socket.isSessionReused()) throw refusal('SVID_UNEXPECTED', 'the client resumed a session')
      if (socket.alpnProtocol !== 'h2') return void this.#welcomeWeb(socket)
      const peer = this.#identify(socket)
      const own = this.#place(socket, peer)
      if (own) this.#settings.onConnection(socket, peer, own)
    } catch (error) {
      this.#cut(socket, error)
    }
  }

  /** [RFC 5280 6] again for every open peer: a bundle that is gone takes its peers along. */
  verifyAgain({ bundles }: IdentityState): void {
    for (const [socket, chain] of [...this.#chains]) {
      try {
        verifyPeer({ chain, bundles, nowMs: this.#clock.wallMs() })
      } catch (error) {
        this.#cut(socket, error)
      }
    }
  }

  /** Cuts every connection. */
  close(): void {
    for (const raw of [...this.#raw]) raw.destroy()
  }

  /** What a browser or another domain's server wants is open to everybody: it takes the place of an anonymous caller. */
  #welcomeWeb(socket: TLSSocket): void {
    const { onWeb } = this.#settings
    if (!onWeb) throw refusal('SVID_UNEXPECTED', 'the client does not speak HTTP/2')
    if (this.#place(socket, undefined)) onWeb(socket)
  }

  #identify(socket: TLSSocket): PeerIdentity | undefined {
    const chain = this.#sent.get(socket) ?? chainOfClient(socket)
    if (chain.length === 0 && this.#settings.allowAnonymous) return undefined
    const { bundles } = this.#settings.source.current()
    const peer = verifyPeer({ chain, bundles, nowMs: this.#clock.wallMs() })
    if (!socket.authorized) {
      throw refusal('SVID_UNTRUSTED', `TLS does not vouch for ${peer.spiffeId}: ${socket.authorizationError}`)
    }
    this.#chains.set(socket, chain)
    const cancelExpiry = atWallTime(this.#clock, peer.notAfterMs, () => {
      this.#cut(socket, refusal('SVID_EXPIRED', `the certificate of ${peer.spiffeId} expired`))
    })
    socket.once('close', () => {
      cancelExpiry()
      this.#chains.delete(socket)
    })
    return peer
  }

  /** The ID that a refused peer showed, or would like to have. */
  #idOf(socket: TLSSocket): string | undefined {
    const [leaf] = this.#chains.get(socket) ?? this.#sent.get(socket) ?? []
    try {
      return leaf && readCertificate(leaf).uris[0]
    } catch {
      return undefined
    }
  }

  /** The SVID that a caller with a place was shown. One without is closed without a warning: it may be one of very many. */
  #place(socket: TLSSocket, peer: PeerIdentity | undefined): Svid | undefined {
    const key = remoteKey(socket)
    const unfinished = this.#unfinished.get(key)
    const admission = unfinished?.finish(peer?.spiffeId)
    this.#unfinished.delete(key)
    if (admission === 'admitted') return unfinished?.own
    const { remoteAddress: address } = socket
    const { log, audit = noAudit } = this.#settings
    log.debug('connection refused', { address, peer: peer?.spiffeId, reason: admission ?? 'gone' })
    const reason = admission?.toUpperCase().replaceAll('-', '_')
    if (reason !== undefined) audit.record({ event: 'peer.reject', id: peer?.spiffeId, address, reason })
    socket.destroy()
    return undefined
  }

  #cut(socket: TLSSocket, error: unknown): void {
    const { message } = toNsmError(error)
    const { remoteAddress: address } = socket
    const { log, audit = noAudit } = this.#settings
    log.warn('peer refused', { address, reason: refusalReason(error), error: message })
    audit.record({ event: 'peer.reject', id: this.#idOf(socket), address, reason: reasonOf(error) })
    socket.destroy()
  }
}

function remoteKey(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort}`
}
