import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { formatPrefix, parseAddress, parsePrefix, prefixCovers, prefixesOverlap } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import type { Hub } from '../tunnel/hub.ts'
import { buildEchoRequest } from '../tunnel/ip-packet.ts'
import type { AddressPlan } from './addresses.ts'
import { fromBase64, reported } from './lease-parts.ts'
import type { UnderlayAddress } from './members.ts'
import type { NameSite } from './site-names.ts'
import { SiteWatch } from './site-watch.ts'

/** Another site of the same vL3, as the hub has it. */
export interface SiteLink {
  readonly spiffeId: string
  /** Name of the other endpoint. */
  readonly endpointName: string
  /** The dialing side's id of the connection. */
  readonly connectionId: string
  /** Our id of the connection. */
  readonly segmentId: string
  /** WireGuard public key, base64. */
  readonly publicKey: string
  /** Its own addresses, without length. */
  readonly gateways: readonly string[]
  /** Addresses, without length, at which it answers for names. */
  readonly nameServers: readonly string[]
  /** All that lies behind it: exactly what it may send from. */
  readonly prefixes: readonly string[]
  readonly underlay: UnderlayAddress | undefined
  /** Wall milliseconds. */
  readonly expiresMs: number
}

/** What links act on. */
export interface SiteLinksParts {
  readonly hub: Pick<Hub, 'setPeer' | 'removePeer' | 'handshake' | 'sendLocal' | 'stats'>
  readonly plan: AddressPlan
  /** False: these prefixes are not that site's. */
  readonly mayHold: (spiffeId: string, prefixes: readonly string[]) => boolean
  readonly clock: Clock
  readonly log: Log
}

/** Ours: parts of one site, as many as the prefix service gives. */
const prefixesMax = 128
/** Ours: as for members; both sides send, so a NAT on either side stays open. */
const keepaliveSeconds = 25

/** What one link may have concerns all others. */
const allLinks = 'links'

/** The links of this site; each ends with its lease unless it is put again. One change runs after the other. */
export class SiteLinks {
  readonly #parts: SiteLinksParts
  readonly #links = new Map<string, SiteLink>()
  readonly #timers = new Map<string, () => void>()
  readonly #watch: SiteWatch
  readonly #turns = createTurns()

  constructor(parts: SiteLinksParts) {
    this.#parts = parts
    const { hub, plan, clock, log } = parts
    this.#watch = new SiteWatch({ hub, sites: () => this.all(), gateways: plan.gateways, clock, log })
  }

