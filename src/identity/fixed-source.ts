import { type Clock, systemClock } from '../base/clock.ts'
import { createListeners } from '../base/listeners.ts'
import { refusal } from './refusal.ts'
import type { IdentitySource, IdentityState } from './source.ts'

/** An identity held in memory that its owner replaces. */
export interface FixedSource extends IdentitySource {
  /** Replaces the state and tells the listeners. */
  set(state: IdentityState): void
}

/** An in-memory source; `current` throws `IDENTITY` once the SVID is expired. */
export function createFixedSource(initial: IdentityState, clock: Clock = systemClock): FixedSource {
  const listeners = createListeners<[IdentityState]>()
  let held = initial
  return {
    current() {
      if (clock.wallMs() >= held.svid.notAfterMs) throw expired(held)
      return held
    },
    onChange: listeners.add,
    set(state) {
      held = state
      listeners.tell(state)
    },
    async close() {
      listeners.clear()
    },
  }
}

function expired({ svid }: IdentityState) {
  const at = new Date(svid.notAfterMs).toISOString()
  return refusal('SVID_EXPIRED', `the identity ${svid.spiffeId} expired at ${at}`, {
    next: 'get a new one: `nsm invite` on the server, then `nsm connect --join FILE`',
  })
}
