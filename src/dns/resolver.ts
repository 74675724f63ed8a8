import type { Clock } from '../base/clock.ts'
import { Cache, type CachedReply } from './cache.ts'
import { type LookupStart, Lookups, type OnOutcome } from './lookups.ts'
import { buildRefused, parseQuery, type Query } from './message.ts'
import type { Fault } from './question.ts'
import type { Outcome } from './race.ts'
import { capLife, renderReply } from './render.ts'
import type { Route, Routes } from './routes.ts'
import { answerSpecial, isMetaType } from './special.ts'
import { classInternet, recordType } from './wire.ts'

/** Who asked, and how the answer gets back. */
export interface Peer {
  readonly overTcp: boolean
  /** Port of the client; bounds what one client may keep in flight. */
  readonly port: number
  send(message: Uint8Array): void
}

/** What a resolver is made from. */
export interface ResolverSettings {
  readonly clock: Clock
  readonly listenAddress: string
  readonly routes: () => Routes
}

/** Why a message was not answered with somebody's answer: a fault of the message, or a limit or rule of ours. */
export type DropReason = Fault | 'class' | 'meta-type' | 'probe' | 'in-flight' | 'per-client' | 'no-server'

/** Counters since the start. */
export interface ResolverCounters {
  queries: number
  cacheHits: number
  joined: number
  unreachable: number
  readonly drops: Readonly<Record<DropReason, number>>
}

/** Ours: questions in flight, a question's joined clients not counted; about 2 kB each. */
const inFlightMax = 1_024
/** Ours: questions of one client port in flight. */
const perClientMax = 256
/** Extended errors. [RFC 8914 4.1, 4.21] */
const edeOther = 0
const edeNotSupported = 21
/** Ours: what a "no" may live while somebody was silent, in the cache and at the client. */
const partialMaxSeconds = 5

/** One question in flight and everybody who waits for it. */
interface Job {
  readonly key: string
  readonly clients: { readonly query: Query; readonly peer: Peer }[]
}

