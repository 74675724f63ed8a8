import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Ask } from './ask.ts'
import { buildQuestion } from './build-question.ts'
import type { Reply } from './classify.ts'
import type { LookupWatch } from './lookups.ts'
import { type MessageText, messageText } from './message-text.ts'
import { nameFromKey, nameToText } from './name.ts'
import { parseQuery, type Query } from './question.ts'
import type { Outcome, Race } from './race.ts'
import { renderReply } from './render.ts'
import type { Resolver } from './resolver.ts'
import type { Route, Routes } from './routes.ts'
import { typeText } from './type-names.ts'
import { targetText } from './upstream-socket.ts'
import { whyLost } from './why-lost.ts'

/** One upstream's part in a race, for people. */
export interface Contestant {
  /** `address` or `address:port`. */
  readonly server: string
  readonly side: 'service' | 'host'
  readonly won: boolean
  /** What it said in one word: positive, nodata, nxdomain, alias, truncated, failure, refused, silent, unreachable, not-asked. */
  readonly said: string
  readonly reply?: MessageText
  /** Milliseconds from the start of the race to its first query and to its reply. */
  readonly askedAfterMs?: number
  readonly answeredAfterMs?: number
  readonly sends: number
  readonly detours: readonly string[]
  /** Why it won or lost. */
  readonly why: string
}

/** One race of a look-up; an alias that leads elsewhere makes another one. */
export interface TraceHop {
  readonly name: string
  /** The scope that takes the name; '' when none does. */
  readonly scope: string
  readonly mode: string
  readonly tookMs: number
  readonly contestants: readonly Contestant[]
}

/** A look-up, told in full. */
export interface Trace {
  readonly name: string
  readonly type: string
  /** `here` for names and types that never go upstream. */
  readonly answeredBy: 'here' | 'upstreams'
  /** True when clients get this answer from the cache at the moment. */
  readonly inCache: boolean
  readonly hops: readonly TraceHop[]
  readonly answer: MessageText
  readonly tookMs: number
}

/** What a trace works with. */
export interface TraceParts {
  readonly resolver: Resolver
  readonly routes: () => Routes
  readonly clock: Clock
  readonly question: { readonly name: string; readonly type: number }
}

/**
 * Looks a name up past the cache, hears every contestant to the end or to the deadline of 4.5 s, and tells who won and why.
 * Throws `USAGE` for a name that is none, and the reason of the signal.
 */
export async function traceLookup(parts: TraceParts, signal: AbortSignal): Promise<Trace> {
  const { resolver, clock, question } = parts
  const query = ownQuery(question)
  const route = parts.routes().find(query.nameKey)
  const head = { name: nameToText(nameFromKey(query.nameKey)), type: typeText(query.type) }
  const inCache = resolver.holds(query, route)
  const here = resolver.answerHere(query, route)
  if (here) return { ...head, answeredBy: 'here', inCache, hops: [], answer: readable(here), tookMs: 0 }
  const startMs = clock.monotonicMs()
  const { outcome, endMs, hops } = await race({ resolver, query, route, nowMs: startMs }, signal)
  const how = { overTcp: true, ownsBytes: false, ageSeconds: 0, trustsAuthenticData: false }
  const answer = readable(renderReply(outcome.reply, query, how))
  const tookMs = rounded(endMs - startMs)
  return { ...head, answeredBy: 'upstreams', inCache, hops: hops.map(hopText), answer, tookMs }
}

interface Hop {
  readonly race: Race
  readonly route: Route
}

/** Resolves when the look-up has its outcome and every race of it has been heard. */
function race(
  start: { readonly resolver: Resolver; readonly query: Query; readonly route: Route; readonly nowMs: number },
  signal: AbortSignal,
): Promise<{ readonly outcome: Outcome; readonly endMs: number; readonly hops: readonly Hop[] }> {
  const { resolver, ...lookup } = start
  const hops: Hop[] = []
  return new Promise((resolve, reject) => {
    let open = 0
    let ended: { readonly outcome: Outcome; readonly endMs: number } | undefined
    const settle = () => {
      if (ended && open === 0) resolve({ ...ended, hops })
    }
    const watch: LookupWatch = {
      hop(race, route) {
        open++
        hops.push({ race, route })
      },
      raceIsOver() {
        open--
        settle()
      },
    }
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    resolver.lookUp({ ...lookup, watch }, (outcome, endMs) => {
      ended = { outcome, endMs }
      settle()
    })
  })
}

function ownQuery({ name, type }: TraceParts['question']): Query {
  const query = parseQuery(buildQuestion({ name, type, id: 0, edns: true }))
  if (query.kind === 'query') return query
  throw new NsmError('USAGE', `"${name.slice(0, 80)}" cannot be asked for`, 'write it like db.corp.example')
}

function hopText({ race, route }: Hop): TraceHop {
  const { plan, result } = race
  return {
    name: nameToText(nameFromKey(plan.query.nameKey)),
    scope: route.suffix,
    mode: route.mode,
    tookMs: rounded((result?.atMs ?? plan.startMs) - plan.startMs),
    contestants: race.asks.map((ask) => contestant(ask, race)),
  }
}

function contestant(ask: Ask, race: Race): Contestant {
  const { startMs } = race.plan
  const reply = ask.reply && readableReply(ask.reply)
  const after = (atMs: number) => rounded(atMs - startMs)
  return {
    server: targetText(ask.upstream.target),
    side: ask.owner ? 'service' : 'host',
    won: race.result?.upstream === ask.upstream,
    said: ask.reply?.class ?? (ask.started ? ask.state : 'not-asked'),
    ...(reply ? { reply } : {}),
    ...(ask.firstSentMs === undefined ? {} : { askedAfterMs: after(ask.firstSentMs) }),
    ...(ask.spokeMs === undefined ? {} : { answeredAfterMs: after(ask.spokeMs) }),
    sends: ask.sends,
    detours: ask.detours,
    why: whyLost(ask, race),
  }
}

function readableReply(reply: Reply): MessageText | undefined {
  return messageText(reply.bytes.subarray(0, reply.bodyEnd))
}

/** What was made here or walked before can be read. */
function readable(message: Uint8Array): MessageText {
  return messageText(message) ?? { rcode: 'SERVFAIL', flags: [], answers: [], authority: [] }
}

function rounded(ms: number): number {
  return Math.round(ms * 100) / 100
}
