import { nobody, Stream, type StreamListener } from './stream.ts'

/** Who hears of an answer. */
export interface ClientStreamListener extends StreamListener {
  /** A header block: names, each followed by its value. The last one has the trailers, or there is nothing but it. */
  onHeader(fields: readonly string[], isLast: boolean): void
}

/** A request of ours. */
export class ClientStream extends Stream {
  override listener: ClientStreamListener = { ...nobody, onHeader() {} }

  /** Sends the last bytes of the body, or says that there are no more. */
  finish(bytes?: Buffer): void {
    if (this.isClosed || this.ending) return
    this.ending = 'body'
    if (bytes) this.outlet.send(this, bytes)
    else this.outlet.pump(this)
  }

  /** Says that nobody waits for it any more. */
  reset(code: number): void {
    if (!this.isClosed) this.outlet.reset(this, code)
  }
}
