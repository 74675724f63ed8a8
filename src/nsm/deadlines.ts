import type { Clock } from '../base/clock.ts'

/**
 * One timer for the deadlines of many calls: nearly all calls end long before theirs, so a timer for each would be set for
 * nothing. It may fire for a call that has ended, and then looks for the next deadline.
 */
export class Deadlines<T> {
  readonly #clock: Clock
  readonly #onDue: (call: T) => void
  /** Monotonic milliseconds. */
  readonly #dueMs = new Map<T, number>()
  #timerMs = Number.POSITIVE_INFINITY
  #cancel = () => {}

  constructor(clock: Clock, onDue: (call: T) => void) {
    this.#clock = clock
    this.#onDue = onDue
  }

  add(call: T, remainingMs: number): void {
    const dueMs = this.#clock.monotonicMs() + remainingMs
    this.#dueMs.set(call, dueMs)
    if (dueMs < this.#timerMs) this.#setTimer(dueMs)
  }

  /** What is left to a call, in milliseconds; undefined for one without a deadline. */
  leftMs(call: T): number | undefined {
    const dueMs = this.#dueMs.get(call)
    return dueMs === undefined ? undefined : dueMs - this.#clock.monotonicMs()
  }

  remove(call: T): void {
    this.#dueMs.delete(call)
  }

  close(): void {
    this.#dueMs.clear()
    this.#cancel()
  }

  #setTimer(dueMs: number): void {
    this.#cancel()
    this.#timerMs = dueMs
    this.#cancel = this.#clock.after(dueMs - this.#clock.monotonicMs(), () => this.#fire())
  }

  #fire(): void {
    const nowMs = this.#clock.monotonicMs()
    let nextMs = Number.POSITIVE_INFINITY
    for (const [call, dueMs] of this.#dueMs) {
      if (dueMs > nowMs) nextMs = Math.min(nextMs, dueMs)
      else {
        this.#dueMs.delete(call)
        this.#onDue(call)
      }
    }
    this.#timerMs = Number.POSITIVE_INFINITY
    if (nextMs < this.#timerMs) this.#setTimer(nextMs)
  }
}
