import type { AuditEvent } from '../base/audit.ts'

/** Ours [security 9]: lines of one event and ID in a window; the rest is counted. */
const perIdMax = 10
const windowMs = 60_000
/** Ours: what a caller without an identity can cause, whatever IDs it makes up: one line a second, some 30 MB a day. */
const strangersMax = 60
const ofStrangers: readonly string[] = ['peer.reject', 'exchange.deny']
/** Ours: windows that are remembered, some 200 B each; beyond it the oldest one ends early. */
const windowsMax = 10_000

interface Window {
  readonly about: Pick<AuditEvent, 'event' | 'id'>
  readonly startMs: number
  count: number
  suppressed: number
}

/**
 * Thins out what repeats: ten of one event and ID a minute are written, of the rest only how many there were. Pure, the time
 * is an argument (monotonic milliseconds).
 */
export class AuditRate {
  /** The one that counted something last comes last. */
  readonly #windows = new Map<string, Window>()
  /** Left out in windows that are over, and not told yet. */
  readonly #over = new Map<string, Window['about'] & { readonly suppressed: number }>()

  /** True when the event is to be written. */
  admits(event: AuditEvent, nowMs: number): boolean {
    const { event: name, id = '' } = event
    const who = id === '' ? String(event['address'] ?? '') : id
    if (!this.#counts({ event: name, id: who }, perIdMax, nowMs)) return false
    return !ofStrangers.includes(name) || this.#counts({ event: name, id: '*' }, strangersMax, nowMs)
  }

  /**
   * What was left out in windows that are over, by event and ID, of strangers by event; all of them when `nowMs` is infinite.
   */
  ended(nowMs: number): AuditEvent[] {
    for (const [key, window] of this.#windows) if (nowMs - window.startMs >= windowMs) this.#forget(key, window)
    const ended = [...this.#over.values()]
    this.#over.clear()
    return ended
  }

  #counts(about: Window['about'], max: number, nowMs: number): boolean {
    const key = keyOf(about)
    const found = this.#windows.get(key)
    if (found && nowMs - found.startMs < windowMs) {
      this.#windows.delete(key)
      this.#windows.set(key, found)
      if (found.count++ < max) return true
      found.suppressed++
      return false
    }
    if (found) this.#forget(key, found)
    this.#windows.set(key, { about, startMs: nowMs, count: 1, suppressed: 0 })
    const [oldest] = this.#windows
    if (oldest && this.#windows.size > windowsMax) this.#forget(...oldest)
    return true
  }

  #forget(key: string, { about, suppressed }: Window): void {
    this.#windows.delete(key)
    if (suppressed === 0) return
    // A line for each ID that they make up would be theirs to cause again.
    const whose = ofStrangers.includes(about.event) ? { event: about.event, id: '*' } : about
    const before = this.#over.get(keyOf(whose))?.suppressed ?? 0
    this.#over.set(keyOf(whose), { ...whose, suppressed: before + suppressed })
  }
}

function keyOf({ event, id }: Window['about']): string {
  return `${event} ${id}`
}
