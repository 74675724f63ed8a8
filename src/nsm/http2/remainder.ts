/**
 * The begin of what is not whole yet, in a buffer with room for more: pieces of one byte each do not cost a copy of all
 * that is there each.
 */
export class Remainder {
  #bytes = Buffer.alloc(0)
  #length = 0

  /** Bytes that are kept. */
  get length(): number {
    return this.#length
  }

  /** What is kept, and the piece behind it; a view that is not written to again. */
  with(piece: Buffer): Buffer {
    if (this.#length === 0) return piece
    const length = this.#length + piece.length
    if (length > this.#bytes.length) this.#grow(length)
    this.#bytes.set(piece, this.#length)
    this.#length = length
    return this.#bytes.subarray(0, length)
  }

  /** Keeps what `with` gave, from `at` on. Copied: a piece may be a small part of a large buffer. */
  keep(bytes: Buffer, at: number): void {
    if (at === 0 && bytes.length === this.#length) return
    this.#bytes = Buffer.from(bytes.subarray(at))
    this.#length = this.#bytes.length
  }

  #grow(length: number): void {
    const larger = Buffer.allocUnsafe(length * 2)
    larger.set(this.#bytes.subarray(0, this.#length))
    this.#bytes = larger
  }
}
