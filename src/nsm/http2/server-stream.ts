import { encodeHeaders, type HeaderList } from './hpack.ts'
import { Stream, type StreamOutlet } from './stream.ts'

/** A request of a client; the answer's side is the caller's to use. */
export class ServerStream extends Stream {
  /** Names of the request's header, each followed by its value. */
  readonly fields: readonly string[]
  /** What they take, in bytes. */
  readonly headerBytes: number
  hasHeaders = false

  constructor(
    id: number,
    parts: { readonly header: HeaderList; readonly sendWindow: number; readonly outlet: StreamOutlet },
  ) {
    super(id, parts)
    this.fields = parts.header.fields
    this.headerBytes = parts.header.bytes
  }

  /** Sends the header of the answer; nothing more follows a last one. */
  respond(fields: Readonly<Record<string, string | number>> | Buffer, isLast = false): void {
    if (this.isClosed || this.hasHeaders) return
    this.hasHeaders = true
    this.outlet.headers(this, Buffer.isBuffer(fields) ? fields : encodeHeaders(fields), isLast)
  }

  /** Ends the answer once its body has left. */
  end(trailers: Readonly<Record<string, string | number>> | Buffer): void {
    if (this.isClosed || this.ending) return
    this.ending = Buffer.isBuffer(trailers) ? trailers : encodeHeaders(trailers)
    this.outlet.pump(this)
  }
}
