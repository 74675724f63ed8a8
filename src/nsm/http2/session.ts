import { FloodLimit, idleEarned, idleRate } from './flood-limit.ts'
import {
  errorCodes,
  type Frame,
  FrameReader,
  flags,
  frame,
  frameTypes,
  numberFrame,
  settingsPayload,
  withoutPadding,
} from './frames.ts'
import { HeaderDecoder, type HeaderList } from './hpack.ts'
import { Outbox } from './outbox.ts'
import { PeerSettings } from './peer-settings.ts'
import { Sender } from './sender.ts'
import { initialWindowBytes, type Stream, type StreamEnd, type StreamOutlet } from './stream.ts'

/* What both sides of one HTTP/2 connection have in common, as much of [RFC 9113] as gRPC needs: bytes and the time in, bytes and
 * streams out. No push, no priorities; what the other side compresses is read, what we send is not compressed.
 *
 * In:  socket > receive > FrameReader > #onFrame > a stream's listener.   Out: a stream > Sender > out > one write.
 * What is answered while a piece is read leaves in one write at its end; what is answered later, in one of its turn. */

/** What a session is connected to. */
export interface SessionIo {
  /** Takes what the session hands over; false: no more until `drained`. */
  write(bytes: Buffer): boolean
  /** Bytes that it holds and the machine has not taken. */
  unsentBytes(): number
  /** Ends the connection once everything is written. */
  end(): void
}

/** Ours: what the other side may send on all streams together before it hears from us; a few messages of usual size each. */
const connectionWindowBytes = 1024 * 1024
/** Ours: a peer that makes us answer and does not read is cut; bodies wait before that. */
const unsentMaxBytes = 4 * 1024 * 1024
/** Ours: one header block with its continuations, coded; and how many of them. */
const blockMaxBytes = 64 * 1024
const continuationsMax = 8
/** [RFC 9113 6.8] A goaway that closes nothing yet. */
const lastStreamMax = 2 ** 31 - 1

/** One side of a connection. What a side alone does, its own class says. */
export abstract class Session<S extends Stream> {
  protected readonly out: Outbox
  protected readonly sender: Sender
  protected readonly streams = new Map<number, S>()
  protected readonly peer = new PeerSettings()
  protected readonly outlet: StreamOutlet
  protected readonly io: SessionIo
  /** The last stream that the client has opened. */
  protected lastId = 0
  protected nowMs = 0
  protected isClosed = false
  readonly #reader: FrameReader
  readonly #decoder: HeaderDecoder
  readonly #idle = new FloodLimit(idleRate)
  /** The last stream as we have said it. */
  #saidLastId = lastStreamMax
  #receiveWindow = connectionWindowBytes
  /** A header block that is not whole. */
  #block: { readonly id: number; readonly isLast: boolean; readonly pieces: Buffer[]; bytes: number } | undefined
  #onPong: (() => void) | undefined

  constructor(io: SessionIo, parts: { readonly peer: 'client' | 'server'; readonly headerListMaxBytes: number }) {
    this.io = io
    this.out = new Outbox(io)
    this.#reader = new FrameReader(parts.peer)
    this.#decoder = new HeaderDecoder(parts.headerListMaxBytes)
    this.sender = new Sender(this.out, this.streams, {
      onSaid: (stream) => this.onSaid(stream),
      onMoved: () => this.earn(),
    })
    this.outlet = {
      headers: (stream, block, isLast) => this.sender.headers(stream, block, isLast),
      send: (stream, bytes) => {
        if (!this.sender.send(stream, bytes)) this.reset(stream, errorCodes.calm)
      },
      pump: (stream) => this.sender.pump(stream),
      credit: (stream, bytes) => {
        stream.receiveWindow += bytes
        this.out.write(numberFrame(frameTypes.windowUpdate, stream.id, bytes))
      },
      reset: (stream, code) => this.reset(stream, code),
    }
  }

  /** The last stream that the other side has opened, and we have looked at. */
  protected abstract readonly lastPeerId: number
  /** A whole header block; the result as that of `onFrame`. */
  protected abstract onBlock(id: number, list: HeaderList, isLast: boolean): number | undefined
  /** The other side has said its last on a stream. */
  protected abstract onLast(stream: S): void
  /** The last that we say on a stream is on its way. */
  protected abstract onSaid(stream: Stream): void
  /** A piece of a body for a stream that is over. */
  protected abstract onLate(): number | undefined
  /** A stream was reset by the other side. */
  protected abstract onWasReset(): number | undefined
  protected abstract onGoaway(payload: Buffer): number | undefined
  /** The other side has changed its settings. */
  protected abstract onPeerSettings(): void
  /** Nothing of a stream is left. */
  protected abstract onStreamClosed(): void

  get openStreams(): number {
    return this.streams.size
  }

