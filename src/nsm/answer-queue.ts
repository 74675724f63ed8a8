/** Ours: answers that wait for their reader; then the server is to wait too. */
const waitingMaxBytes = 32 * 1024
/** Ours: what a message takes here besides its bytes, so that empty ones count as well. */
const messageOverheadBytes = 128

/** Messages of one stream between the connection and the loop that reads them, and what comes after the last one. */
export class AnswerQueue<End> {
  readonly #messages: Buffer[] = []
  #bytes = 0
  #end: { readonly end: End } | undefined
  #wake = () => {}

  /** Adds a message; false: no more until `hasRoom`. */
  push(message: Buffer): boolean {
    this.#messages.push(message)
    this.#bytes += message.length + messageOverheadBytes
    this.#wake()
    return this.hasRoom
  }

  get hasRoom(): boolean {
    return this.#bytes < waitingMaxBytes
  }

  /** Comes after what is there. */
  end(end: End): void {
    this.#end ??= { end }
    this.#wake()
  }

  /** Comes at once; what is there is dropped. */
  cut(end: End): void {
    this.#messages.length = 0
    this.end(end)
  }

  /** The next message, or the end; for one reader. */
  async next(): Promise<Buffer | { readonly end: End }> {
    for (;;) {
      const message = this.#messages.shift()
      if (message) this.#bytes -= message.length + messageOverheadBytes
      const found = message ?? this.#end
      if (found) return found
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}
