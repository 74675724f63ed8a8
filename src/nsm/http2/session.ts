import { FloodLimit, idleEarned, idleRate, resetRate } from './flood-limit.ts'
import {
  errorCodes,
  type Frame,
  FrameReader,
  flags,
  frame,
  frameTypes,
  numberFrame,
  settingIds,
  settingsPayload,
  withoutPadding,
} from './frames.ts'
import { HeaderDecoder } from './hpack.ts'
import { Outbox } from './outbox.ts'
import { PeerSettings } from './peer-settings.ts'
import { Sender } from './sender.ts'
import { initialWindowBytes, ServerStream, type StreamOutlet } from './stream.ts'

/* The server's side of one HTTP/2 connection, as much of [RFC 9113] as gRPC needs: bytes and the time in, bytes and streams out.
 * No push, no priorities; what the client compresses is read, what we send is not compressed.
 *
 * In:  socket > receive > FrameReader > #onFrame > a stream's listener.   Out: respond, send, end > Sender > #out > one write.
 * What is answered while a piece is read leaves in one write at its end; what is answered later, in one of its turn. */

/** What a session is connected to. */
export interface SessionIo {
  /** Takes what the session hands over; false: no more until `drained`. */
  write(bytes: Buffer): boolean
  /** Bytes that it holds and the machine has not taken. */
  unsentBytes(): number
  /** Ends the connection once everything is written. */
  end(): void
  onStream(stream: ServerStream): void
}

/** What a client may do. */
export interface SessionLimits {
  readonly streamsMax: number
  readonly headerListMaxBytes: number
}

/** Ours: what the client may send on all streams together before it hears from us; a few requests of usual size each. */
const connectionWindowBytes = 1024 * 1024
/** Ours: a client that makes us answer and does not read is cut; answers of calls wait before that. */
const unsentMaxBytes = 4 * 1024 * 1024
/** Ours: one header block with its continuations, coded; and how many of them. */
const blockMaxBytes = 64 * 1024
const continuationsMax = 8
/** [RFC 9113 6.8] A goaway that closes nothing yet. */
const lastStreamMax = 2 ** 31 - 1

/** The server's side of one connection. */
export class ServerSession {
  readonly #io: SessionIo
  readonly #limits: SessionLimits
  readonly #reader = new FrameReader()
  readonly #decoder: HeaderDecoder
  readonly #streams = new Map<number, ServerStream>()
  readonly #peer = new PeerSettings()
  readonly #resets = new FloodLimit(resetRate)
  readonly #idle = new FloodLimit(idleRate)
  readonly #outlet: StreamOutlet
  readonly #out: Outbox
  readonly #sender: Sender
  #isClosed = false
  #isClosing = false
  #lastId = 0
  /** The last stream as we have said it. */
  #saidLastId = lastStreamMax
  #receiveWindow = connectionWindowBytes
  #nowMs = 0
  /** A header block that is not whole. */
  #block: { readonly id: number; readonly isLast: boolean; readonly pieces: Buffer[]; bytes: number } | undefined
  #onPong: (() => void) | undefined

