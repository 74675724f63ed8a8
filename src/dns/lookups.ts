import { withoutBody } from './classify.ts'
import { completeAlias } from './complete-alias.ts'
import type { Query } from './message.ts'
import { blocked, type Outcome, Race, raceTotalMs } from './race.ts'
import type { Route, Routes } from './routes.ts'
import { recordType, responseCode } from './wire.ts'

/** Watches one look-up: hears of each race it takes, and when the last voice of each has spoken. */
export interface LookupWatch {
  hop(race: Race, route: Route): void
  raceIsOver(race: Race): void
}

/** A question, where it goes, and the monotonic time of the start. */
export interface LookupStart {
  readonly query: Query
  readonly route: Route
  readonly nowMs: number
  readonly watch?: LookupWatch
}

/** Gets the outcome of a look-up and the monotonic time of its end. */
export type OnOutcome = (outcome: Outcome, atMs: number) => void

/** Ours: hops from alias to alias across scopes. */
const aliasHopsMax = 8
/** Ours: names remembered as given by an owner, so that its "no" for the other address family is final. */
const ownedNamesMax = 1_024
/** Extended error "other". [RFC 8914 4.1] */
const edeOther = 0

/** Asks upstreams: one race per question, and one more per alias that leads elsewhere, all before one deadline. */
export class Lookups {
  readonly #routes: () => Routes
  readonly #races = new Set<Race>()
  /** Races that have an outcome and are still heard for a trace. */
  readonly #lingering = new Map<Race, LookupWatch>()
  readonly #ownedUntilMs = new Map<string, number>()

  constructor(routes: () => Routes) {
    this.#routes = routes
  }

  /** The races under way. */
  get size(): number {
    return this.#races.size
  }

  /** True while a race needs its clock. */
  get busy(): boolean {
    return this.#races.size > 0 || this.#lingering.size > 0
  }

  /** Looks a question up under its route; ends exactly once, at the latest after 4.5 s. */
  start(part: LookupStart, onEnd: OnOutcome): void {
    const { query, route, nowMs, watch } = part
    const at = { route, nowMs, deadlineMs: nowMs + raceTotalMs, watch }
    this.#race(query, at, (outcome, atMs) => {
      const { reply } = outcome
      if (reply.class !== 'alias' || reply.aliasTarget === undefined) {
        this.#rememberOwner({ query, route }, outcome, atMs)
        onEnd(outcome, atMs)
        return
      }
      this.#followAlias({ query, outcome, hops: 1, at: { ...at, nowMs: atMs } }, (whole, endMs) => {
        const allowed = route.bounds.allowsOther(whole.reply, route.owners)
        onEnd(allowed ? whole : { ...whole, reply: blocked(query) }, endMs)
      })
    })
  }

  /** Moves every race on; called about every 50 ms while busy. */
  tick(nowMs: number): void {
    for (const race of this.#races) race.tick(nowMs)
    for (const [race, watch] of this.#lingering) {
      race.tick(nowMs)
      if (race.isOver(nowMs)) this.#lingerEnds(race, watch)
    }
  }

  /** Forgets what was learned: scopes or upstreams changed. */
  forget(): void {
    this.#ownedUntilMs.clear()
  }

  /** Gives up everything without an outcome. */
  close(): void {
    for (const race of [...this.#races, ...this.#lingering.keys()]) race.cancel()
    this.#races.clear()
    this.#lingering.clear()
  }

  #race(query: Query, at: RaceStart, onEnd: OnOutcome): void {
    const { route, nowMs, deadlineMs, watch } = at
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
      lingers: watch !== undefined,
    }
    const race: Race = new Race(plan, (outcome, atMs) => {
      this.#races.delete(race)
      if (watch) this.#lingering.set(race, watch)
      onEnd(outcome, atMs)
    })
    this.#races.add(race)
    watch?.hop(race, route)
    race.start()
  }

  #lingerEnds(race: Race, watch: LookupWatch): void {
    this.#lingering.delete(race)
    race.cancel()
    watch.raceIsOver(race)
  }

  /** Asks for the alias's target under the target's own scope, and joins the answers. */
  #followAlias(
    part: { readonly query: Query; readonly outcome: Outcome; readonly hops: number; readonly at: RaceStart },
    onEnd: OnOutcome,
  ): void {
    const { query, outcome, hops, at } = part
    const step = hops > aliasHopsMax ? undefined : completeAlias(query, outcome.reply)
    const route = step && this.#routes().find(step.query.nameKey)
    if (!step || !route?.hasServers) {
      onEnd(failed(query), at.nowMs)
      return
    }
    const join: OnOutcome = (rest, restMs) => onEnd({ ...rest, fromOwner: true, reply: step.join(rest.reply) }, restMs)
    this.#race(step.query, { ...at, route }, (next, nextMs) => {
      if (next.reply.class !== 'alias') join(next, nextMs)
      else this.#followAlias({ query: step.query, outcome: next, hops: hops + 1, at: { ...at, nowMs: nextMs } }, join)
    })
  }

  /** A positive of an owner in a fan-out: for its time to live its "no" for the other family is final. */
  #rememberOwner(asked: { readonly query: Query; readonly route: Route }, outcome: Outcome, nowMs: number): void {
    const { query, route } = asked
    const { reply, fromOwner } = outcome
    if (!fromOwner || reply.class !== 'positive' || route.mode !== 'fanout' || reply.ttlSeconds === 0) return
    if (query.type !== recordType.a && query.type !== recordType.aaaa) return
    if (this.#ownedUntilMs.size >= ownedNamesMax) this.#ownedUntilMs.clear()
    this.#ownedUntilMs.set(query.nameKey, nowMs + reply.ttlSeconds * 1000)
  }
}

interface RaceStart {
  readonly route: Route
  readonly nowMs: number
  readonly deadlineMs: number
  readonly watch: LookupWatch | undefined
}

function failed(query: Query): Outcome {
  const reply = withoutBody(query, responseCode.serverFailure, edeOther)
  return { reply, upstream: undefined, fromOwner: false, partial: true }
}
