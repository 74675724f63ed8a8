import type { Clock } from '../base/clock.ts'
import { type IpAddress, parseAddress } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import type { Hub } from '../tunnel/hub.ts'
import { buildEchoRequest } from '../tunnel/ip-packet.ts'
import { fromBase64, reported } from './lease-parts.ts'

/* Is another site there? Once a second its gateway is asked by ICMP echo, and what came out of its WireGuard peer since the
 * last look, an answer or any other packet, is a sign of life [NSM sdk heal, cmd-nse-vl3-vpp NSM_LIVENESS_CHECK]. Looks
 * are counted, not seconds: a process that was held up itself looks once and finds what came meanwhile.
 *
 * live --3 looks without a packet--> silent --15--> gone      any packet: live
 *
 * A session may be alive one way alone, where implementations of WireGuard have a fault: keepalives come and no packet, and
 * WireGuard by itself would keep it for two minutes. So a silent site is shaken hands with every 5 looks.
 *
 * The route to a silent site stays until its lease ends: there is no other way to its members, and it is used again with
 * the first packet that comes through. */

/** What is known of another site's path. */
export type Presence = 'live' | 'silent' | 'gone'

/** A site to watch. */
export interface WatchedSite {
  readonly spiffeId: string
  /** WireGuard public key, base64. */
  readonly publicKey: string
  /** Its own addresses, without length. */
  readonly gateways: readonly string[]
}

/** What a watch acts on. */
export interface SiteWatchParts {
  readonly hub: Pick<Hub, 'stats' | 'sendLocal' | 'handshake'>
  readonly sites: () => readonly WatchedSite[]
  /** Ours, of each family. */
  readonly gateways: readonly IpAddress[]
  readonly clock: Clock
  readonly log: Log
}

/** Ours: as often as NSM's vL3 endpoints look at each other (1.2 s). */
const lookMs = 1_000
/** Ours: lost packets alone are no silence. */
const silentLooks = 3
/** [WG 6.1] Handshakes with a peer are 5 s apart at least. */
const handshakeLooks = 5
/** Ours: longer than a restart takes, so that names of a site that restarts are not denied. */
const goneLooks = 15

interface Heard {
  readonly receivedBytes: number
  /** Looks in a row that found nothing. */
  readonly missed: number
}

/** Watches sites for as long as there are any. */
export class SiteWatch {
  readonly #parts: SiteWatchParts
  #heard: ReadonlyMap<string, Heard> = new Map()
  #cancel: (() => void) | undefined
  #isStopped = false
  /** By public key, what ends the wait for a handshake. */
  readonly #handshakes = new Map<string, AbortController>()

  constructor(parts: SiteWatchParts) {
    this.#parts = parts
  }

  /** Looks once a second from here on, unless it does so already. */
  begin(): void {
    if (this.#isStopped || this.#cancel) return
    this.#cancel = this.#parts.clock.after(lookMs, () => void this.#onTime())
  }

  /** The presence of the site with this key; one that was never looked at is live. */
  presenceOf(publicKey: string): Presence {
    return presenceAfter(this.#heard.get(publicKey)?.missed ?? 0)
  }

  /** Ends the watch. */
  stop(): void {
    this.#isStopped = true
    this.#cancel?.()
    for (const waiting of this.#handshakes.values()) waiting.abort()
  }

  async #onTime(): Promise<void> {
    await this.#look().catch(reported(this.#parts.log))
    this.#cancel = undefined
    if (this.#parts.sites().length > 0) this.begin()
  }

  async #look(): Promise<void> {
    const { hub, sites } = this.#parts
    const { peers } = await hub.stats()
    const received = new Map(peers.map(({ publicKey, receivedBytes }) => [publicKey, receivedBytes]))
    const next = new Map<string, Heard>()
    for (const site of sites()) {
      const before = this.#heard.get(site.publicKey)
      const after = heardAfter(before, received.get(site.publicKey) ?? 0)
      next.set(site.publicKey, after)
      this.#say(site, before?.missed ?? 0, after.missed)
      if (isHandshakeDue(after)) this.#shakeHands(site)
      this.#ask(site)
    }
    this.#heard = next
  }

  /** What it comes to shows in the next looks. */
  #shakeHands({ publicKey }: WatchedSite): void {
    this.#handshakes.get(publicKey)?.abort()
    const waiting = new AbortController()
    this.#handshakes.set(publicKey, waiting)
    const ended = this.#parts.hub.handshake(fromBase64(publicKey), waiting.signal).catch(() => {})
    void ended.then(() => {
      if (this.#handshakes.get(publicKey) === waiting) this.#handshakes.delete(publicKey)
    })
  }

  #ask({ gateways }: WatchedSite): void {
    const [destination] = gateways.map(parseAddress)
    const source = this.#parts.gateways.find(({ family }) => family === destination?.family)
    if (source && destination) this.#parts.hub.sendLocal(buildEchoRequest({ source, destination }))
  }

  #say({ spiffeId: peer }: WatchedSite, before: number, after: number): void {
    const { log } = this.#parts
    if (after === silentLooks) log.warn('a site is silent', { peer })
    if (after === 0 && before >= silentLooks) log.info('a site is heard again', { peer })
  }
}

function heardAfter(before: Heard | undefined, receivedBytes: number): Heard {
  const isHeard = before === undefined || before.receivedBytes !== receivedBytes
  return { receivedBytes, missed: isHeard ? 0 : before.missed + 1 }
}

function isHandshakeDue({ missed }: Heard): boolean {
  return missed >= silentLooks && (missed - silentLooks) % handshakeLooks === 0
}

function presenceAfter(missed: number): Presence {
  if (missed < silentLooks) return 'live'
  return missed < goneLooks ? 'silent' : 'gone'
}
