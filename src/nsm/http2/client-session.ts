import { ClientStream, type ClientStreamListener } from './client-stream.ts'
import { errorCodes, preface, settingIds } from './frames.ts'
import type { HeaderList } from './hpack.ts'
import { isWellFormed, Session, type SessionIo } from './session.ts'

/** What a client's session is connected to. */
export interface ClientSessionIo extends SessionIo {
  /** The server has said its settings for the first time. */
  onReady(): void
  /** No new streams are wanted here: the server said so, or we end the connection. */
  onLeaving(): void
  /** There may be room for a stream. */
  onRoom(): void
}

/** [RFC 9113 5.1.1] */
const streamIdMax = 2 ** 31 - 1

/** The client's side of one connection. */
export class ClientSession extends Session<ClientStream> {
  readonly #io: ClientSessionIo
  #isReady = false
  #isLeaving = false

  constructor(io: ClientSessionIo, headerListMaxBytes: number) {
    super(io, { peer: 'server', headerListMaxBytes })
    this.#io = io
    this.out.write(preface)
    this.greet([
      [settingIds.enablePush, 0],
      [settingIds.maxHeaderList, headerListMaxBytes],
    ])
  }

  /** True: a stream may be opened. */
  get hasRoom(): boolean {
    return this.#isReady && !this.#isLeaving && !this.isClosed && this.streams.size < this.peer.streamsMax
  }

  /** Sends the header of a request; only while there is room. */
  open(block: Buffer, listener: ClientStreamListener): ClientStream {
    this.lastId = this.lastId === 0 ? 1 : this.lastId + 2
    const stream = new ClientStream(this.lastId, { sendWindow: this.peer.initialWindowBytes, outlet: this.outlet })
    stream.listener = listener
    this.streams.set(stream.id, stream)
    this.earn()
    this.sender.headers(stream, block, false)
    if (this.lastId >= streamIdMax) this.#leave()
    return stream
  }

  /** Ends all streams and the connection. */
  close(): void {
    for (const stream of [...this.streams.values()]) this.reset(stream, errorCodes.cancel, 'lost')
    this.fail(errorCodes.none)
  }

  protected readonly lastPeerId = 0

  protected onBlock(id: number, list: HeaderList, isLast: boolean): number | undefined {
    if (id > this.lastId) return errorCodes.protocol
    const stream = this.streams.get(id)
    if (!stream) return this.idled()
    if (list.isTooLarge) this.reset(stream, errorCodes.calm, 'too-large')
    else if (!isWellFormed(list.fields, [])) this.reset(stream, errorCodes.protocol, { resetCode: errorCodes.protocol })
    else stream.listener.onHeader(list.fields, isLast)
    if (isLast) this.read(stream)
    return isLast ? undefined : this.idled()
  }

  /** [RFC 9113 8.1] A server that has answered need not hear the rest of the question. */
  protected onLast(stream: ClientStream): void {
    stream.listener.onEnd()
    if (stream.isSaid) this.closeStream(stream, 'whole')
    else if (!stream.isClosed) this.reset(stream, errorCodes.cancel, 'whole')
  }

  protected onSaid(): void {}

  /** What was on its way when we lost interest. */
  protected onLate(): undefined {}

  /** It ends a stream of ours, so there are no more of them than we have opened. */
  protected onWasReset(): undefined {}

  protected onGoaway(payload: Buffer): number | undefined {
    if (payload.length < 8) return errorCodes.frameSize
    const lastId = payload.readUInt32BE() & 0x7fff_ffff
    this.#leave()
    for (const stream of [...this.streams.values()]) if (stream.id > lastId) this.closeStream(stream, 'unprocessed')
    return undefined
  }

  #leave(): void {
    if (this.#isLeaving) return
    this.#isLeaving = true
    this.#io.onLeaving()
    this.#endIfIdle()
  }

  protected onPeerSettings(): void {
    const isFirst = !this.#isReady
    this.#isReady = true
    if (isFirst) this.#io.onReady()
    else this.#io.onRoom()
  }

  protected onStreamClosed(): void {
    this.#endIfIdle()
    if (!this.isClosed) this.#io.onRoom()
  }

  /** What was written last may take a while; nobody waits for that with a new stream. */
  protected override end(): void {
    super.end()
    this.#leave()
  }

  #endIfIdle(): void {
    if (this.#isLeaving && !this.isClosed && this.streams.size === 0) this.end()
  }
}
