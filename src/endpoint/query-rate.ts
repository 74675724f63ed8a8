import { addressBytes, type IpAddress } from '../base/ip.ts'

/** Ours: questions of one member in a second; a busy resolver asks a tenth of it, and ten such members cost one core. */
export const queriesPerSecondMax = 500

const windowMs = 1_000

/**
 * Bounds what one member can make the gateway do [security D5]. A member speaks only from its own addresses, because the
 * hub drops everything else, so there are never more entries than addresses.
 */
export class QueryRate {
  readonly #counts = new Map<string, number>()
  #startedMs = Number.NEGATIVE_INFINITY

  /** True when the sender of this raw IP packet may ask once more; `nowMs` is monotonic. */
  allows(packet: Uint8Array, nowMs: number): boolean {
    return this.#allows(sourceOf(packet), nowMs)
  }

  /** As `allows`, for a question that came another way. */
  allowsFrom(source: IpAddress, nowMs: number): boolean {
    return this.#allows(Buffer.from(addressBytes(source)).toString('latin1'), nowMs)
  }

  #allows(source: string, nowMs: number): boolean {
    if (nowMs - this.#startedMs >= windowMs) {
      this.#counts.clear()
      this.#startedMs = nowMs
    }
    const count = (this.#counts.get(source) ?? 0) + 1
    this.#counts.set(source, count)
    return count <= queriesPerSecondMax
  }
}

/** The source address as bytes in text. [RFC 791 3.1, RFC 8200 3] */
function sourceOf(packet: Uint8Array): string {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4
  return Buffer.from(isIpv4 ? packet.subarray(12, 16) : packet.subarray(8, 24)).toString('latin1')
}
