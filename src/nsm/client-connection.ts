import type { Socket } from 'node:net'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import { ClientSession } from './http2/client-session.ts'
import type { ClientStream, ClientStreamListener } from './http2/client-stream.ts'
import { keepAlive } from './keepalive.ts'
import { metadataMaxBytes } from './limits.ts'
import { feed, outputOf } from './session-socket.ts'

/* dialing --connected, TLS verified--> greeting --SETTINGS--> ready --GOAWAY--> leaving --last call--> closed
 * From each: --lost, or silent for too long--> closed. */

/** How a connection to one server begins. */
export interface Dialing {
  /** Begins to connect. */
  open(): Socket
  /** The event of the socket that says it is connected. */
  readonly connectedEvent: 'connect' | 'secureConnect'
  /** It is; the result is who answered. */
  onConnected?(): PeerIdentity | undefined
}

/** Who hears of a connection. */
export interface ClientConnectionEvents {
  onReady(): void
  /** It takes no further calls, and lives on until its last one ends. */
  onLeaving(): void
  /** There may be room for a call. */
  onRoom(): void
  /** Called once; why, as far as it is known. */
  onClosed(why: unknown): void
}

/** [gRPC connection-backoff MIN_CONNECT_TIMEOUT] From the first packet to the server's SETTINGS. */
const readyMaxMs = 20_000
/** Above 5 minutes, and with calls only: servers in Go answer other pings with GOAWAY. */
const keepaliveMs = 310_000
const keepaliveTimeoutMs = 20_000

/** One connection to a server. */
export class ClientConnection {
  /** Whom the handshake of this connection has shown. */
  server: PeerIdentity | undefined
  readonly #socket: Socket
  readonly #clock: Clock
  readonly #events: ClientConnectionEvents
  #session: ClientSession | undefined
  #why: unknown
  readonly #timers: (() => void)[] = []

  constructor(dialing: Dialing, clock: Clock, events: ClientConnectionEvents) {
    this.#clock = clock
    this.#events = events
    this.#socket = dialing.open()
    const cancelReady = clock.after(readyMaxMs, () => this.#socket.destroy(tooSlow()))
    this.#timers.push(cancelReady)
    this.#socket.once(dialing.connectedEvent, () => {
      this.server = dialing.onConnected?.()
      if (!this.#socket.destroyed) this.#speak(cancelReady)
    })
    this.#socket.on('error', (error) => {
      this.#why ??= error
    })
    this.#socket.once('close', () => {
      for (const cancel of this.#timers) cancel()
      this.#session?.lost()
      events.onClosed(this.#why)
    })
    this.#keepAwake()
  }

  /** True: a call may begin. */
  get hasRoom(): boolean {
    return this.#session?.hasRoom ?? false
  }

  /** Begins a call, while there is room; undefined when there is none. */
  open(header: Buffer, listener: ClientStreamListener): ClientStream | undefined {
    const stream = this.#session?.open(header, listener)
    this.#keepAwake()
    return stream
  }

  /** Ends its calls and the connection. */
  close(): void {
    if (this.#session) this.#session.close()
    else this.#socket.destroy()
  }

  #speak(cancelReady: () => void): void {
    const socket = this.#socket
    const clock = this.#clock
    const { output, cancel } = outputOf(socket, clock)
    const session = new ClientSession(
      {
        ...output,
        onReady: () => {
          cancelReady()
          this.#events.onReady()
          this.#keepAwake()
        },
        onLeaving: () => this.#events.onLeaving(),
        onRoom: () => {
          this.#keepAwake()
          this.#events.onRoom()
        },
      },
      metadataMaxBytes,
    )
    this.#session = session
    const rhythm = { everyMs: keepaliveMs, timeoutMs: keepaliveTimeoutMs, isNeeded: () => session.openStreams > 0 }
    this.#timers.push(keepAlive({ session, socket, clock }, rhythm), cancel)
    feed(session, socket, clock)
  }

  /** A connection without a call does not keep the process, also while it is dialled. */
  #keepAwake(): void {
    if (this.#session?.openStreams) this.#socket.ref()
    else this.#socket.unref()
  }
}

function tooSlow(): NsmError {
  return new NsmError('UNREACHABLE', 'no answer', 'check that the server runs there')
}
