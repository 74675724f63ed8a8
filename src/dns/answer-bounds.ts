import {
  addressFromBytes,
  type IpAddress,
  type Prefix,
  parsePrefix,
  prefixContains,
  unmappedAddress,
} from '../base/ip.ts'
import type { Reply } from './classify.ts'
import { prefixFromReverseZone } from './name.ts'
import { isPrefix } from './scope.ts'
import type { Upstream } from './upstream.ts'
import { recordType } from './wire.ts'

/**
 * Which addresses answers may hold [security D4]: a service's server speaks of the service's own prefixes, and nobody else
 * speaks of them. Otherwise a public name could make a browser talk to members, or a service stand in for somebody else.
 */
export class AnswerBounds {
  readonly #granted: ReadonlyMap<Upstream, readonly Prefix[]>

  /** `granted` holds the prefixes of each service's servers; a server whose prefixes are not known may answer anything. */
  constructor(granted: ReadonlyMap<Upstream, readonly Prefix[]> = new Map()) {
    this.#granted = granted
  }

  /** True when a service's server may say this: its own addresses, and never this machine's loopback. */
  allowsOwner(reply: Reply, upstream: Upstream): boolean {
    if (reply.pointsHome) return false
    const own = this.#granted.get(upstream) ?? []
    return own.length === 0 || addressesOf(reply).every((address) => isIn(address, own))
  }

  /** True when no address of the reply belongs to a service, those of `owners` apart. */
  allowsOther(reply: Reply, owners: readonly Upstream[] = []): boolean {
    if (this.#granted.size === 0) return true
    const own = owners.flatMap((owner) => this.#granted.get(owner) ?? [])
    const all = [...this.#granted.values()].flat()
    return addressesOf(reply).every((address) => !isIn(address, all) || isIn(address, own))
  }
}

/** The prefix that a reverse scope stands for, by prefix or by zone; undefined for a domain. */
export function prefixOfScope(suffix: string): Prefix | undefined {
  return isPrefix(suffix) ? parsePrefix(suffix) : prefixFromReverseZone(suffix)
}

function isIn(address: IpAddress, prefixes: readonly Prefix[]): boolean {
  return prefixes.some((prefix) => prefixContains(prefix, address))
}

/** The addresses of the answer section; an IPv4 address in IPv6 clothes counts as what programs connect to. */
function addressesOf(reply: Reply): IpAddress[] {
  return reply.answers
    .filter(({ type, dataBytes }) => dataBytes === addressBytesOf.get(type))
    .map(({ data, dataBytes }) => unmappedAddress(addressFromBytes(reply.bytes.subarray(data, data + dataBytes))))
}

const addressBytesOf = new Map<number, number>([
  [recordType.a, 4],
  [recordType.aaaa, 16],
])