  constructor(io: SessionIo, limits: SessionLimits) {
    this.#io = io
    this.#out = new Outbox(io)
    this.#limits = limits
    this.#decoder = new HeaderDecoder(limits.headerListMaxBytes)
    this.#sender = new Sender(this.#out, this.#streams, {
      onAnswered: (stream) => this.#answered(stream),
      onMoved: () => this.#idle.earn(idleEarned),
    })
    this.#outlet = {
      headers: (stream, block, isLast) => this.#sender.headers(stream, block, isLast),
      send: (stream, bytes) => {
        if (!this.#sender.send(stream, bytes)) this.#reset(stream, errorCodes.calm)
      },
      pump: (stream) => this.#sender.pump(stream),
      credit: (stream, bytes) => {
        stream.receiveWindow += bytes
        this.#out.write(numberFrame(frameTypes.windowUpdate, stream.id, bytes))
      },
    }
    const settings = settingsPayload([
      [settingIds.maxStreams, limits.streamsMax],
      [settingIds.maxHeaderList, limits.headerListMaxBytes],
    ])
    this.#out.write(frame({ type: frameTypes.settings, flags: 0, streamId: 0 }, settings))
    this.#out.write(numberFrame(frameTypes.windowUpdate, 0, connectionWindowBytes - initialWindowBytes))
  }

  get openStreams(): number {
    return this.#streams.size
  }

  /** Takes the next bytes of the client; `nowMs` is monotonic. */
  receive(piece: Buffer, nowMs: number): void {
    if (this.#isClosed) return
    this.#nowMs = nowMs
    this.#out.hold()
    const fault = this.#reader.push(piece, (one) => {
      if (this.#isClosed) return
      const wrong = this.#onFrame(one)
      if (wrong !== undefined) this.fail(wrong)
    })
    if (fault !== undefined) this.fail(fault)
    this.#out.flush()
    if (this.#io.unsentBytes() > unsentMaxBytes) this.fail(errorCodes.calm)
  }

  /** The socket has room again. */
  drained(): void {
    this.#sender.drained()
  }

  /** To be called now and then: ends calls whose answers have waited since the last time, and a connection that stands still. */
  endStalled(): void {
    if (this.#isClosed) return
    if (this.#sender.isStuck(this.#io.unsentBytes())) this.fail(errorCodes.calm)
    else for (const stream of this.#sender.stalled()) this.#reset(stream, errorCodes.calm)
  }

  /** Asks for an answer from the other side; one at a time. */
  ping(onPong: () => void): void {
    if (this.#isClosed) return
    this.#onPong = onPong
    this.#out.write(frame({ type: frameTypes.ping, flags: 0, streamId: 0 }, Buffer.alloc(8)))
  }

  /** Says that no new calls are wanted here, and still takes those that come. */
  leave(): void {
    if (!this.#isClosed) this.#goaway(lastStreamMax, errorCodes.none)
  }

  /** Takes no new streams, and ends the connection with the last one. */
  close(): void {
    if (this.#isClosing || this.#isClosed) return
    this.#isClosing = true
    this.#goaway(this.#lastId, errorCodes.none)
    this.#endIfIdle()
  }

  /** Ends the connection and all its streams, and says why. */
  fail(code: number): void {
    if (this.#isClosed) return
    this.#goaway(this.#lastId, code)
    this.#out.flush()
    this.#io.end()
    this.lost()
  }

  /** The connection is gone. */
  lost(): void {
    this.#isClosed = true
    for (const stream of [...this.#streams.values()]) this.#closeStream(stream)
  }

  /** [RFC 9113 6.8] The last stream is never a later one than before: the client may have asked elsewhere already. */
  #goaway(lastId: number, code: number): void {
    this.#saidLastId = Math.min(this.#saidLastId, lastId)
    const payload = Buffer.allocUnsafe(8)
    payload.writeUInt32BE(this.#saidLastId)
    payload.writeUInt32BE(code, 4)
    this.#out.write(frame({ type: frameTypes.goaway, flags: 0, streamId: 0 }, payload))
  }

  /** An error code of the connection, for a frame that must not be. */
  #onFrame(one: Frame): number | undefined {
    if (this.#block && one.type !== frameTypes.continuation) return errorCodes.protocol
    if (!this.#peer.isKnown && one.type !== frameTypes.settings) return errorCodes.protocol
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
        return this.#idled() ?? this.#onIdle(one)
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
      default:
        return undefined
    }
  }

  #idled(): number | undefined {
    return this.#idle.count(this.#nowMs) ? undefined : errorCodes.calm
  }

  #onData(one: Frame): number | undefined {
    const { streamId, payload } = one
    const body = withoutPadding(one)
    if (!body || streamId === 0 || streamId > this.#lastId) return errorCodes.protocol
    this.#receiveWindow -= payload.length
    if (this.#receiveWindow < 0) return errorCodes.flowControl
    if (this.#receiveWindow < connectionWindowBytes / 2) this.#creditConnection()
    const stream = this.#streams.get(streamId)
    if (!stream) return this.#idled()
    if (stream.isRead) return errorCodes.protocol
    stream.receiveWindow -= payload.length
    if (stream.receiveWindow < 0) return errorCodes.flowControl
    if (body.length > 0) stream.listener.onData(body)
    if (one.flags & flags.endStream) {
      this.#onLast(stream)
      return undefined
    }
    stream.received(payload.length)
    return body.length > 0 ? undefined : this.#idled()
  }

  #creditConnection(): void {
    this.#out.write(numberFrame(frameTypes.windowUpdate, 0, connectionWindowBytes - this.#receiveWindow))
    this.#receiveWindow = connectionWindowBytes
  }

  #onHeaders(one: Frame): number | undefined {
    const piece = withoutPadding(one)
    if (!piece || one.streamId % 2 === 0) return errorCodes.protocol
    const isLast = (one.flags & flags.endStream) !== 0
    if (one.flags & flags.endHeaders) return this.#onBlock(one.streamId, piece, isLast)
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
    return this.#onBlock(block.id, Buffer.concat(block.pieces), block.isLast)
  }

  /** Every block is decoded, also one that nobody wants: the next ones rest on it. */
  #onBlock(id: number, block: Buffer, isLast: boolean): number | undefined {
    const list = this.#decoder.decode(block)
    if (!list) return errorCodes.compression
    if (id <= this.#lastId) return this.#onTrailers(id, isLast)
    this.#lastId = id
    if (this.#isClosing) return this.#refuse(id, errorCodes.refusedStream)
    if (list.isTooLarge) return this.#refuse(id, errorCodes.calm)
    if (this.#streams.size >= this.#limits.streamsMax) return this.#refuse(id, errorCodes.refusedStream)
    if (!isRequest(list.fields)) return this.#refuse(id, errorCodes.protocol)
    this.#idle.earn(idleEarned)
    const parts = { header: list, sendWindow: this.#peer.initialWindowBytes, outlet: this.#outlet }
    const stream = new ServerStream(id, parts)
    this.#streams.set(id, stream)
    this.#io.onStream(stream)
    if (isLast) this.#onLast(stream)
    return undefined
  }

  #onTrailers(id: number, isLast: boolean): number | undefined {
    const stream = this.#streams.get(id)
    if (!stream) return this.#unwanted()
    if (!isLast || stream.isRead) return errorCodes.protocol
    this.#onLast(stream)
    return undefined
  }

  #onLast(stream: ServerStream): void {
    stream.isRead = true
    if (!stream.isClosed) stream.listener.onEnd()
  }

  /** A stream that is turned away counts as one that was reset: it costs us as much. */
  #refuse(id: number, code: number): number | undefined {
    this.#out.write(numberFrame(frameTypes.reset, id, code))
    return this.#unwanted()
  }

  #unwanted(): number | undefined {
    return this.#resets.count(this.#nowMs) ? undefined : errorCodes.calm
  }

  #onReset({ streamId, payload }: Frame): number | undefined {
    if (payload.length !== 4) return errorCodes.frameSize
    if (streamId === 0 || streamId > this.#lastId) return errorCodes.protocol
    const stream = this.#streams.get(streamId)
    if (!stream) return this.#idled()
    this.#closeStream(stream)
    return this.#unwanted()
  }

  #onSettings(one: Frame): number | undefined {
    if (one.streamId !== 0) return errorCodes.protocol
    if (one.flags & flags.ack) return one.payload.length === 0 ? undefined : errorCodes.frameSize
    const { initialWindowBytes: before, isTableSmaller: wasSmaller } = this.#peer
    const fault = this.#peer.read(one.payload)
    if (fault !== undefined) return fault
    this.#out.write(frame({ type: frameTypes.settings, flags: flags.ack, streamId: 0 }, Buffer.alloc(0)))
    if (this.#peer.isTableSmaller && !wasSmaller) this.#sender.sayTable()
    return this.#sender.grantEach(this.#peer.initialWindowBytes - before) ? undefined : errorCodes.flowControl
  }

  #onPing(one: Frame): number | undefined {
    if (one.streamId !== 0) return errorCodes.protocol
    if (one.payload.length !== 8) return errorCodes.frameSize
    if ((one.flags & flags.ack) === 0) {
      this.#out.write(frame({ type: frameTypes.ping, flags: flags.ack, streamId: 0 }, one.payload))
      return undefined
    }
    this.#onPong?.()
    this.#onPong = undefined
    return undefined
  }

  #onWindowUpdate({ streamId, payload }: Frame): number | undefined {
    if (payload.length !== 4) return errorCodes.frameSize
    const bytes = payload.readUInt32BE() & 0x7fff_ffff
    if (bytes === 0 || streamId > this.#lastId) return errorCodes.protocol
    const stream = this.#streams.get(streamId)
    if (streamId !== 0 && !stream) return undefined
    const isPossible = stream ? this.#sender.grantStream(stream, bytes) : this.#sender.grant(bytes)
    return isPossible ? undefined : errorCodes.flowControl
  }

  /** [RFC 9113 8.1] A client that still sends is told that we need no more. */
  #answered(stream: ServerStream): void {
    if (!stream.isRead) this.#out.write(numberFrame(frameTypes.reset, stream.id, errorCodes.none))
    this.#closeStream(stream)
  }

  #reset(stream: ServerStream, code: number): void {
    this.#out.write(numberFrame(frameTypes.reset, stream.id, code))
    this.#closeStream(stream)
  }

  #closeStream(stream: ServerStream): void {
    if (stream.isClosed) return
    stream.isClosed = true
    this.#sender.forget(stream)
    this.#streams.delete(stream.id)
    stream.listener.onClose()
    this.#endIfIdle()
  }

  #endIfIdle(): void {
    if (!this.#isClosing || this.#isClosed || this.#streams.size > 0) return
    this.#out.flush()
    this.#isClosed = true
    this.#io.end()
  }
}

/** [RFC 9113 8.2, 8.3.1] A request has its three pseudo fields once and first, and names in lower case. */
function isRequest(fields: readonly string[]): boolean {
  const seen = new Set<string>()
  let isPseudoOver = false
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] ?? ''
    if (!name.startsWith(':')) isPseudoOver = true
    else if (isPseudoOver || seen.has(name)) return false
    else seen.add(name)
    if (/[A-Z\s]/.test(name)) return false
  }
  return seen.has(':method') && seen.has(':path') && seen.has(':scheme')
}
