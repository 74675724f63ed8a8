/** How a stream ended: whole; by the other side's RST_STREAM with this code; without having been looked at; with its connection;
 * because its header is larger than we take; by us. */
export type StreamEnd = 'whole' | { readonly resetCode: number } | 'unprocessed' | 'lost' | 'too-large' | 'ours'

/** Who hears of a stream. */
export interface StreamListener {
  /** The next bytes of the body; a view that is valid until it returns. */
  onData(piece: Buffer): void
  /** The other side has said its last. */
  onEnd(): void
  /** There is room again after `send` said that there is none. */
  onDrain(): void
  /** Nothing of the stream is left; called once, whatever ended it. */
  onClose(end: StreamEnd): void
}

/** What a stream has its session do. */
export interface StreamOutlet {
  headers(stream: Stream, block: Buffer, isLast: boolean): void
  /** Sends bytes of the body, or has them wait. */
  send(stream: Stream, bytes: Buffer): void
  /** There is an end to send. */
  pump(stream: Stream): void
  /** Bytes of it may be sent to us again. */
  credit(stream: Stream, bytes: number): void
  /** Ends it without a word of substance. */
  reset(stream: Stream, code: number): void
}

/** [RFC 9113 6.9.2] Bytes that a side may send on a stream until more is said. */
export const initialWindowBytes = 65_535

/** Hears nothing. */
export const nobody: StreamListener = { onData() {}, onEnd() {}, onDrain() {}, onClose() {} }

/** One request and its answer, from either side. Its session moves it. */
export class Stream {
  readonly id: number
  listener: StreamListener = nobody
  /** Both ways, in bytes. */
  sendWindow: number
  receiveWindow = initialWindowBytes
  /** The other side has said its last. */
  isRead = false
  /** Our last is on its way. */
  isSaid = false
  isClosed = false
  /** Waits for room: parts of the body, and what ends it: trailers, or the last of the body itself. */
  readonly backlog: Buffer[] = []
  ending: Buffer | 'body' | undefined
  isDrainAwaited = false
  /** Since the last look for streams that stand still: bytes sent, and whether more waited then. */
  movedBytes = 0
  hasWaited = false
  protected readonly outlet: StreamOutlet
  #owedBytes = 0
  #isPaused = false

  constructor(id: number, parts: { readonly sendWindow: number; readonly outlet: StreamOutlet }) {
    this.id = id
    this.sendWindow = parts.sendWindow
    this.outlet = parts.outlet
  }

  /** Sends bytes of the body after the header; false: wait for `onDrain` before the next ones. */
  send(bytes: Buffer): boolean {
    if (this.isClosed || this.isSaid || this.ending) return true
    this.outlet.send(this, bytes)
    this.isDrainAwaited = this.backlog.length > 0 && !this.isClosed
    return !this.isDrainAwaited
  }

  /** The other side may send no more than it has been allowed to. */
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
    this.outlet.credit(this, this.#owedBytes)
    this.#owedBytes = 0
  }
}
