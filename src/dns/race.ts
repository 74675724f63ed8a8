import type { AnswerBounds } from './answer-bounds.ts'
import { Ask } from './ask.ts'
import { type Reply, withoutBody } from './classify.ts'
import { decide } from './decide.ts'
import type { Query } from './question.ts'
import type { ScopeMode } from './scope.ts'
import type { Upstream } from './upstream.ts'
import { responseCode } from './wire.ts'

/** How one question is asked. */
export interface RacePlan {
  readonly query: Query
  readonly mode: ScopeMode
  readonly owners: readonly Upstream[]
  /** The host's own resolvers; empty in an exclusive scope. */
  readonly defaults: readonly Upstream[]
  readonly bounds: AnswerBounds
  /** True when the owner gave an address of the other family a moment ago: its "no" then ends the race. */
  readonly ownerNoIsFinal: boolean
  readonly startMs: number
  readonly deadlineMs: number
  /** True when the others are heard to the deadline after the end too: for a trace. */
  readonly lingers?: boolean
}

/** How a race ended. */
export interface Outcome {
  readonly reply: Reply
  /** The upstream that gave the reply; undefined for one made here. */
  readonly upstream: Upstream | undefined
  readonly fromOwner: boolean
  readonly partial: boolean
}

/** Ours: below glibc's 5 s per try. */
export const raceTotalMs = 4_500
/** Ours: how long the host's positive waits for the scope's own servers in prefer-service. */
const holdMs = 300
/** Ours: the host's next resolver is asked when the one before was silent so long. */
const defaultStageMs = 200
/** Ours: bounds of the time left for others after the first "no"; between them four round trips of the slowest. */
const graceMinMs = 250
const graceMaxMs = 2_000
/** Extended errors. [RFC 8914 4.16, 4.23, 4.24] */
const edeBlocked = 15
const edeNoReachableAuthority = 22
const edeNetworkError = 23

/** Stands for a reply whose addresses nobody may give [security D4]: the name is not known here. [RFC 8914 4.16] */
export function blocked(query: Query): Reply {
  return withoutBody(query, responseCode.serverFailure, edeBlocked)
}

/**
 * One question to several upstreams at once: owners all at the start, the host's resolvers one after the other.
 * It ends with exactly one outcome, at the latest at its deadline.
 */
export class Race {
  readonly plan: RacePlan
  readonly asks: Ask[] = []
  /** The outcome and its time, once there is one. */
  result: (Outcome & { readonly atMs: number }) | undefined
  readonly #onEnd: (outcome: Outcome, nowMs: number) => void
  #graceEndsMs = Number.POSITIVE_INFINITY
  #ended = false

  constructor(plan: RacePlan, onEnd: (outcome: Outcome, nowMs: number) => void) {
    this.plan = plan
    this.#onEnd = onEnd
    for (const upstream of plan.owners) {
      this.asks.push(new Ask(this, { upstream, owner: true, startAtMs: plan.startMs }))
    }
    const ordered = plan.defaults.length < 2 ? plan.defaults : [...plan.defaults].sort(byWorth)
    for (let i = 0; i < ordered.length; i++) {
      const upstream = ordered[i]
      if (!upstream) continue
      this.asks.push(new Ask(this, { upstream, owner: false, startAtMs: plan.startMs + i * defaultStageMs }))
    }
  }

