import type { Clock } from '../base/clock.ts'
import { isLoopback, isLoopbackOrPrivate } from './address-kind.ts'
import { classify, type Reply } from './classify.ts'
import { NameCase } from './name-case.ts'
import type { Query } from './question.ts'
import { random16 } from './random-id.ts'
import { type Sent, type UpstreamAddress, UpstreamSocket } from './upstream-socket.ts'

/** Who waits for a reply of an upstream. */
export interface Waiter {
  readonly query: Query
  /** True once nobody needs the reply any more; it then only tells how fast the upstream is. */
  readonly done: boolean
  onReply(reply: Reply, nowMs: number): void
  onUnreachable(nowMs: number): void
}

/** Counters of one upstream since it was configured. */
export interface UpstreamCounters {
  sent: number
  replies: number
  /** Datagrams with our id that were not a reply to our question. */
  rejected: number
  /** Replies to our question in another spelling, from an upstream that keeps it: forged. */
  otherCase: number
  silences: number
  unreachable: number
}

/** Ours: ports a guesser has to hit besides the id; more towards the open Internet. [RFC 5452 9.2] */
const poolSizePrivate = 16
const poolSizePublic = 64
/** Ours: a port is given up after so many queries or so long. */
const socketQueriesMax = 256
const socketLifeMs = 10_000
/** Ours: given-up sockets that still wait for replies; beyond it the oldest is closed. */
const drainingMax = 64
/** Ours: a reply that comes later than the longest query lives finds nobody. */
const lateReplyMs = 4_500
/** Ours: three silences within 10 s make an upstream suspect: still asked, not waited for. */
const suspectSilences = 3
const suspectWindowMs = 10_000
/** Ours: round trip assumed before the first reply. */
const firstRoundTripMs = 100
/** [RFC 6891 7]: how long an upstream that failed on EDNS is asked without. */
const withoutEdnsMs = 15 * 60_000

/** One upstream server: its rotating sockets, its round trip time and whether it is worth waiting for. */
export class Upstream {
  readonly target: UpstreamAddress
  /** True for a resolver on loopback: only its AD bit may be believed. */
  readonly isLocal: boolean
  readonly counters: UpstreamCounters = { sent: 0, replies: 0, rejected: 0, otherCase: 0, silences: 0, unreachable: 0 }
  /** Smoothed round trip in milliseconds; silence does not change it. */
  roundTripMs = firstRoundTripMs
  readonly #clock: Clock
  /** Towards the open Internet only: inside a tunnel nobody can guess. */
  readonly #nameCase: NameCase | undefined
  readonly #slots: (UpstreamSocket<Waiter> | undefined)[]
  readonly #draining = new Set<UpstreamSocket<Waiter>>()
  #silences: number[] = []
  #withoutEdnsUntilMs = 0
  #retired = false

  constructor(target: UpstreamAddress, clock: Clock) {
    this.target = target
    this.isLocal = isLoopback(target.address)
    this.#clock = clock
    const isPublic = !isLoopbackOrPrivate(target.address)
    this.#nameCase = isPublic ? new NameCase() : undefined
    this.#slots = Array.from({ length: isPublic ? poolSizePublic : poolSizePrivate })
  }

  /** True after three silences in 10 s without a reply since. */
  get suspect(): boolean {
    return this.#silences.length >= suspectSilences
  }

  /** How long to wait before asking again: four round trips, 300 ms to 1 s. */
  get resendMs(): number {
    return Math.max(300, Math.min(1_000, 4 * this.roundTripMs))
  }

  /** The monotonic time its replies are measured in. */
  nowMs(): number {
    return this.#clock.monotonicMs()
  }

  /** True while replies may still come. */
  get busy(): boolean {
    return this.#draining.size > 0 || this.#slots.some((socket) => socket !== undefined && socket.pending.size > 0)
  }

  /** True when this query should carry our OPT; with DO it always does, because without the answer is of no use. */
  wantsEdns(query: Query, nowMs: number): boolean {
    return query.dnssecOk || nowMs >= this.#withoutEdnsUntilMs
  }

  /** Remembers that this upstream answers only without EDNS. */
  failedOnEdns(nowMs: number): void {
    this.#withoutEdnsUntilMs = nowMs + withoutEdnsMs
  }

