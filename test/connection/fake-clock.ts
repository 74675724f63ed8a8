import type { Clock } from '../../src/base/clock.ts'

/** A clock that moves only when told; timers fire in order. */
export class FakeClock implements Clock {
  nowMs = 1_700_000_000_000
  #timers: { atMs: number; action: () => void }[] = []

  monotonicMs(): number {
    return this.nowMs
  }

  wallMs(): number {
    return this.nowMs
  }

  after(delayMs: number, action: () => void): () => void {
    const timer = { atMs: this.nowMs + delayMs, action }
    this.#timers.push(timer)
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer)
    }
  }

  /** Milliseconds until the next timer; undefined when none is set. */
  nextMs(): number | undefined {
    if (this.#timers.length === 0) return undefined
    return Math.min(...this.#timers.map(({ atMs }) => atMs)) - this.nowMs
  }

  /** Moves on and fires what became due, letting promises settle in between. */
  async advance(ms: number): Promise<void> {
    const endMs = this.nowMs + ms
    await settle()
    for (;;) {
      const due = this.#timers.filter(({ atMs }) => atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0]
      if (!due) break
      this.nowMs = Math.max(this.nowMs, due.atMs)
      this.#timers = this.#timers.filter((other) => other !== due)
      due.action()
      await settle()
    }
    this.nowMs = endMs
  }
}

/** Lets every promise that can settle do so. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
}
