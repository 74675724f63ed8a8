import type { Audit } from '../base/audit.ts'
import type { TunnelStats } from '../tunnel/tunnels.ts'

/** What a look at the hub's counts is told to. */
export interface HubWatchParts {
  readonly service: string
  readonly audit: Audit
  /** Whose a WireGuard key (base64) is. */
  readonly idOf: (publicKey: string) => string | undefined
}

/**
 * Records what happened at the hub between two looks: when it began and ceased to ask for cookies, and which members sent from
 * addresses that are not theirs, how often [security 9]. It has no timer, and costs nothing per packet.
 */
export class HubWatch {
  readonly #parts: HubWatchParts
  #refused = 0
  #isUnderLoad = false
  #spoofed = 0
  /** By key; only of those that did. */
  #spoofedBy = new Map<string, number>()

  constructor(parts: HubWatchParts) {
    this.#parts = parts
  }

  look({ peers, counters }: TunnelStats): void {
    this.#lookAtLoad((counters['cookiesSent'] ?? 0) + (counters['sourceLimited'] ?? 0))
    this.#lookAtSources(
      peers.filter(({ spoofed }) => spoofed > 0),
      counters['spoofed'] ?? 0,
    )
  }

  #lookAtLoad(refused: number): void {
    const count = refused - this.#refused
    this.#refused = refused
    if (this.#isUnderLoad === count > 0) return
    this.#isUnderLoad = count > 0
    const { audit, service } = this.#parts
    audit.record({ event: `wg.underload.${count > 0 ? 'on' : 'off'}`, service, ...(count > 0 ? { count } : {}) })
  }

  /** What nobody here did was done by members that are gone. */
  #lookAtSources(peers: TunnelStats['peers'], spoofed: number): void {
    const { audit, service, idOf } = this.#parts
    let left = spoofed - this.#spoofed
    for (const { publicKey, spoofed: now } of peers) {
      const before = this.#spoofedBy.get(publicKey) ?? 0
      // A peer that was made anew counts from 0.
      const count = now < before ? now : now - before
      left -= count
      if (count > 0) audit.record({ event: 'wg.spoof', id: idOf(publicKey), service, publicKey, count })
    }
    if (left > 0) audit.record({ event: 'wg.spoof', service, reason: 'by members that have left', count: left })
    this.#spoofed = spoofed
    this.#spoofedBy = new Map(peers.map(({ publicKey, spoofed: count }) => [publicKey, count]))
  }
}
