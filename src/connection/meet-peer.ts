import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Tunnel } from '../tunnel/tunnels.ts'
import type { NsmLease, TunnelPeer } from './wanted.ts'

/** [nsm-protocol 11.4] Keeps the way through a NAT open. */
const keepaliveSeconds = 10
/** Ours: three initiations and their answers over a slow line. */
const handshakeTimeoutMs = 15_000
/** Ours: while healing another endpoint may be better; doubled each time that nobody answers, up to the above. */
const healHandshakeMs = 1_500

/** How a lease is put in place. */
export interface Applying {
  /** The service was lost: waiting long for one endpoint keeps it away. */
  readonly isHealing: boolean
  readonly signal: AbortSignal
}

/** Makes the peer of a lease the peer of its tunnel. */
export class PeerMeeting {
  readonly #clock: Clock
  #silent = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Exchanges the peer and resolves when packets can flow to it; `UNREACHABLE` when it does not answer. */
  async meet(
    tunnel: Tunnel,
    { before, peer }: { readonly before: TunnelPeer | undefined; readonly peer: TunnelPeer },
    applying: Applying,
  ): Promise<void> {
    if (before && Buffer.compare(before.publicKey, peer.publicKey) !== 0) await tunnel.removePeer(before.publicKey)
    await tunnel.setPeer({
      publicKey: peer.publicKey,
      endpoint: { address: peer.address, port: peer.port },
      keepaliveSeconds,
      allowedPrefixes: ['0.0.0.0/0', '::/0'],
    })
    await this.#handshake(tunnel, peer, applying)
  }

  async #handshake(tunnel: Tunnel, peer: TunnelPeer, { isHealing, signal }: Applying): Promise<void> {
    const patienceMs = isHealing ? healHandshakeMs * 2 ** this.#silent : handshakeTimeoutMs
    const timeoutMs = Math.min(patienceMs, handshakeTimeoutMs)
    const late = new AbortController()
    const cancel = this.#clock.after(timeoutMs, () => late.abort(noHandshake(peer, timeoutMs)))
    this.#silent = Math.min(this.#silent + 1, silentMax)
    try {
      await tunnel.handshake(peer.publicKey, AbortSignal.any([signal, late.signal]))
      this.#silent = 0
    } finally {
      cancel()
    }
  }
}

/** Doubling this often is beyond every limit. */
const silentMax = 8

/** True when two leases name the same peer at the same place. */
export function isSamePeer(a: NsmLease | undefined, b: NsmLease): boolean {
  if (!a || Buffer.compare(a.peer.publicKey, b.peer.publicKey) !== 0) return false
  return a.peer.address === b.peer.address && a.peer.port === b.peer.port
}

function noHandshake({ address, port }: TunnelPeer, timeoutMs: number): NsmError {
  return new NsmError(
    'UNREACHABLE',
    `no WireGuard answer from ${address}:${port} within ${timeoutMs / 1_000} s`,
    'check that UDP to that address and port is let through',
  )
}