  /** All live links. */
  all(): readonly SiteLink[] {
    return [...this.#links.values()]
  }

  /** The other sites as places of names. */
  nameSites(): readonly NameSite[] {
    return this.all().map(({ nameServers, publicKey }) => ({
      nameServers,
      presence: this.#watch.presenceOf(publicKey),
    }))
  }

  /** The link with this WireGuard key. */
  byKey(publicKey: string): SiteLink | undefined {
    return this.#links.get(publicKey)
  }

  /** The link with the endpoint of this name. */
  withEndpoint(endpointName: string): SiteLink | undefined {
    return this.all().find((link) => link.endpointName === endpointName)
  }

  /** The link behind our own connection id. */
  bySegment(segmentId: string): SiteLink | undefined {
    return this.all().find((link) => link.segmentId === segmentId)
  }

  /**
   * Makes or renews a link; the WireGuard peer is live when it resolves. `asked`: the other side has answered, so it knows
   * us, and we shake hands at once; who has not answered yet would not know the key, and if it did, both handshakes would
   * cross. `isFresh`: the other side may have started anew, so the session of a link that is there begins again.
   * Throws `REFUSED`.
   */
  put(link: SiteLink, asked?: { readonly isFresh: boolean }): Promise<void> {
    return this.#turns.run(allLinks, async () => {
      this.#check(link)
      for (const other of this.all()) if (isReplacedBy(other, link)) await this.#remove(other, 'replaced')
      const before = this.#links.get(link.publicKey)
      const isFresh = asked?.isFresh === true
      const isNew = before === undefined || before.connectionId !== link.connectionId
      const hasMoved = isNew || isFresh || !isSamePlace(before.underlay, link.underlay)
      if (before && isFresh) await this.#parts.hub.removePeer(fromBase64(link.publicKey))
      if (hasMoved || before.prefixes.join() !== link.prefixes.join()) await this.#apply(link, hasMoved)
      this.#links.set(link.publicKey, link)
      this.#arm(link)
      if (isNew) this.#say('a site was linked', link)
      if (hasMoved && asked) this.#wake(link)
      this.#watch.begin()
    })
  }

  /** Ends a link and its routes; one that was replaced meanwhile is left alone. */
  remove(link: SiteLink, why: string): Promise<void> {
    return this.#turns.run(allLinks, async () => {
      const present = this.#links.get(link.publicKey)
      if (present?.connectionId === link.connectionId) await this.#remove(present, why)
    })
  }

  /** Makes the hub shake hands with the site at once, where it knows its address. */
  #wake(link: SiteLink): void {
    for (const text of link.gateways) {
      const destination = parseAddress(text)
      const source = this.#parts.plan.gateways.find(({ family }) => family === destination.family)
      if (source) this.#parts.hub.sendLocal(buildEchoRequest({ source, destination }))
    }
  }

  /** Stops the timers. */
  stop(): void {
    this.#watch.stop()
    for (const cancel of this.#timers.values()) cancel()
    this.#timers.clear()
  }

  async #apply(link: SiteLink, hasMoved: boolean): Promise<void> {
    await this.#parts.hub.setPeer({
      publicKey: fromBase64(link.publicKey),
      keepaliveSeconds,
      allowedPrefixes: link.prefixes,
      ...(hasMoved && link.underlay && { endpoint: link.underlay }),
    })
  }

  async #remove(link: SiteLink, why: string): Promise<void> {
    this.#timers.get(link.publicKey)?.()
    this.#timers.delete(link.publicKey)
    this.#links.delete(link.publicKey)
    await this.#parts.hub.removePeer(fromBase64(link.publicKey)).catch(reported(this.#parts.log))
    this.#say('a site was unlinked', link, why)
  }

  #arm(link: SiteLink): void {
    this.#timers.get(link.publicKey)?.()
    const { clock, log } = this.#parts
    const expire = () => this.remove(link, 'expired').catch(reported(log))
    this.#timers.set(
      link.publicKey,
      clock.after(Math.max(0, link.expiresMs - clock.wallMs()), () => void expire()),
    )
  }

  /** What a site says lies behind it may not reach into ours, into another site's, or beyond the vL3. */
  #check(link: SiteLink): void {
    const { plan, mayHold } = this.#parts
    const prefixes = link.prefixes.map(parsePrefix)
    const isCount = prefixes.length > 0 && prefixes.length <= prefixesMax
    if (!isCount || !mayHold(link.spiffeId, link.prefixes)) throw foreign(link, 'they are not that site’s')
    for (const prefix of prefixes) {
      const text = formatPrefix(prefix)
      if (!plan.prefixes.some((whole) => prefixCovers(whole, prefix))) throw foreign(link, `${text} is outside the vL3`)
      if (plan.parts.some((own) => prefixesOverlap(own, prefix))) throw foreign(link, `${text} is here`)
    }
    for (const other of this.all()) {
      if (other.publicKey === link.publicKey || isReplacedBy(other, link)) continue
      const overlap = other.prefixes.some((text) =>
        prefixes.some((prefix) => prefixesOverlap(parsePrefix(text), prefix)),
      )
      if (overlap) throw foreign(link, `they overlap those of ${other.spiffeId}`)
    }
    for (const address of [...link.gateways, ...link.nameServers]) {
      const isBehind = prefixes.some((prefix) => prefixCovers(prefix, hostOf(address)))
      if (!isBehind) throw foreign(link, `the address ${address} is outside of them`)
    }
  }

  #say(sentence: string, link: SiteLink, why?: string): void {
    this.#parts.log.info(sentence, { peer: link.spiffeId, prefix: link.prefixes.join(' '), why })
  }
}

/** A site that comes back with another WireGuard key takes its own place; several endpoints of NSM may have one identity. */
function isReplacedBy(other: SiteLink, link: SiteLink): boolean {
  const isSame = other.spiffeId === link.spiffeId && other.endpointName === link.endpointName
  return isSame && other.publicKey !== link.publicKey
}

function isSamePlace(a: UnderlayAddress | undefined, b: UnderlayAddress | undefined): boolean {
  return a?.address === b?.address && a?.port === b?.port
}

function hostOf(address: string) {
  const { family, bits } = parseAddress(address)
  return { family, bits, length: family === 4 ? 32 : 128 }
}

function foreign(link: SiteLink, why: string): NsmError {
  return new NsmError(
    'REFUSED',
    `the prefixes ${link.prefixes.slice(0, 8).join(', ').slice(0, 256)} of ${link.spiffeId} are refused: ${why}`,
    'start nsm serve of that site again',
  )
}
