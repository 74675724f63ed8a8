import { Remainder } from './http2/remainder.ts'

/* [gRPC PROTOCOL-HTTP2] A message travels as one byte (1: compressed), its length in four bytes, and itself. HTTP/2 may cut
 * that anywhere. */

const prefixBytes = 5

/** The bytes of one message as they are sent; never compressed. */
export function frameMessage(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(prefixBytes + message.length)
  frame[0] = 0
  frame.writeUInt32BE(message.length, 1)
  frame.set(message, prefixBytes)
  return frame
}

/** Why a stream of messages cannot be read on. */
export type MessageFault = 'too-large' | 'compressed'

/**
 * Puts the messages of one direction of one call together. Pure; a message is a view into its piece, or into a buffer
 * that is not written to again.
 */
export class MessageReader {
  readonly #maxBytes: number
  readonly #rest = new Remainder()

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Bytes of a message that is not whole yet. */
  get heldBytes(): number {
    return this.#rest.length
  }

  /** Takes the next piece and gives the messages that are whole with it. A fault is final, and shows before its message. */
  push(piece: Buffer): readonly Buffer[] | MessageFault {
    const bytes = this.#rest.with(piece)
    const messages: Buffer[] = []
    let at = 0
    while (bytes.length - at >= prefixBytes) {
      if (bytes[at] !== 0) return 'compressed'
      const end = at + prefixBytes + bytes.readUInt32BE(at + 1)
      if (end - at - prefixBytes > this.#maxBytes) return 'too-large'
      if (end > bytes.length) break
      messages.push(bytes.subarray(at + prefixBytes, end))
      at = end
    }
    this.#rest.keep(bytes, at)
    return messages
  }
}
