import { classify, type Reply } from './classify.ts'
import type { Voice } from './decide.ts'
import { writeOpt } from './message.ts'
import type { Query } from './question.ts'
import { random16 } from './random-id.ts'
import { askOverTcp } from './tcp-ask.ts'
import type { Upstream, Waiter } from './upstream.ts'
import { flag, write16 } from './wire.ts'

/** What an ask needs of its race. */
export interface AskOwner {
  readonly plan: { readonly query: Query }
  spoke(ask: Ask, nowMs: number): void
}

/** Ours: datagrams to one upstream for one question, each under a new id; bounds what a client can make us send. */
const sendsMax = 3
/** Ours: connecting and answering over TCP, inside the total. */
const tcpMs = 2_000

/** One upstream's part in a race: its sends, its fallbacks, and at last what it said. */
export class Ask implements Voice, Waiter {
  readonly upstream: Upstream
  readonly owner: boolean
  readonly startAtMs: number
  readonly query: Query
  state: Voice['state'] = 'silent'
  reply: Reply | undefined
  done = false
  /** True when the race's bounds turned the reply down: `reply` is then a refusal made here. */
  blocked = false
  /** When the first query went out and when the reply was in; monotonic milliseconds. */
  firstSentMs: number | undefined
  spokeMs: number | undefined
  readonly #race: AskOwner
  #sends = 0
  #resendAtMs = Number.POSITIVE_INFINITY
  #triedPlain = false
  #stopTcp: (() => void) | undefined
  #tcpEndsMs = Number.POSITIVE_INFINITY
  /** The cut reply: the last resort while the whole one is fetched. */
  #truncated: Reply | undefined

  constructor(
    race: AskOwner,
    part: { readonly upstream: Upstream; readonly owner: boolean; readonly startAtMs: number },
  ) {
    this.#race = race
    this.query = race.plan.query
    this.upstream = part.upstream
    this.owner = part.owner
    this.startAtMs = part.startAtMs
  }

  /** True once something was sent. */
  get started(): boolean {
    return this.#sends > 0 || this.state !== 'silent'
  }

  /** The datagrams sent so far. */
  get sends(): number {
    return this.#sends
  }

  /** How the reply came, as far as it was not the usual way. */
  get detours(): readonly ('tcp' | 'without-edns')[] {
    return [...(this.#truncated ? (['tcp'] as const) : []), ...(this.#triedPlain ? (['without-edns'] as const) : [])]
  }

  /** True when the upstream gave more than ignorance. */
  get knows(): boolean {
    return this.reply !== undefined && this.reply.class !== 'failure' && this.reply.class !== 'refused'
  }

  /** Sends the question for the first time. */
  start(nowMs: number): void {
    this.#send(this.upstream.wantsEdns(this.query, nowMs), nowMs)
  }

  /** Starts, repeats or gives up what is due. */
  tick(nowMs: number): void {
    if (this.done) return
    if (!this.started) {
      if (nowMs >= this.startAtMs) this.start(nowMs)
    } else if (this.#stopTcp) {
      if (nowMs >= this.#tcpEndsMs) this.#overTcpFailed(nowMs)
    } else if (nowMs >= this.#resendAtMs && this.#sends < sendsMax) {
      this.#send(!this.#triedPlain && this.upstream.wantsEdns(this.query, nowMs), nowMs)
    }
  }

  /** Nobody needs an answer any more. */
  stop(): void {
    this.done = true
    this.#stopTcp?.()
    this.#stopTcp = undefined
  }

  onReply(reply: Reply, nowMs: number): void {
    if (this.#stopTcp) return
    if (reply.dislikesEdns && !this.#triedPlain && this.#sends < sendsMax) {
      this.#triedPlain = true
      this.#send(false, nowMs)
      return
    }
    if (this.#triedPlain && !reply.dislikesEdns) this.upstream.failedOnEdns(nowMs)
    if (reply.class === 'truncated') {
      this.#truncated = reply
      this.#askOverTcp(nowMs)
    } else this.#speak(reply, nowMs)
  }

  onUnreachable(nowMs: number): void {
    if (this.done || this.#stopTcp || this.state !== 'silent') return
    this.state = 'unreachable'
    this.spokeMs = nowMs
    this.done = true
    this.#race.spoke(this, nowMs)
  }

  #send(withEdns: boolean, nowMs: number): void {
    this.#sends++
    this.firstSentMs ??= nowMs
    this.#resendAtMs = nowMs + this.upstream.resendMs * this.#sends
    if (!this.upstream.send(upstreamMessage(this.query, withEdns), this, nowMs)) this.onUnreachable(nowMs)
  }

  #speak(reply: Reply, nowMs: number): void {
    this.reply = reply
    this.spokeMs = nowMs
    this.state = 'spoken'
    this.done = true
    this.#race.spoke(this, nowMs)
  }

  #askOverTcp(nowMs: number): void {
    this.#tcpEndsMs = nowMs + tcpMs
    const message = upstreamMessage(this.query, !this.#triedPlain)
    write16(message, 0, random16())
    this.#stopTcp = askOverTcp(this.upstream.target, message, (bytes) => {
      const atMs = this.upstream.nowMs()
      const reply = bytes && classify(bytes, this.query, true)
      if (!reply) {
        this.#overTcpFailed(atMs)
        return
      }
      this.upstream.alive()
      this.#stopTcp = undefined
      this.#speak(reply, atMs)
    })
  }

  #overTcpFailed(nowMs: number): void {
    this.#stopTcp?.()
    this.#stopTcp = undefined
    if (this.#truncated && !this.done) this.#speak(this.#truncated, nowMs)
  }
}

/**
 * Header, the question as the client spelt it, our own OPT: nothing else of the client goes up. The id is set by the sender.
 * RD, CD and AD are the client's.
 */
function upstreamMessage(query: Query, withEdns: boolean): Buffer {
  const message = Buffer.allocUnsafe(query.questionEnd + (withEdns ? 11 : 0))
  message.set(query.bytes.subarray(0, query.questionEnd))
  write16(message, 2, query.flags & (flag.recursionDesired | flag.checkingDisabled | flag.authenticData))
  write16(message, 6, 0)
  write16(message, 8, 0)
  write16(message, 10, withEdns ? 1 : 0)
  if (withEdns) writeOpt(message, query.questionEnd, { dnssecOk: query.dnssecOk })
  return message
}
