/** Ours [security E12]: between two changes of addresses, routes or names that an endpoint asks for by itself. */
export const changeGapMs = 10_000
/** Ours [security E12]: changes in any minute, those of healing included. */
export const changesPerMinuteMax = 6
const minuteMs = 60_000

/** Keeps an endpoint that changes its mind all the time from keeping the machine busy. */
export class ChangeLimit {
  #atMs: readonly number[] = []

  /** Milliseconds to wait before the next change; healing does not wait for the gap, the service is down meanwhile. */
  waitMs(nowMs: number, isHealing: boolean): number {
    const recent = this.#atMs.filter((atMs) => nowMs - atMs < minuteMs)
    this.#atMs = recent
    const last = recent.at(-1)
    const gapMs = isHealing || last === undefined ? 0 : last + changeGapMs - nowMs
    const oldest = recent.at(-changesPerMinuteMax)
    const windowMs = oldest === undefined ? 0 : oldest + minuteMs - nowMs
    return Math.max(0, gapMs, windowMs)
  }

  /** Counts a change that is made at this moment, monotonic milliseconds. */
  note(nowMs: number): void {
    this.#atMs = [...this.#atMs, nowMs].slice(-changesPerMinuteMax)
  }
}