/** Takes a client's message and answers it exactly once: built-in names, cache, a race in flight, a new race. */
export class Resolver {
  readonly #drops: Record<DropReason, number> = noDrops()
  readonly counters: ResolverCounters = { queries: 0, cacheHits: 0, joined: 0, unreachable: 0, drops: this.#drops }
  readonly cache = new Cache()
  readonly #settings: ResolverSettings
  readonly #lookups: Lookups
  readonly #jobs = new Map<string, Job>()
  readonly #perClient = new Map<number, number>()

  constructor(settings: ResolverSettings) {
    this.#settings = settings
    this.#lookups = new Lookups(settings.routes)
  }

  /** True while a question is in flight. */
  get busy(): boolean {
    return this.#lookups.busy
  }

  /** Answers one message, at once or within 4.5 s. `message` belongs to the resolver from here on. */
  handle(message: Uint8Array, peer: Peer): void {
    const query = parseQuery(message)
    if (query.kind !== 'query') {
      this.#drops[query.why]++
      if (query.kind === 'rejected') peer.send(query.reply)
      return
    }
    this.counters.queries++
    const routes = this.#settings.routes()
    const route = routes.find(query.nameKey)
    const local = this.#answerLocally(query, { overTcp: peer.overTcp, routes, route })
    if (local) peer.send(local)
    else this.#answerFromElsewhere(query, peer, route)
  }

  /** Answers what is answered here: built-in names and refusals. Undefined for what others are asked. */
  answerHere(query: Query, route: Route): Uint8Array | undefined {
    const local = this.#answerLocally(query, { overTcp: true, routes: this.#settings.routes(), route })
    return local ?? (route.hasServers ? undefined : this.#refuse(query, 'no-server'))
  }

  /** True when clients get the answer from the cache. */
  holds(query: Query, route: Route): boolean {
    return this.cache.get(keyOf(query, route), this.#settings.clock.monotonicMs()) !== undefined
  }

  /** Looks a question up past the cache and past questions in flight. */
  lookUp(start: LookupStart, onEnd: OnOutcome): void {
    this.#lookups.start(start, onEnd)
  }

  /** Moves every race on; called about every 50 ms while busy. */
  tick(nowMs: number): void {
    this.#lookups.tick(nowMs)
  }

  /** Forgets what was learned: scopes or upstreams changed. */
  forget(): void {
    this.cache.clear()
    this.#lookups.forget()
  }

  /** Gives up all questions without an answer. */
  close(): void {
    this.#lookups.close()
    this.#jobs.clear()
  }

  #answerLocally(query: Query, at: { overTcp: boolean; routes: Routes; route: Route }): Uint8Array | undefined {
    const { overTcp, routes, route } = at
    if (query.class !== classInternet) return this.#refuse(query, 'class')
    if (isMetaType(query.type)) return this.#refuse(query, 'meta-type')
    if (query.type === recordType.hinfo && routes.isProbe(query.nameKey)) return this.#refuse(query, 'probe')
    return answerSpecial(query, {
      inScope: route !== routes.fallback,
      anyScope: routes.scopes.size > 0,
      listenAddress: this.#settings.listenAddress,
      ...(overTcp ? { limitBytes: 65_535 } : {}),
    })
  }

  #answerFromElsewhere(query: Query, peer: Peer, route: Route): void {
    const key = keyOf(query, route)
    const nowMs = this.#settings.clock.monotonicMs()
    route.stats.queries++
    const cached = this.cache.get(key, nowMs)
    if (cached) {
      route.stats.cacheHits++
      this.#answerFromCache({ query, peer, cached, nowMs })
      return
    }
    const why = route.hasServers ? this.#join({ key, query, peer, route, nowMs }) : 'no-server'
    if (why) peer.send(this.#refuse(query, why))
  }

  #answerFromCache(part: { query: Query; peer: Peer; cached: CachedReply; nowMs: number }): void {
    const { query, peer, cached, nowMs } = part
    this.counters.cacheHits++
    const ageSeconds = Math.floor((nowMs - cached.storedAtMs) / 1000)
    const how = { overTcp: peer.overTcp, ownsBytes: false, ageSeconds, trustsAuthenticData: cached.fromDefault }
    peer.send(renderReply(cached.reply, query, how))
  }

  /** Joins the question in flight or puts it in flight; gives the reason when too much is. */
  #join(part: { key: string; query: Query; peer: Peer; route: Route; nowMs: number }): DropReason | undefined {
    const { key, query, peer, route } = part
    const ofClient = this.#perClient.get(peer.port) ?? 0
    const job = this.#jobs.get(key)
    if (ofClient >= perClientMax) return 'per-client'
    if (!job && this.#lookups.size >= inFlightMax) return 'in-flight'
    this.#perClient.set(peer.port, ofClient + 1)
    if (job) {
      this.counters.joined++
      route.stats.joined++
      job.clients.push({ query, peer })
    } else this.#startJob(part)
    return undefined
  }

  #startJob(part: { key: string; query: Query; peer: Peer; route: Route; nowMs: number }): void {
    const { key, query, peer, route, nowMs } = part
    const job: Job = { key, clients: [{ query, peer }] }
    this.#jobs.set(key, job)
    this.#lookups.start({ query, route, nowMs }, (outcome, atMs) => {
      const winner = outcome.upstream === undefined ? 'nobody' : outcome.fromOwner ? 'service' : 'host'
      route.stats.raceEnded(winner, atMs - nowMs)
      this.#finish(job, outcome, atMs)
    })
  }

  #finish(job: Job, outcome: Outcome, atMs: number): void {
    this.#jobs.delete(job.key)
    const { upstream, reply, fromOwner, partial } = outcome
    if (!upstream) this.counters.unreachable++
    const fromDefault = upstream !== undefined && !fromOwner && upstream.isLocal
    if (partial && (reply.class === 'nodata' || reply.class === 'nxdomain')) capLife(reply, partialMaxSeconds)
    this.cache.set(job.key, reply, { nowMs: atMs, fromDefault, partial })
    let ownsBytes = true
    for (const { query, peer } of job.clients) {
      this.#release(peer)
      peer.send(
        renderReply(reply, query, {
          overTcp: peer.overTcp,
          ownsBytes,
          ageSeconds: 0,
          trustsAuthenticData: fromDefault,
        }),
      )
      ownsBytes = false
    }
  }

  #refuse(query: Query, why: DropReason): Uint8Array {
    this.#drops[why]++
    const isRule = why === 'class' || why === 'meta-type'
    return buildRefused(query, isRule ? edeNotSupported : edeOther)
  }

  #release(peer: Peer): void {
    const left = (this.#perClient.get(peer.port) ?? 1) - 1
    if (left > 0) this.#perClient.set(peer.port, left)
    else this.#perClient.delete(peer.port)
  }
}

/** Name, type, DO, CD and the scope's id: two clients share a reply only when all are equal. */
function keyOf(query: Query, route: Route): string {
  const bits = (query.dnssecOk ? 1 : 0) | ((query.flags & 0x10) !== 0 ? 2 : 0)
  return query.nameKey + String.fromCharCode(query.type, bits, route.id)
}

function noDrops(): Record<DropReason, number> {
  const ofMessage = { short: 0, response: 0, opcode: 0, malformed: 0, 'edns-version': 0, signed: 0 }
  const ofRule = { class: 0, 'meta-type': 0, probe: 0, 'in-flight': 0, 'per-client': 0, 'no-server': 0 }
  return { ...ofMessage, ...ofRule }
}
