/* Node ends the whole process when a thread is ended by force while it loads native code: what the add-on throws then is
 * fatal. So a thread that loads is left to finish, also at the end of the process, and finds that nobody wants it. */

/** What the main thread and a thread that boots see of each other without a message. */
export class ThreadBoot {
  /** Shared; the thread makes its own `ThreadBoot` of it. */
  readonly words: Int32Array<SharedArrayBuffer>

  constructor(words = new Int32Array(new SharedArrayBuffer(8))) {
    this.words = words
  }

  /** The thread's: its native code is loaded, or never will be. */
  tellLoaded(): void {
    Atomics.store(this.words, word.loaded, 1)
    Atomics.notify(this.words, word.loaded)
  }

  get isLoaded(): boolean {
    return Atomics.load(this.words, word.loaded) === 1
  }

  /** Holds the calling thread up until `isLoaded`, `limitMs` at most. */
  waitUntilLoaded(limitMs: number): void {
    Atomics.wait(this.words, word.loaded, 0, limitMs)
  }

  /** The main thread's: descriptors that were given to the thread are not its own any more. */
  dismiss(): void {
    Atomics.store(this.words, word.dismissed, 1)
  }

  get isDismissed(): boolean {
    return Atomics.load(this.words, word.dismissed) === 1
  }
}

const word = { loaded: 0, dismissed: 1 } as const
