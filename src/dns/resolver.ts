import type { Clock } from '../base/clock.ts'
import { isLoopback } from './address-kind.ts'
import { Cache, type CachedReply } from './cache.ts'
import { withoutBody } from './classify.ts'
import { completeAlias } from './complete-alias.ts'
import { buildAnswer, parseQuery, type Query } from './message.ts'
import { blocked, type Outcome, Race, raceTotalMs } from './race.ts'
import { renderReply } from './render.ts'
import type { Route, Routes } from './routes.ts'
import { answerSpecial, isMetaType } from './special.ts'
import { classInternet, recordType, responseCode } from './wire.ts'

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

/** Counters since the start. */
export interface ResolverCounters {
  queries: number
  cacheHits: number
  joined: number
  refused: number
  malformed: number
  unreachable: number
}

/** Ours: questions in flight, a question's joined clients not counted; about 2 kB each. */
const inFlightMax = 1_024
/** Ours: questions of one client port in flight. */
const perClientMax = 256
/** Extended errors. [RFC 8914 4.1, 4.21] */
const edeOther = 0
const edeNotSupported = 21
/** Ours: hops from alias to alias across scopes. */
const aliasHopsMax = 8
/** Ours: names remembered as given by an owner, so that its "no" for the other address family is final. */
const ownedNamesMax = 1_024

/** One question in flight and everybody who waits for it. */
interface Job {
  readonly key: string
  readonly race: Race
  readonly clients: { readonly query: Query; readonly peer: Peer }[]
}

/** Takes a client's message and answers it exactly once: built-in names, cache, a race in flight, a new race. */
export class Resolver {
  readonly counters: ResolverCounters = {
    queries: 0,
    cacheHits: 0,
    joined: 0,
    refused: 0,
    malformed: 0,
    unreachable: 0,
  }
  readonly cache = new Cache()
  readonly #settings: ResolverSettings
  readonly #jobs = new Map<string, Job>()
  readonly #races = new Set<Race>()
  readonly #perClient = new Map<number, number>()
  readonly #ownedUntilMs = new Map<string, number>()

  constructor(settings: ResolverSettings) {
    this.#settings = settings
  }

  /** True while a question is in flight. */
  get busy(): boolean {
    return this.#races.size > 0
  }

  /** Answers one message, at once or within 4.5 s. `message` belongs to the resolver from here on. */
  handle(message: Uint8Array, peer: Peer): void {
    const query = parseQuery(message)
    if (query.kind !== 'query') {
      this.counters.malformed++
      if (query.kind === 'rejected') peer.send(query.reply)
      return
    }
    this.counters.queries++
    const routes = this.#settings.routes()
    const route = routes.find(query.nameKey)
    const local = this.#answerHere(query, { peer, routes, route })
    if (local) peer.send(local)
    else this.#answerFromElsewhere(query, peer, route)
  }

  /** Moves every race on; called about every 50 ms while busy. */
  tick(nowMs: number): void {
    for (const race of this.#races) race.tick(nowMs)
  }

  /** Forgets what was learned: scopes or upstreams changed. */
  forget(): void {
    this.cache.clear()
    this.#ownedUntilMs.clear()
  }

  /** Gives up all questions without an answer. */
  close(): void {
    for (const race of this.#races) race.cancel()
    this.#races.clear()
    this.#jobs.clear()
  }

  #answerHere(query: Query, at: { peer: Peer; routes: Routes; route: Route }): Uint8Array | undefined {
    const { peer, routes, route } = at
    if (query.class !== classInternet || isMetaType(query.type)) {
      this.counters.refused++
      return refusal(query, edeNotSupported)
    }
    if (query.type === recordType.hinfo && routes.isProbe(query.nameKey)) return refusal(query, edeOther)
    return answerSpecial(query, {
      inScope: route !== routes.fallback,
      anyScope: routes.scopes.size > 0,
      listenAddress: this.#settings.listenAddress,
      ...(peer.overTcp ? { limitBytes: 65_535 } : {}),
    })
  }

  #answerFromElsewhere(query: Query, peer: Peer, route: Route): void {
    const key = keyOf(query, route)
    const nowMs = this.#settings.clock.monotonicMs()
    const cached = this.cache.get(key, nowMs)
    if (cached) this.#answerFromCache({ query, peer, cached, nowMs })
    else if (!hasServers(route) || !this.#join({ key, query, peer, route, nowMs })) {
      this.counters.refused++
      peer.send(refusal(query, edeOther))
    }
  }

