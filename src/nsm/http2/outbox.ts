/** Ours: as much is handed to the socket before it is asked whether it has room for more. */
const burstBytes = 256 * 1024

/** Collects what a session sends in one turn, and hands it over in one write: a call to the system costs more than a copy. */
export class Outbox {
  /** True: the socket has no room. What must go out is still written, the rest waits. */
  isBlocked = false
  readonly #io: { write(bytes: Buffer): boolean }
  #pieces: Buffer[] = []
  #bytes = 0
  /** Somebody is going to call `flush`. */
  #isHeld = false

  constructor(io: { write(bytes: Buffer): boolean }) {
    this.#io = io
  }

  /** Nothing leaves before `flush`, unless it is much. */
  hold(): void {
    this.#isHeld = true
  }

  write(bytes: Buffer): void {
    this.#pieces.push(bytes)
    this.#bytes += bytes.length
    if (this.#bytes >= burstBytes) this.#send()
    if (this.#isHeld) return
    this.#isHeld = true
    queueMicrotask(() => this.flush())
  }

  flush(): void {
    this.#isHeld = false
    this.#send()
  }

  #send(): void {
    if (this.#bytes === 0) return
    const [first] = this.#pieces
    const bytes = this.#pieces.length === 1 && first ? first : Buffer.concat(this.#pieces, this.#bytes)
    this.#pieces = []
    this.#bytes = 0
    if (!this.#io.write(bytes)) this.isBlocked = true
  }
}
