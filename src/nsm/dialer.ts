import { randomInt } from 'node:crypto'
import { type Clock, keepingClock } from '../base/clock.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import { closed } from './call-end.ts'
import type { ClientCall } from './client-call.ts'
import { ClientConnection, type Dialing } from './client-connection.ts'
import { Deadlines } from './deadlines.ts'
import { noConnection } from './grpc-errors.ts'
import { grpcMediaType, timeoutText } from './grpc-headers.ts'
import { encodeHeaders } from './http2/hpack.ts'

/* idle --call--> dialing --ready--> ready --GOAWAY, lost--> idle
 *        ^-- pause <--failed--'
 * During the pause calls that do not wait fail; all others stay until there is a connection, or their deadline. */

/** Everything that is known of a server before it is dialled. */
export interface DialerSettings extends Dialing {
  readonly clock: Clock
  readonly scheme: 'https' | 'http'
  readonly authority: string
  /** Of the connection attempts; the first pause is `pauseMinMs`. */
  readonly pauseMaxMs: number
  /** What every call says besides its own; nothing where there is no identity to say it with. A failure ends the call. */
  metadata(server: PeerIdentity | undefined): Readonly<Record<string, string>>
  /** An attempt has failed. */
  onFailed?(error: unknown): void
}

/** Ours: between the begins of two attempts to connect. */
const pauseMinMs = 200
/** [gRPC connection-backoff] */
const pauseGrowth = 1.6
const pauseJitter = 0.2

/** One server: makes a connection when there is a call for it, and another one when that is lost. */
export class Dialer {
  readonly clock: Clock
  readonly #settings: DialerSettings
  /** In the order in which they came. */
  readonly #waiting = new Set<ClientCall>()
  readonly #deadlines: Deadlines<ClientCall>
  readonly #connections = new Set<ClientConnection>()
  /** Headers that are the same for each call, by path. */
  readonly #headers = new Map<string, Buffer>()
  #current: ClientConnection | undefined
  #dialing: ClientConnection | undefined
  /** Why the last attempt failed; undefined after one that did not. */
  #failure: { readonly error: unknown } | undefined
  #failures = 0
  #nextDialMs = Number.NEGATIVE_INFINITY
  #cancelPause: (() => void) | undefined
  #cancelAwake: (() => void) | undefined
  #isClosed = false

  constructor(settings: DialerSettings) {
    this.#settings = settings
    this.clock = settings.clock
    this.#deadlines = new Deadlines(settings.clock, (call) => call.expire())
  }

  /** Begins a call as soon as there is a connection with room for it. */
  start(call: ClientCall): void {
    if (call.timeoutMs !== undefined) this.#deadlines.add(call, call.timeoutMs)
    this.again(call)
  }

  /** As `start`, for a call that nobody has looked at: its deadline stays. */
  again(call: ClientCall): void {
    if (this.#isClosed) return void call.end(closed)
    if (this.#failure && !call.wait && !this.#dialing && this.clock.monotonicMs() < this.#nextDialMs) {
      return void call.end(noConnection(this.#failure.error))
    }
    this.#waiting.add(call)
    this.#begin()
    this.#awake()
    this.#dialInTime()
  }

  /** The call is over. */
  forget(call: ClientCall): void {
    this.#deadlines.remove(call)
    if (this.#waiting.delete(call)) this.#awake()
  }

  /** Ends all calls and connections. */
  close(): void {
    this.#isClosed = true
    this.#cancelPause?.()
    for (const call of [...this.#waiting]) call.end(closed)
    for (const connection of [...this.#connections]) connection.close()
    this.#deadlines.close()
  }

  /** Begins the calls that there is room for. */
  #begin(): void {
    for (const call of this.#waiting) {
      const connection = this.#current
      if (!connection?.hasRoom) return
      this.#waiting.delete(call)
      try {
        call.begin(connection, this.#headerOf(call, connection.server))
      } catch (error) {
        call.end(noConnection(error))
      }
    }
    this.#awake()
  }

  #headerOf(call: ClientCall, server: PeerIdentity | undefined): Buffer {
    const { authority, scheme, metadata } = this.#settings
    let block = this.#headers.get(call.path)
    if (!block) {
      block = encodeHeaders({
        ':method': 'POST',
        ':scheme': scheme,
        ':path': call.path,
        ':authority': authority,
        'content-type': grpcMediaType,
        te: 'trailers',
      })
      this.#headers.set(call.path, block)
    }
    const leftMs = this.#deadlines.leftMs(call)
    const timeout = leftMs === undefined ? {} : { 'grpc-timeout': timeoutText(leftMs) }
    return Buffer.concat([block, encodeHeaders({ ...timeout, ...call.metadata, ...metadata(server) })])
  }

  #dialInTime(): void {
    if (this.#isClosed || this.#current || this.#dialing || this.#cancelPause || this.#waiting.size === 0) return
    const pauseMs = this.#nextDialMs - this.clock.monotonicMs()
    if (pauseMs <= 0) return void this.#dial()
    this.#cancelPause = this.clock.after(pauseMs, () => {
      this.#cancelPause = undefined
      if (this.#waiting.size > 0) this.#dial()
    })
  }

  #dial(): void {
    this.#nextDialMs = this.clock.monotonicMs() + pauseOf(this.#failures, this.#settings.pauseMaxMs)
    const connection = new ClientConnection(this.#settings, this.clock, {
      onReady: () => {
        this.#dialing = undefined
        this.#current = connection
        this.#failures = 0
        this.#failure = undefined
        this.#begin()
      },
      onLeaving: () => this.#leave(connection),
      onRoom: () => this.#begin(),
      onClosed: (why) => {
        this.#connections.delete(connection)
        this.#leave(connection)
        if (connection === this.#dialing && !this.#isClosed) this.#failed(why)
      },
    })
    this.#dialing = connection
    this.#connections.add(connection)
  }

  #leave(connection: ClientConnection): void {
    if (connection !== this.#current) return
    this.#current = undefined
    this.#dialInTime()
  }

  #failed(error: unknown): void {
    this.#dialing = undefined
    this.#failures++
    this.#failure = { error }
    this.#settings.onFailed?.(error)
    for (const call of [...this.#waiting]) if (!call.wait) call.end(noConnection(error))
    this.#dialInTime()
  }

  /** A call that waits for a connection keeps the process, which nothing else would. */
  #awake(): void {
    if (this.#waiting.size > 0) this.#cancelAwake ??= keepingClock.after(Number.POSITIVE_INFINITY, () => {})
    else if (this.#cancelAwake) {
      this.#cancelAwake()
      this.#cancelAwake = undefined
    }
  }
}

function pauseOf(failures: number, maxMs: number): number {
  const pauseMs = Math.min(pauseMinMs * pauseGrowth ** failures, maxMs)
  return pauseMs * (1 - pauseJitter + (2 * pauseJitter * randomInt(jitterSteps)) / jitterSteps)
}

const jitterSteps = 10_000