  #answerFromCache(part: { query: Query; peer: Peer; cached: CachedReply; nowMs: number }): void {
    const { query, peer, cached, nowMs } = part
    this.counters.cacheHits++
    const ageSeconds = Math.floor((nowMs - cached.storedAtMs) / 1000)
    const how = { overTcp: peer.overTcp, ownsBytes: false, ageSeconds, trustsAuthenticData: cached.fromDefault }
    peer.send(renderReply(cached.reply, query, how))
  }

  /** Joins the question in flight or puts it in flight; false when too much is. */
  #join(part: { key: string; query: Query; peer: Peer; route: Route; nowMs: number }): boolean {
    const { key, query, peer } = part
    const ofClient = this.#perClient.get(peer.port) ?? 0
    const job = this.#jobs.get(key)
    if (ofClient >= perClientMax || (!job && this.#races.size >= inFlightMax)) return false
    this.#perClient.set(peer.port, ofClient + 1)
    if (job) {
      this.counters.joined++
      job.clients.push({ query, peer })
    } else this.#startJob(part)
    return true
  }

  #startJob(part: { key: string; query: Query; peer: Peer; route: Route; nowMs: number }): void {
    const { key, query, peer, route, nowMs } = part
    const race = this.#race(query, { route, nowMs, deadlineMs: nowMs + raceTotalMs }, (outcome, atMs) => {
      this.#settle(job, outcome, { route, atMs })
    })
    const job: Job = { key, race, clients: [{ query, peer }] }
    this.#jobs.set(key, job)
    race.start()
  }

  #race(
    query: Query,
    at: { readonly route: Route; readonly nowMs: number; readonly deadlineMs: number },
    onEnd: (outcome: Outcome, atMs: number) => void,
  ): Race {
    const { route, nowMs, deadlineMs } = at
    const ownNo =
      route.mode === 'fanout' && this.#ownedUntilMs.size > 0 ? this.#ownedUntilMs.get(query.nameKey) : undefined
    const plan = {
      query,
      mode: route.mode,
      owners: route.owners,
      defaults: route.defaults,
      bounds: route.bounds,
      ownerNoIsFinal: ownNo !== undefined && ownNo > nowMs,
      startMs: nowMs,
      deadlineMs,
    }
    const race: Race = new Race(plan, (outcome, atMs) => {
      this.#races.delete(race)
      onEnd(outcome, atMs)
    })
    this.#races.add(race)
    return race
  }

  #settle(job: Job, outcome: Outcome, at: { readonly route: Route; readonly atMs: number }): void {
    const target = outcome.reply.class === 'alias' ? outcome.reply.aliasTarget : undefined
    if (target === undefined) {
      this.#finish(job, outcome, at)
      return
    }
    const { query, deadlineMs } = job.race.plan
    this.#followAlias({ query, outcome, hops: 1, deadlineMs, atMs: at.atMs }, (whole, atMs) => {
      const allowed = at.route.bounds.allowsOther(whole.reply, at.route.owners)
      this.#finish(job, allowed ? whole : { ...whole, reply: blocked(query) }, { route: at.route, atMs })
    })
  }

  /** Asks for the alias's target under the target's own scope, and joins the answers. */
  #followAlias(
    part: { query: Query; outcome: Outcome; hops: number; deadlineMs: number; atMs: number },
    onEnd: (outcome: Outcome, atMs: number) => void,
  ): void {
    const { query, outcome, hops, deadlineMs, atMs } = part
    const step = hops > aliasHopsMax ? undefined : completeAlias(query, outcome.reply)
    const route = step && this.#settings.routes().find(step.query.nameKey)
    if (!step || !route || !hasServers(route)) {
      onEnd(failed(query), atMs)
      return
    }
    const join = (rest: Outcome, restMs: number) =>
      onEnd({ ...rest, fromOwner: true, reply: step.join(rest.reply) }, restMs)
    const race = this.#race(step.query, { route, nowMs: atMs, deadlineMs }, (next, nextMs) => {
      if (next.reply.class !== 'alias') join(next, nextMs)
      else this.#followAlias({ query: step.query, outcome: next, hops: hops + 1, deadlineMs, atMs: nextMs }, join)
    })
    race.start()
  }

  #finish(job: Job, outcome: Outcome, at: { readonly route: Route; readonly atMs: number }): void {
    this.#jobs.delete(job.key)
    const { upstream, reply, fromOwner, partial } = outcome
    if (!upstream) this.counters.unreachable++
    const fromDefault = upstream !== undefined && !fromOwner && isLoopback(upstream.target.address)
    this.cache.set(job.key, reply, { nowMs: at.atMs, fromDefault, partial })
    if (fromOwner && reply.class === 'positive') this.#rememberOwner(job, reply.ttlSeconds, at.atMs)
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

  #rememberOwner(job: Job, ttlSeconds: number, nowMs: number): void {
    const { query, mode } = job.race.plan
    if (mode !== 'fanout' || ttlSeconds === 0) return
    if (query.type !== recordType.a && query.type !== recordType.aaaa) return
    if (this.#ownedUntilMs.size >= ownedNamesMax) this.#ownedUntilMs.clear()
    this.#ownedUntilMs.set(query.nameKey, nowMs + ttlSeconds * 1000)
  }

  #release(peer: Peer): void {
    const left = (this.#perClient.get(peer.port) ?? 1) - 1
    if (left > 0) this.#perClient.set(peer.port, left)
    else this.#perClient.delete(peer.port)
  }
}

function hasServers(route: Route): boolean {
  return route.owners.length > 0 || route.defaults.length > 0
}

/** Name, type, DO, CD and the scope's id: two clients share a reply only when all are equal. */
function keyOf(query: Query, route: Route): string {
  const bits = (query.dnssecOk ? 1 : 0) | ((query.flags & 0x10) !== 0 ? 2 : 0)
  return query.nameKey + String.fromCharCode(query.type, bits, route.id)
}

function refusal(query: Query, extendedError: number): Uint8Array {
  return buildAnswer({ query, rcode: responseCode.refused, records: [], authoritative: false, extendedError })
}

function failed(query: Query): Outcome {
  const reply = withoutBody(query, responseCode.serverFailure, edeOther)
  return { reply, upstream: undefined, fromOwner: false, partial: true }
}