  /** Takes the next bytes of the other side; `nowMs` is monotonic. */
  receive(piece: Buffer, nowMs: number): void {
    if (this.isClosed) return
    this.nowMs = nowMs
    this.out.hold()
    const fault = this.#reader.push(piece, (one) => {
      if (this.isClosed) return
      const wrong = this.#onFrame(one)
      if (wrong !== undefined) this.fail(wrong)
    })
    if (fault !== undefined) this.fail(fault)
    this.out.flush()
    if (this.io.unsentBytes() > unsentMaxBytes) this.fail(errorCodes.calm)
  }

  /** The socket has room again. */
  drained(): void {
    this.sender.drained()
  }

  /** Asks for an answer from the other side; one at a time. */
  ping(onPong: () => void): void {
    if (this.isClosed) return
    this.#onPong = onPong
    this.out.write(frame({ type: frameTypes.ping, flags: 0, streamId: 0 }, Buffer.alloc(8)))
  }

  /** Ends the connection and all its streams, and says why. */
  fail(code: number): void {
    if (this.isClosed) return
    this.goaway(this.lastPeerId, code)
    this.end()
    this.lost()
  }

  /** The connection is gone. */
  lost(): void {
    this.isClosed = true
    for (const stream of [...this.streams.values()]) this.closeStream(stream, 'lost')
  }

  /** Says what we allow; the first that the other side hears, but for a client's preface. */
  protected greet(settings: readonly (readonly [id: number, value: number])[]): void {
    this.out.write(frame({ type: frameTypes.settings, flags: 0, streamId: 0 }, settingsPayload(settings)))
    this.out.write(numberFrame(frameTypes.windowUpdate, 0, connectionWindowBytes - initialWindowBytes))
  }

  /** Says that no new streams are wanted here; those that come are still taken. */
  protected sayLeaving(): void {
    this.goaway(lastStreamMax, errorCodes.none)
  }

  /** [RFC 9113 6.8] The last stream is never a later one than before: the client may have asked elsewhere already. */
  protected goaway(lastId: number, code: number): void {
    this.#saidLastId = Math.min(this.#saidLastId, lastId)
    const payload = Buffer.allocUnsafe(8)
    payload.writeUInt32BE(this.#saidLastId)
    payload.writeUInt32BE(code, 4)
    this.out.write(frame({ type: frameTypes.goaway, flags: 0, streamId: 0 }, payload))
  }

  /** Ends the connection once everything is written. */
  protected end(): void {
    this.out.flush()
    this.isClosed = true
    this.io.end()
  }

  protected reset(stream: Stream, code: number, end: StreamEnd = 'ours'): void {
    this.out.write(numberFrame(frameTypes.reset, stream.id, code))
    this.closeStream(stream, end)
  }

  protected closeStream(stream: Stream, end: StreamEnd): void {
    if (stream.isClosed) return
    stream.isClosed = true
    this.sender.forget(stream)
    this.streams.delete(stream.id)
    stream.listener.onClose(end)
    this.onStreamClosed()
  }

  /** Counts a frame that moves nothing. */
  protected idled(): number | undefined {
    return this.#idle.count(this.nowMs) ? undefined : errorCodes.calm
  }

  /** Something of substance happened, which such frames may go with. */
  protected earn(): void {
    this.#idle.earn(idleEarned)
  }

  /** An error code of the connection, for a frame that must not be. */
  #onFrame(one: Frame): number | undefined {
    if (this.#block && one.type !== frameTypes.continuation) return errorCodes.protocol
    if (!this.peer.isKnown && one.type !== frameTypes.settings) return errorCodes.protocol
    switch (one.type) {
      case frameTypes.data:
        return this.#onData(one)
      case frameTypes.headers:
        return this.#onHeaders(one)
      case frameTypes.continuation:
        return this.#onContinuation(one)
      case frameTypes.reset:
        return this.#onReset(one)
      case frameTypes.push:
        return errorCodes.protocol
      default:
        return this.idled() ?? this.#onIdle(one)
    }
  }

  /** Frames that move nothing by themselves; [RFC 9113 5.5] those that we do not know are passed over. */
  #onIdle(one: Frame): number | undefined {
    switch (one.type) {
      case frameTypes.settings:
        return this.#onSettings(one)
      case frameTypes.ping:
        return this.#onPing(one)
      case frameTypes.windowUpdate:
        return this.#onWindowUpdate(one)
      case frameTypes.goaway:
        return this.onGoaway(one.payload)
      default:
        return undefined
    }
  }

  #onData(one: Frame): number | undefined {
    const { streamId, payload } = one
    const body = withoutPadding(one)
    if (!body || streamId === 0 || streamId > this.lastId) return errorCodes.protocol
    this.#receiveWindow -= payload.length
    if (this.#receiveWindow < 0) return errorCodes.flowControl
    if (this.#receiveWindow < connectionWindowBytes / 2) this.#creditConnection()
    const stream = this.streams.get(streamId)
    if (!stream) return body.length > 0 ? this.onLate() : this.idled()
    if (stream.isRead) return errorCodes.protocol
    stream.receiveWindow -= payload.length
    if (stream.receiveWindow < 0) return errorCodes.flowControl
    if (body.length > 0) stream.listener.onData(body)
    if (one.flags & flags.endStream) {
      this.read(stream)
      return undefined
    }
    stream.received(payload.length)
    return body.length > 0 ? undefined : this.idled()
  }

  /** The other side has said its last. */
  protected read(stream: S): void {
    stream.isRead = true
    if (!stream.isClosed) this.onLast(stream)
  }

  #creditConnection(): void {
    this.out.write(numberFrame(frameTypes.windowUpdate, 0, connectionWindowBytes - this.#receiveWindow))
    this.#receiveWindow = connectionWindowBytes
  }

  #onHeaders(one: Frame): number | undefined {
    const piece = withoutPadding(one)
    if (!piece || one.streamId % 2 === 0) return errorCodes.protocol
    const isLast = (one.flags & flags.endStream) !== 0
    if (one.flags & flags.endHeaders) return this.#decode(one.streamId, piece, isLast)
    this.#block = { id: one.streamId, isLast, pieces: [Buffer.from(piece)], bytes: piece.length }
    return undefined
  }

  #onContinuation(one: Frame): number | undefined {
    const block = this.#block
    if (block?.id !== one.streamId) return errorCodes.protocol
    block.pieces.push(Buffer.from(one.payload))
    block.bytes += one.payload.length
    if (block.bytes > blockMaxBytes || block.pieces.length > continuationsMax) return errorCodes.calm
    if ((one.flags & flags.endHeaders) === 0) return undefined
    this.#block = undefined
    return this.#decode(block.id, Buffer.concat(block.pieces), block.isLast)
  }

  /** Every block is decoded, also one that nobody wants: the next ones rest on it. */
  #decode(id: number, block: Buffer, isLast: boolean): number | undefined {
    const list = this.#decoder.decode(block)
    return list ? this.onBlock(id, list, isLast) : errorCodes.compression
  }

  #onReset({ streamId, payload }: Frame): number | undefined {
    if (payload.length !== 4) return errorCodes.frameSize
    if (streamId === 0 || streamId > this.lastId) return errorCodes.protocol
    const stream = this.streams.get(streamId)
    if (!stream) return this.idled()
    this.closeStream(stream, { resetCode: payload.readUInt32BE() })
    return this.onWasReset()
  }

  #onSettings(one: Frame): number | undefined {
    if (one.streamId !== 0) return errorCodes.protocol
    if (one.flags & flags.ack) return one.payload.length === 0 ? undefined : errorCodes.frameSize
    const { initialWindowBytes: before, isTableSmaller: wasSmaller } = this.peer
    const fault = this.peer.read(one.payload)
    if (fault !== undefined) return fault
    this.out.write(frame({ type: frameTypes.settings, flags: flags.ack, streamId: 0 }, Buffer.alloc(0)))
    if (this.peer.isTableSmaller && !wasSmaller) this.sender.sayTable()
    if (!this.sender.grantEach(this.peer.initialWindowBytes - before)) return errorCodes.flowControl
    this.onPeerSettings()
    return undefined
  }

  #onPing(one: Frame): number | undefined {
    if (one.streamId !== 0) return errorCodes.protocol
    if (one.payload.length !== 8) return errorCodes.frameSize
    if ((one.flags & flags.ack) === 0) {
      this.out.write(frame({ type: frameTypes.ping, flags: flags.ack, streamId: 0 }, one.payload))
      return undefined
    }
    this.#onPong?.()
    this.#onPong = undefined
    return undefined
  }

  #onWindowUpdate({ streamId, payload }: Frame): number | undefined {
    if (payload.length !== 4) return errorCodes.frameSize
    const bytes = payload.readUInt32BE() & 0x7fff_ffff
    if (bytes === 0 || streamId > this.lastId) return errorCodes.protocol
    const stream = this.streams.get(streamId)
    if (streamId !== 0 && !stream) return undefined
    const isPossible = stream ? this.sender.grantStream(stream, bytes) : this.sender.grant(bytes)
    return isPossible ? undefined : errorCodes.flowControl
  }
}

/** [RFC 9113 8.2, 8.3] True when these pseudo fields are there once and first, and names are in lower case. */
export function isWellFormed(fields: readonly string[], pseudo: readonly string[]): boolean {
  const seen = new Set<string>()
  let isPseudoOver = false
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] ?? ''
    if (!name.startsWith(':')) isPseudoOver = true
    else if (isPseudoOver || seen.has(name)) return false
    else seen.add(name)
    if (/[A-Z\s]/.test(name)) return false
  }
  return pseudo.every((name) => seen.has(name))
}
