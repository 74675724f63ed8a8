import { encodeHeaders, type HeaderList } from './hpack.ts'

/** Who hears of a stream. */
export interface StreamListener {
  /** The next bytes of the body; a view that is valid until it returns. */
  onData(piece: Buffer): void
  /** The client has said its last. */
  onEnd(): void
  /** There is room again after `send` said that there is none. */
  onDrain(): void
  /** Nothing of the stream is left; called once, whatever ended it. */
  onClose(): void
}

/** What a stream has its session do. */
export interface StreamOutlet {
  headers(stream: ServerStream, block: Buffer, isLast: boolean): void
  /** Sends bytes of the body, or has them wait. */
  send(stream: ServerStream, bytes: Buffer): void
  /** There is an end to send. */
  pump(stream: ServerStream): void
  /** Bytes of it may be sent to us again. */
  credit(stream: ServerStream, bytes: number): void
}

/** [RFC 9113 6.9.2] Bytes that a side may send on a stream until more is said. */
export const initialWindowBytes = 65_535

const nobody: StreamListener = { onData() {}, onEnd() {}, onDrain() {}, onClose() {} }

/** One request and its answer. Its session moves it; the answer's side is the caller's to use. */
export class ServerStream {
  readonly id: number
  /** Names of the request's header, each followed by its value. */
  readonly fields: readonly string[]
  /** What they take, in bytes. */
  readonly headerBytes: number
  listener = nobody
  /** Both ways, in bytes. */
  sendWindow: number
  receiveWindow = initialWindowBytes
  /** The client has said its last. */
  isRead = false
  isClosed = false
  hasHeaders = false
  /** Waits for room: parts of the body, and what ends it. */
  readonly backlog: Buffer[] = []
  trailers: Buffer | undefined
  isDrainAwaited = false
  /** Since the last look for streams that stand still: bytes sent, and whether more waited then. */
  movedBytes = 0
  hasWaited = false
  readonly #outlet: StreamOutlet
  #owedBytes = 0
  #isPaused = false

  constructor(
    id: number,
    parts: { readonly header: HeaderList; readonly sendWindow: number; readonly outlet: StreamOutlet },
  ) {
    this.id = id
    this.fields = parts.header.fields
    this.headerBytes = parts.header.bytes
    this.sendWindow = parts.sendWindow
    this.#outlet = parts.outlet
  }

  /** Sends the header of the answer; nothing more follows a last one. */
  respond(fields: Readonly<Record<string, string | number>> | Buffer, isLast = false): void {
    if (this.isClosed || this.hasHeaders) return
    this.hasHeaders = true
    this.#outlet.headers(this, Buffer.isBuffer(fields) ? fields : encodeHeaders(fields), isLast)
  }

  /** Sends bytes of the body after the header; false: wait for `onDrain` before the next ones. */
  send(bytes: Buffer): boolean {
    if (this.isClosed || this.trailers) return true
    this.#outlet.send(this, bytes)
    this.isDrainAwaited = this.backlog.length > 0 && !this.isClosed
    return !this.isDrainAwaited
  }

  /** Ends the answer once its body has left. */
  end(trailers: Readonly<Record<string, string | number>> | Buffer): void {
    if (this.isClosed || this.trailers) return
    this.trailers = Buffer.isBuffer(trailers) ? trailers : encodeHeaders(trailers)
    this.#outlet.pump(this)
  }

  /** The client may send no more than it has been allowed to. */
  pause(): void {
    this.#isPaused = true
  }

  resume(): void {
    this.#isPaused = false
    this.received(0)
  }

  /** Counts what came in, and allows as much again. */
  received(bytes: number): void {
    this.#owedBytes += bytes
    if (this.#isPaused || this.isRead || this.isClosed || this.#owedBytes < initialWindowBytes / 2) return
    this.#outlet.credit(this, this.#owedBytes)
    this.#owedBytes = 0
  }
}
