import { flags, frameHead, frameTypes, headersFrames, payloadMaxBytes } from './frames.ts'
import type { Outbox } from './outbox.ts'
import { initialWindowBytes, type Stream } from './stream.ts'

/* Bodies wait here for the window of their stream, the window of the connection, and the socket:
 *
 *   send > backlog > pump > Outbox.   A stream that gets its turn goes to the end of the row. */

/** Ours: answers that wait on one connection; four calls with the longest lists, or all its calls with a long one. */
const waitingMaxBytes = 8 * 1024 * 1024
/** Ours: less than this between two looks at a stream is no progress; a modem moves it in a second. */
const progressMinBytes = 1_024
/** [RFC 9113 6.9.1] */
const windowMaxBytes = 2 ** 31 - 1
/** [RFC 7541 6.3] "The table has no room", which is true of what we send. */
const tableOfNothing = Buffer.from([0x20])

const nothing = Buffer.alloc(0)

/** What a sender has its session do. */
export interface SenderEvents {
  /** The last that we say on a stream is on its way. */
  onSaid(stream: Stream): void
  /** Something of substance is on its way. */
  onMoved(): void
}

/** What leaves on the streams of one connection. */
export class Sender {
  readonly #out: Outbox
  readonly #streams: Map<number, Stream>
  readonly #events: SenderEvents
  #window = initialWindowBytes
  #waitingBytes = 0
  #movedBytes = 0
  /** At the last look; more than any number when the socket had room then. */
  #unsentBytes = Number.POSITIVE_INFINITY
  #isTableToSay = false

  constructor(out: Outbox, streams: Map<number, Stream>, events: SenderEvents) {
    this.#out = out
    this.#streams = streams
    this.#events = events
  }

  /** [RFC 7541 4.2] The other side wants a smaller table than it began with: the next header says which one. */
  sayTable(): void {
    this.#isTableToSay = true
  }

  headers(stream: Stream, block: Buffer, isLast: boolean): void {
    const whole = this.#isTableToSay ? Buffer.concat([tableOfNothing, block]) : block
    this.#isTableToSay = false
    this.#out.write(headersFrames(stream.id, whole, isLast))
    if (isLast) this.#said(stream)
  }

  /** False: more waits now than may. */
  send(stream: Stream, bytes: Buffer): boolean {
    stream.backlog.push(bytes)
    this.#waitingBytes += bytes.length
    this.pump(stream)
    return this.#waitingBytes <= waitingMaxBytes
  }

  /** Sends what the windows and the socket have room for. */
  pump(stream: Stream): void {
    for (let next = stream.backlog[0]; next; next = stream.backlog[0]) {
      const room = this.#out.isBlocked ? 0 : Math.min(stream.sendWindow, this.#window, payloadMaxBytes)
      if (room <= 0) return
      const piece = next.subarray(0, room)
      if (piece.length === next.length) stream.backlog.shift()
      else stream.backlog[0] = next.subarray(room)
      this.#data(stream, piece, stream.ending === 'body' && stream.backlog.length === 0)
      this.#count(stream, piece.length)
      if (piece.length === next.length || piece.length >= progressMinBytes) this.#events.onMoved()
    }
    if (stream.isSaid || stream.isClosed) return
    if (stream.ending === 'body') this.#data(stream, nothing, true)
    else if (stream.ending) this.headers(stream, stream.ending, true)
    else if (stream.isDrainAwaited) {
      stream.isDrainAwaited = false
      stream.listener.onDrain()
    }
  }

  #data(stream: Stream, piece: Buffer, isLast: boolean): void {
    const set = isLast ? flags.endStream : 0
    this.#out.write(frameHead({ type: frameTypes.data, flags: set, streamId: stream.id, length: piece.length }))
    if (piece.length > 0) this.#out.write(piece)
    if (isLast) this.#said(stream)
  }

  #said(stream: Stream): void {
    stream.isSaid = true
    this.#events.onSaid(stream)
  }

  #count(stream: Stream, bytes: number): void {
    stream.sendWindow -= bytes
    stream.movedBytes += bytes
    this.#window -= bytes
    this.#waitingBytes -= bytes
    this.#movedBytes += bytes
  }

  /** The socket has room again. */
  drained(): void {
    this.#out.isBlocked = false
    this.#pumpAll()
  }

  /** The other side takes so many more bytes of all streams; false: more than can be. */
  grant(bytes: number): boolean {
    const wasShut = this.#window <= 0
    this.#window += bytes
    if (wasShut) this.#pumpAll()
    return this.#window <= windowMaxBytes
  }

  /** As `grant`, of one stream. */
  grantStream(stream: Stream, bytes: number): boolean {
    stream.sendWindow += bytes
    if (stream.sendWindow > windowMaxBytes) return false
    this.pump(stream)
    return true
  }

  /** [RFC 9113 6.9.2] As `grant`, of each stream; less than nothing takes back. */
  grantEach(bytes: number): boolean {
    if (bytes === 0) return true
    for (const stream of this.#streams.values()) {
      stream.sendWindow += bytes
      if (stream.sendWindow > windowMaxBytes) return false
    }
    if (bytes > 0) this.#pumpAll()
    return true
  }

  /** Drops what waits on a stream. */
  forget(stream: Stream): void {
    for (const { length } of stream.backlog) this.#waitingBytes -= length
    stream.backlog.length = 0
  }

  /** True: the socket had no room at the last look, and has taken nothing since. */
  isStuck(unsentBytes: number): boolean {
    const { isBlocked } = this.#out
    const before = this.#unsentBytes
    this.#unsentBytes = isBlocked ? unsentBytes : Number.POSITIVE_INFINITY
    return isBlocked && unsentBytes >= before
  }

  /** Streams that waited at the last look, and whose reader has taken next to nothing since. */
  stalled(): Stream[] {
    if (this.#out.isBlocked) return []
    const isMoving = this.#movedBytes >= progressMinBytes
    this.#movedBytes = 0
    return [...this.#streams.values()].filter((stream) => {
      const { hasWaited, movedBytes, sendWindow } = stream
      stream.hasWaited = stream.backlog.length > 0
      stream.movedBytes = 0
      const isShut = sendWindow <= 0 || !isMoving
      return hasWaited && stream.hasWaited && movedBytes < progressMinBytes && isShut
    })
  }

  #pumpAll(): void {
    for (const stream of [...this.#streams.values()]) {
      if (this.#out.isBlocked || this.#window <= 0) return
      if (stream.backlog.length === 0) continue
      this.#streams.delete(stream.id)
      this.#streams.set(stream.id, stream)
      this.pump(stream)
    }
  }
}
