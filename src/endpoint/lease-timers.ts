import type { Clock } from '../base/clock.ts'
import { type Member, memberKey } from './members.ts'

/** Ours: how often the members' underlay addresses are noted and rested leases forgotten. */
const housekeepingMs = 10_000
/** One timer for each member, and one for the house. */
export class LeaseTimers {
  readonly #clock: Clock
  readonly #cancels = new Map<string, () => void>()
  #cancelHouse: () => void = () => {}
  #stopped = false

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Calls `action` when the member's lease ends, in place of an earlier timer of the same member. */
  arm(member: Member, action: () => void): void {
    this.cancel(member)
    if (this.#stopped) return
    const delayMs = Math.max(0, member.expiresMs - this.#clock.wallMs())
    this.#cancels.set(memberKey(member), this.#clock.after(delayMs, action))
  }

  /** Forgets the member's timer. */
  cancel(member: Member): void {
    this.#cancels.get(memberKey(member))?.()
    this.#cancels.delete(memberKey(member))
  }

  /** Calls `action` once after the time between two rounds of housekeeping. */
  housekeeping(action: () => void): void {
    if (!this.#stopped) this.#cancelHouse = this.#clock.after(housekeepingMs, action)
  }

  /** Stops all timers for good. */
  stop(): void {
    this.#stopped = true
    this.#cancelHouse()
    for (const cancel of this.#cancels.values()) cancel()
    this.#cancels.clear()
  }
}
