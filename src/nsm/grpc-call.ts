import { NsmError } from '../base/errors.ts'
import type { Visit } from './anonymous-visit.ts'
import type { Call } from './call.ts'
import { toGrpcStatus } from './grpc-errors.ts'
import { type CallHeaders, grpcMediaType } from './grpc-headers.ts'
import { MessageReader } from './grpc-message.ts'
import { cutInMessage, deadlinePassed, type GrpcStatus, readFault, trailersOf } from './grpc-status.ts'
import { encodeHeaders } from './http2/hpack.ts'
import type { ServerStream } from './http2/server-stream.ts'
import type { StreamListener } from './http2/stream.ts'
import type { OwnHop, PeerContext } from './peer.ts'

/** What the server knows about the connection of a call. */
export interface CallOrigin {
  readonly own: OwnHop
  readonly address: string
  /** The time limits of a caller without a certificate. */
  readonly visit: Visit | undefined
  /** The caller of a call with these headers; throws `IDENTITY` when what TLS verified is valid no more. */
  peerOf(headers: CallHeaders): PeerContext | undefined
}

/** Bytes of headers and requests on one connection: all its calls together hold no more. */
export interface HeldBytes {
  used: number
  readonly max: number
}

/** What reads the requests of a call. */
export interface RequestReader {
  /** A whole message; valid until it returns. The result says whether the next one may come. */
  onMessage(message: Buffer): boolean
  /** Bytes of the messages that it still has. */
  readonly keptBytes: number
  /** The caller sends no more. */
  onEnd(): void
}

const okHeader = { ':status': 200, 'content-type': grpcMediaType }
/* Nearly all answers have these, encoded once. */
const okHeaderBlock = encodeHeaders(okHeader)
const okTrailersBlock = encodeHeaders({ 'grpc-status': 0 })

/**
 * One call on one HTTP/2 stream. It ends once: with a status, or because the caller has gone, and then what a handler
 * still says is dropped.
 *
 *   open --finish, fail--> answered;   open --reset, lost connection--> gone
 */
export class GrpcCall implements Call, StreamListener {
  readonly peer: PeerContext | undefined
  readonly own: OwnHop
  readonly address: string
  readonly visit: Visit | undefined
  /** Wall milliseconds, `undefined` without a deadline. */
  readonly deadlineMs: number | undefined
  readonly #stream: ServerStream
  readonly #headers: CallHeaders
  readonly #held: HeldBytes
  readonly #onClose: (call: GrpcCall) => void
  #ownHeader: Readonly<Record<string, string>> | undefined
  #reader: RequestReader | undefined
  readonly #messages: MessageReader
  #heldBytes = 0
  #drained = () => {}
  #over = false
  #ending: AbortController | undefined

  constructor(
    stream: ServerStream,
    parts: {
      readonly headers: CallHeaders
      readonly origin: CallOrigin
      readonly peer: PeerContext | undefined
      readonly deadlineMs: number | undefined
      readonly held: HeldBytes
      readonly requestMaxBytes: number
      /** Called once, when nothing of the call is left. */
      readonly onClose: (call: GrpcCall) => void
    },
  ) {
    const { origin } = parts
    this.#stream = stream
    this.#headers = parts.headers
    this.#held = parts.held
    this.deadlineMs = parts.deadlineMs
    this.own = origin.own
    this.address = origin.address
    this.visit = origin.visit
    this.peer = parts.peer
    this.#onClose = parts.onClose
    this.#messages = new MessageReader(parts.requestMaxBytes)
    this.#count()
    stream.listener = this
  }

  get signal(): AbortSignal {
    if (!this.#ending) {
      this.#ending = new AbortController()
      if (this.#over) this.#ending.abort(callerGone)
    }
    return this.#ending.signal
  }

  /** True: the status is on its way, or the caller has gone. */
  get isOver(): boolean {
    return this.#over
  }

  remainingMs(nowMs: number): number {
    return this.deadlineMs === undefined ? 0 : Math.max(0, this.deadlineMs - nowMs)
  }

  metadata(key: string): string | undefined {
    return this.#headers.last(key)
  }

  setHeader(key: string, value: string): void {
    this.#ownHeader = { ...this.#ownHeader, [key]: value }
  }

  /** Sets who reads; it hears nothing more once the call is over. */
  read(reader: RequestReader): void {
    this.#reader = reader
  }

  onData(piece: Buffer): void {
    if (this.#over) return
    const found = this.#messages.push(piece)
    if (typeof found === 'string') return void this.end(readFault(found))
    for (const message of found) if (!this.#reader?.onMessage(message)) this.#stream.pause()
    this.#count()
    if (this.#held.used > this.#held.max) this.end(readFault('too-large'))
  }

  onEnd(): void {
    if (this.#over) return
    if (this.#messages.heldBytes > 0) this.end(cutInMessage)
    else this.#reader?.onEnd()
  }

  onDrain(): void {
    this.#drained()
  }

  onClose(): void {
    this.#hold(0)
    if (!this.#over) this.#abort()
    this.#onClose(this)
  }

  /** Goes on after a reader had enough. */
  resume(): void {
    this.#count()
    this.#stream.resume()
  }

  /** Sends framed messages; resolves when there is room for more, at once when the call is over. */
  async send(frames: Buffer): Promise<void> {
    if (this.#over) return
    this.#respond()
    if (this.#stream.send(frames)) return
    await new Promise<void>((resolve) => {
      this.#drained = resolve
    })
  }

  /** Ends well, with these framed messages as the last ones. */
  finish(frames?: Buffer): void {
    if (this.#over) return
    this.#over = true
    this.#respond()
    if (frames) this.#stream.send(frames)
    this.#stream.end(okTrailersBlock)
  }

  /** Ends with the status of a failure. */
  fail(thrown: unknown): void {
    this.end(toGrpcStatus(thrown))
  }

  /** Ends with this status. */
  end(status: GrpcStatus): void {
    if (this.#over) return
    if (this.#stream.hasHeaders) this.#stream.end(trailersOf(status))
    else refuse(this.#stream, status, this.#ownHeader)
    this.#abort()
  }

  /** The deadline has passed. */
  expire(): void {
    this.end(deadlinePassed)
  }

  #respond(): void {
    this.#stream.respond(this.#ownHeader ? { ...okHeader, ...this.#ownHeader } : okHeaderBlock)
  }

  /** A request counts as long as its call: it is there until then. */
  #count(): void {
    this.#hold(this.#stream.headerBytes + this.#messages.heldBytes + (this.#reader?.keptBytes ?? 0))
  }

  #hold(bytes: number): void {
    this.#held.used += bytes - this.#heldBytes
    this.#heldBytes = bytes
  }

  #abort(): void {
    this.#over = true
    this.#ending?.abort(callerGone)
    this.#drained()
  }
}

/** Ends a stream that has no answer with a status. */
export function refuse(stream: ServerStream, status: GrpcStatus, header?: Readonly<Record<string, string>>): void {
  stream.respond({ ...okHeader, ...header, ...trailersOf(status) }, true)
}

/** One for all calls: a reason of its own takes a stack trace each time. */
const callerGone = new NsmError('UNREACHABLE', 'the caller went away', 'call again')
