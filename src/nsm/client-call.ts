import type { PeerIdentity } from '../identity/verify.ts'
import {
  answerFault,
  type CallEnd,
  deadlineOver,
  endOfStream,
  endOfTrailers,
  headerFault,
  malformedAnswer,
} from './call-end.ts'
import type { ClientConnection } from './client-connection.ts'
import { CallHeaders } from './grpc-headers.ts'
import { MessageReader } from './grpc-message.ts'
import type { ClientStream, ClientStreamListener } from './http2/client-stream.ts'
import { errorCodes } from './http2/frames.ts'
import type { StreamEnd } from './http2/stream.ts'
import { messageMaxBytes } from './limits.ts'

/** What is asked. */
export interface Question {
  readonly path: string
  readonly metadata?: Readonly<Record<string, string>> | undefined
  /** The framed request; undefined when requests are sent one by one. */
  readonly request?: Buffer
  /** From the start, connecting included; undefined: no deadline. */
  readonly timeoutMs?: number
  /** False: fails as soon as the server cannot be reached. */
  readonly wait: boolean
}

/** What finds connections for calls. */
export interface Carrier {
  /** For a call that nobody has looked at. */
  again(call: ClientCall): void
  /** The call is over. */
  forget(call: ClientCall): void
}

/** Who hears of a call. */
export interface CallListener {
  /** It has a stream: requests may be sent. */
  onBegin?(): void
  /** The header of the answer. */
  onHeader(header: CallHeaders): void
  /** A whole message, valid until it returns. The result says whether the next one may come. */
  onMessage(message: Buffer): boolean
  /** Called once, unless the call was cancelled. */
  onEnd(end: CallEnd): void
}

/**
 * One call of ours. It ends once.
 *
 *   waiting --connection--> open --trailers, reset, lost, deadline, cancel--> over
 *      ^--not looked at, once--'
 */
export class ClientCall implements ClientStreamListener {
  readonly path: string
  readonly metadata: Readonly<Record<string, string>> | undefined
  readonly timeoutMs: number | undefined
  readonly wait: boolean
  /** The server of the connection that carries it. */
  server: PeerIdentity | undefined
  readonly #request: Buffer | undefined
  readonly #carrier: Carrier
  readonly #listener: CallListener
  readonly #messages = new MessageReader(messageMaxBytes)
  #stream: ClientStream | undefined
  #header: CallHeaders | undefined
  #trailers: CallHeaders | undefined
  #isOver = false
  #isSecond = false
  #drained = () => {}

  constructor(carrier: Carrier, question: Question, listener: CallListener) {
    this.#carrier = carrier
    this.path = question.path
    this.metadata = question.metadata
    this.timeoutMs = question.timeoutMs
    this.wait = question.wait
    this.#request = question.request
    this.#listener = listener
  }

  /** True: it has ended, or was cancelled. */
  get isOver(): boolean {
    return this.#isOver
  }

  /** Goes over this connection, which has room. */
  begin(connection: ClientConnection, header: Buffer): void {
    this.server = connection.server
    this.#stream = connection.open(header, this)
    if (this.#request) this.#stream?.finish(this.#request)
    else this.#listener.onBegin?.()
  }

  /** Sends a framed request; resolves when there is room for more, at once when the call is over. */
  async send(request: Buffer): Promise<void> {
    if (this.#isOver || !this.#stream || this.#stream.send(request)) return
    await new Promise<void>((resolve) => {
      this.#drained = resolve
    })
  }

  /** Sends no more requests. */
  finish(): void {
    this.#stream?.finish()
  }

  /** Goes on after a listener had enough. */
  resume(): void {
    this.#stream?.resume()
  }

  /** Nobody wants it any more. */
  cancel(): void {
    if (this.#isOver) return
    this.#close()
    this.#stream?.reset(errorCodes.cancel)
  }

  /** Ends it, whatever the server does. */
  end(end: CallEnd): void {
    if (this.#isOver) return
    this.cancel()
    this.#listener.onEnd(end)
  }

  /** The deadline has passed. */
  expire(): void {
    this.end(deadlineOver)
  }

  onHeader(fields: readonly string[], isLast: boolean): void {
    if (this.#isOver) return
    const header = new CallHeaders(fields)
    const status = header.last(':status')
    if (this.#header) {
      if (!isLast || status !== undefined) return void this.end(malformedAnswer)
      this.#trailers = header
      return
    }
    if (!isLast && status?.startsWith('1')) return
    this.#header = header
    if (isLast) this.#trailers = header
    const fault = headerFault(header, isLast)
    if (fault) this.end(fault)
    else this.#listener.onHeader(header)
  }

  onData(piece: Buffer): void {
    if (this.#isOver) return
    if (!this.#header) return void this.end(malformedAnswer)
    const found = this.#messages.push(piece)
    if (typeof found === 'string') return void this.end(answerFault(found))
    for (const message of found) if (!this.#isOver && !this.#listener.onMessage(message)) this.#stream?.pause()
  }

  onEnd(): void {
    if (this.#isOver) return
    this.#close()
    this.#listener.onEnd(this.#messages.heldBytes > 0 ? malformedAnswer : endOfTrailers(this.#trailers))
  }

  onDrain(): void {
    this.#drained()
  }

  onClose(end: StreamEnd): void {
    this.#drained()
    if (this.#isOver) return
    if (this.#mayGoAgain(end)) return void this.#carrier.again(this)
    this.#close()
    this.#listener.onEnd(endOfStream(end))
  }

  /** [gRPC retry-design] What no program has looked at may be sent again, and is once; a stream of requests is gone. */
  #mayGoAgain(end: StreamEnd): boolean {
    const isRefused = typeof end === 'object' && end.resetCode === errorCodes.refusedStream
    if ((end !== 'unprocessed' && !isRefused) || this.#isSecond || this.#header || !this.#request) return false
    this.#isSecond = true
    return true
  }

  #close(): void {
    this.#isOver = true
    this.#carrier.forget(this)
    this.#drained()
  }
}