  /** Sends the first queries. */
  start(): void {
    for (const ask of this.asks) if (!this.#ended && ask.startAtMs <= this.plan.startMs) ask.start(this.plan.startMs)
  }

  /** True when nobody will say anything more. */
  isOver(nowMs: number): boolean {
    const awaited = (ask: Ask) => ask.started && !ask.done
    return this.#ended && (nowMs >= this.plan.deadlineMs || !this.asks.some(awaited))
  }

  /** Starts, repeats and ends what is due; called about every 50 ms. */
  tick(nowMs: number): void {
    if (this.#ended) {
      this.#hearTheOthers(nowMs)
      return
    }
    const defaultKnows = this.asks.some((ask) => !ask.owner && ask.knows)
    for (const ask of this.asks) if (!this.#ended && (ask.started || ask.owner || !defaultKnows)) ask.tick(nowMs)
    if (!this.#ended) this.#decide(nowMs)
  }

  /** Ends the race without an outcome, or a trace that has heard enough. */
  cancel(): void {
    this.#ended = true
    for (const ask of this.asks) ask.stop()
  }

  /** A voice has spoken or cannot be reached. */
  spoke(ask: Ask, nowMs: number): void {
    const { reply } = ask
    if (reply && !this.#allows(ask, reply)) {
      ask.reply = blocked(ask.query)
      ask.blocked = true
    }
    if (this.#ended) return
    if (!ask.blocked && reply?.class === 'positive' && (ask.owner || this.plan.mode !== 'prefer-service')) {
      this.#end({ reply, upstream: ask.upstream, fromOwner: ask.owner, partial: false }, nowMs)
      return
    }
    if (!ask.owner && !ask.knows) this.#startNextDefault(nowMs)
    if (ask.knows && this.#graceEndsMs === Number.POSITIVE_INFINITY) this.#graceEndsMs = nowMs + this.#graceMs()
    if (!this.#ended) this.#decide(nowMs)
  }

  #decide(nowMs: number): void {
    const decision = decide(this.asks, this.plan.mode, {
      holdOver: nowMs >= this.plan.startMs + holdMs,
      graceOver: nowMs >= this.#graceEndsMs,
      deadlineOver: nowMs >= this.plan.deadlineMs,
      ownerNoIsFinal: this.plan.ownerNoIsFinal,
    })
    if (decision.kind === 'unreachable') this.#end(this.#nobody(), nowMs)
    else if (decision.kind === 'answer') {
      const { reply, upstream, owner } = decision.voice
      if (reply) this.#end({ reply, upstream, fromOwner: owner, partial: decision.partial }, nowMs)
    }
  }

  #allows(ask: Ask, reply: Reply): boolean {
    const { bounds } = this.plan
    return ask.owner ? bounds.allowsOwner(reply, ask.upstream) : bounds.allowsOther(reply)
  }

  /** Nobody who should know was there: a temporary failure, never somebody else's "no". */
  #nobody(): Outcome {
    const refused = this.asks.every((ask) => ask.state === 'unreachable')
    const error = refused ? edeNetworkError : edeNoReachableAuthority
    const reply = withoutBody(this.plan.query, responseCode.serverFailure, error)
    return { reply, upstream: undefined, fromOwner: false, partial: true }
  }

  /** Suspects are not waited for. */
  #graceMs(): number {
    const awaited = this.asks.filter((ask) => ask.state === 'silent' && ask.started && !ask.upstream.suspect)
    if (awaited.length === 0) return 0
    const slowest = Math.max(...awaited.map((ask) => 4 * ask.upstream.roundTripMs))
    return Math.min(graceMaxMs, Math.max(graceMinMs, slowest))
  }

  #startNextDefault(nowMs: number): void {
    const next = this.asks.find((ask) => !ask.owner && !ask.started)
    next?.start(nowMs)
  }

  /** Who has been asked is heard to the end; nobody else is asked for the sake of a trace. */
  #hearTheOthers(nowMs: number): void {
    for (const ask of this.asks) if (ask.started) ask.tick(nowMs)
  }

  #end(outcome: Outcome, nowMs: number): void {
    this.#ended = true
    this.result = { ...outcome, atMs: nowMs }
    if (!this.plan.lingers) for (const ask of this.asks) ask.stop()
    this.#onEnd(outcome, nowMs)
  }
}

/** Best first: not suspect, then the quicker one. */
function byWorth(a: Upstream, b: Upstream): number {
  return Number(a.suspect) - Number(b.suspect) || a.roundTripMs - b.roundTripMs
}