  /** Sends a message (its id is set here) for a waiter; false when it cannot be sent at all, as after `retire`. */
  send(message: Buffer, waiter: Waiter, nowMs: number): boolean {
    this.#nameCase?.mix(message, waiter.query.questionEnd, nowMs)
    const sent = !this.#retired && this.#socket(nowMs).send(message, waiter, nowMs)
    if (sent) this.counters.sent++
    else this.counters.unreachable++
    return sent
  }

  /** Counts silences, forgets queries nobody waits for and closes drained sockets. */
  tick(nowMs: number): void {
    for (const socket of this.#slots) if (socket) this.#sweep(socket, nowMs)
    for (const socket of this.#draining) {
      this.#sweep(socket, nowMs)
      if (socket.pending.size === 0) this.#drop(socket)
    }
  }

  /** Forgets what is known about its speed: the network changed. */
  forgetSpeed(): void {
    this.roundTripMs = firstRoundTripMs
    this.#silences = []
  }

  /** Takes a reply that came another way (TCP) as a sign of life. */
  alive(): void {
    this.#silences = []
  }

  /** Sends nothing any more; what was asked may still be answered, until it would be asked again. */
  retire(): void {
    this.#retired = true
  }

  /** Closes all sockets; whoever still waits hears that nobody is there, so that no race waits for what cannot come. */
  close(): void {
    this.#retired = true
    const open = [...this.#slots, ...this.#draining].filter((socket) => socket !== undefined)
    const waiters = open.flatMap((socket) => [...socket.pending.values()].map((sent) => sent.waiter))
    for (const socket of open) socket.close()
    this.#slots.fill(undefined)
    this.#draining.clear()
    this.#events.onUnreachable(waiters)
  }

  #socket(nowMs: number): UpstreamSocket<Waiter> {
    const slot = random16() % this.#slots.length
    const found = this.#slots[slot]
    if (found && !found.broken && found.sends < socketQueriesMax && nowMs - found.openedAtMs < socketLifeMs)
      return found
    if (found) this.#retire(found)
    const socket = new UpstreamSocket<Waiter>(this.target, this.#events, nowMs)
    this.#slots[slot] = socket
    return socket
  }

  #retire(socket: UpstreamSocket<Waiter>): void {
    if (socket.pending.size > 0) this.#draining.add(socket)
    else socket.close()
    const [oldest] = this.#draining
    if (oldest && this.#draining.size > drainingMax) this.#drop(oldest)
  }

  #drop(socket: UpstreamSocket<Waiter>): void {
    this.#draining.delete(socket)
    socket.close()
  }

  readonly #events = {
    onMessage: (message: Buffer, sent: Sent<Waiter>): boolean => {
      const { waiter } = sent
      const nowMs = this.#clock.monotonicMs()
      const reply = classify(message, waiter.query)
      if (reply === undefined) {
        this.counters.rejected++
        return false
      }
      const { questionEnd } = waiter.query
      if (this.#nameCase && !this.#nameCase.accepts(message, sent.message, { questionEnd, nowMs })) {
        this.counters.otherCase++
        return false
      }
      this.counters.replies++
      this.roundTripMs += (nowMs - sent.sentAtMs - this.roundTripMs) / 8
      if (this.#silences.length > 0) this.#silences = []
      if (!waiter.done) waiter.onReply(reply, nowMs)
      return true
    },
    onUnreachable: (waiters: readonly Waiter[]): void => {
      const nowMs = this.#clock.monotonicMs()
      this.counters.unreachable += waiters.length
      for (const waiter of waiters) if (!waiter.done) waiter.onUnreachable(nowMs)
    },
  }

  /** Oldest first, so the loop ends at the first query that is still young. */
  #sweep(socket: UpstreamSocket<Waiter>, nowMs: number): void {
    for (const [id, sent] of socket.pending) {
      const ageMs = nowMs - sent.sentAtMs
      if (ageMs < this.resendMs) return
      if (!sent.counted) this.#silence(nowMs)
      sent.counted = true
      if (sent.waiter.done || ageMs > lateReplyMs) socket.pending.delete(id)
    }
  }

  #silence(nowMs: number): void {
    this.counters.silences++
    this.#silences = [...this.#silences.slice(1 - suspectSilences), nowMs].filter((at) => nowMs - at < suspectWindowMs)
  }
}
