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
  /** The begin of a message, in a buffer with room for more: pieces of one byte each do not cost a buffer each. */
  #held = Buffer.alloc(0)
  #heldBytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Bytes of a message that is not whole yet. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  /** Takes the next piece and gives the messages that are whole with it. A fault is final, and shows before its message. */
  push(piece: Buffer): readonly Buffer[] | MessageFault {
    const bytes = this.#heldBytes === 0 ? piece : this.#append(piece)
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
    if (bytes === piece || at > 0) this.#hold(bytes.subarray(at))
    return messages
  }

  #append(piece: Buffer): Buffer {
    const bytes = this.#heldBytes + piece.length
    if (bytes > this.#held.length) this.#grow(bytes)
    this.#held.set(piece, this.#heldBytes)
    this.#heldBytes = bytes
    return this.#held.subarray(0, bytes)
  }

  #grow(bytes: number): void {
    const larger = Buffer.allocUnsafe(bytes * 2)
    larger.set(this.#held.subarray(0, this.#heldBytes))
    this.#held = larger
  }

  /** Copied: a piece may be a small part of a large buffer. */
  #hold(rest: Buffer): void {
    this.#held = Buffer.from(rest)
    this.#heldBytes = rest.length
  }
}
