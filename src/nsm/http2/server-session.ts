import { FloodLimit, resetRate } from './flood-limit.ts'
import { errorCodes, frameTypes, numberFrame, settingIds } from './frames.ts'
import type { HeaderList } from './hpack.ts'
import { ServerStream } from './server-stream.ts'
import { isWellFormed, Session, type SessionIo } from './session.ts'
import type { Stream } from './stream.ts'

/** What a server's session is connected to. */
export interface ServerSessionIo extends SessionIo {
  onStream(stream: ServerStream): void
}

/** What a client may do. */
export interface SessionLimits {
  readonly streamsMax: number
  readonly headerListMaxBytes: number
}

/** The server's side of one connection. */
export class ServerSession extends Session<ServerStream> {
  readonly #io: ServerSessionIo
  readonly #limits: SessionLimits
  readonly #resets = new FloodLimit(resetRate)
  #isClosing = false

  constructor(io: ServerSessionIo, limits: SessionLimits) {
    super(io, { peer: 'client', headerListMaxBytes: limits.headerListMaxBytes })
    this.#io = io
    this.#limits = limits
    this.greet([
      [settingIds.maxStreams, limits.streamsMax],
      [settingIds.maxHeaderList, limits.headerListMaxBytes],
    ])
  }

  /** To be called now and then: ends calls whose answers have waited since the last time, and a connection that stands still. */
  endStalled(): void {
    if (this.isClosed) return
    if (this.sender.isStuck(this.io.unsentBytes())) this.fail(errorCodes.calm)
    else for (const stream of this.sender.stalled()) this.reset(stream, errorCodes.calm)
  }

  /** Says that no new calls are wanted here, and still takes those that come. */
  leave(): void {
    if (!this.isClosed) this.sayLeaving()
  }

  /** Takes no new streams, and ends the connection with the last one. */
  close(): void {
    if (this.#isClosing || this.isClosed) return
    this.#isClosing = true
    this.goaway(this.lastId, errorCodes.none)
    this.onStreamClosed()
  }

  protected get lastPeerId(): number {
    return this.lastId
  }

  protected onBlock(id: number, list: HeaderList, isLast: boolean): number | undefined {
    if (id <= this.lastId) return this.#onTrailers(id, isLast)
    this.lastId = id
    if (this.#isClosing) return this.#refuse(id, errorCodes.refusedStream)
    if (list.isTooLarge) return this.#refuse(id, errorCodes.calm)
    if (this.streams.size >= this.#limits.streamsMax) return this.#refuse(id, errorCodes.refusedStream)
    if (!isWellFormed(list.fields, requestPseudo)) return this.#refuse(id, errorCodes.protocol)
    this.earn()
    const parts = { header: list, sendWindow: this.peer.initialWindowBytes, outlet: this.outlet }
    const stream = new ServerStream(id, parts)
    this.streams.set(id, stream)
    this.#io.onStream(stream)
    if (isLast) this.read(stream)
    return undefined
  }

  #onTrailers(id: number, isLast: boolean): number | undefined {
    const stream = this.streams.get(id)
    if (!stream) return this.onWasReset()
    if (!isLast || stream.isRead) return errorCodes.protocol
    this.read(stream)
    return undefined
  }

  protected onLast(stream: ServerStream): void {
    stream.listener.onEnd()
  }

  /** [RFC 9113 8.1] A client that still sends is told that we need no more. */
  protected onSaid(stream: Stream): void {
    if (!stream.isRead) this.reset(stream, errorCodes.none, 'whole')
    else this.closeStream(stream, 'whole')
  }

  protected onLate(): number | undefined {
    return this.idled()
  }

  /** A stream that is turned away counts as one that was reset: it costs us as much. */
  #refuse(id: number, code: number): number | undefined {
    this.out.write(numberFrame(frameTypes.reset, id, code))
    return this.onWasReset()
  }

  protected onWasReset(): number | undefined {
    return this.#resets.count(this.nowMs) ? undefined : errorCodes.calm
  }

  protected onGoaway(): undefined {}

  protected onPeerSettings(): void {}

  protected onStreamClosed(): void {
    if (this.#isClosing && !this.isClosed && this.streams.size === 0) this.end()
  }
}

/** [RFC 9113 8.3.1] */
const requestPseudo = [':method', ':path', ':scheme']
