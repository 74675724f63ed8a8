import { NsmError } from '../base/errors.ts'
import { createTurns } from '../base/turns.ts'
import { notAdmitted, refusedMember } from './admission.ts'
import { endLease, grantLease, holderToRetire } from './grant-lease.ts'
import { type LeaseParts, reported } from './lease-parts.ts'
import { LeaseTimers } from './lease-timers.ts'
import { type Member, memberKey } from './members.ts'
import type { Offer } from './offer.ts'
import { noteUnderlays, restoreLeases } from './restore-leases.ts'

/** Gives, keeps and ends what members have: an address of each prefix, a name, a WireGuard peer, a row on disk. */
export interface Leases {
  /** Brings back what the store holds, so that members go on without asking. */
  restore(): Promise<void>
  /** Gives or renews a lease; the WireGuard peer is live when it resolves. Throws `REFUSED`, `CONFLICT`. */
  grant(offer: Offer, signal: AbortSignal): Promise<Member>
  /** Ends a lease: peer first, then everything else; a member that was replaced meanwhile is left alone. */
  end(member: Member, why: string): Promise<void>
  /** Ends the leases of those who may not be members any more. */
  endNotAdmitted(): Promise<void>
  /** Notes where members are and stops the timers; the leases live on in the store. */
  stop(): Promise<void>
}

/**
 * Leases over a hub and a store. A change is made in one go, its effects on the hub in the order of the changes; only the
 * waits for hub and disk overlap, and those of one member do not.
 */
export function createLeases(parts: LeaseParts): Leases {
  const timers = new LeaseTimers(parts.clock)
  const turns = createTurns()
  let stopped = false
  const end = async (member: Member, why: string) => {
    timers.cancel(member)
    await endLease(parts, member, why)
  }
  const arm = (member: Member) => timers.arm(member, () => void expire(member).catch(reported(parts.log)))
  const expire = (armed: Member) =>
    turns.run(memberKey(armed), async () => {
      const member = parts.members.find(armed.spiffeId, armed.connectionId)
      if (!member) return
      if (member.expiresMs > parts.clock.wallMs()) arm(member)
      else await end(member, 'expired')
    })
  const keepHouse = () => {
    timers.housekeeping(() => void keepHouse())
    return noteUnderlays(parts).catch(reported(parts.log))
  }
  const endIfPresent = (member: Member, why: string) =>
    turns.run(memberKey(member), async () => {
      const present = parts.members.find(member.spiffeId, member.connectionId)
      if (present?.segmentId === member.segmentId) await end(present, why)
    })
  return {
    async restore() {
      for (const member of await restoreLeases(parts)) arm(member)
      timers.housekeeping(() => void keepHouse())
    },
    grant: (offer, signal) =>
      turns.run(memberKey(offer), async () => {
        signal.throwIfAborted()
        if (stopped) throw new NsmError('UNREACHABLE', 'the endpoint is not available: it stops', 'try again')
        if (!parts.decide(offer).isGranted) throw refusedMember()
        const holder = holderToRetire(parts, offer)
        const retired = holder && end(holder, 'replaced').catch(reported(parts.log))
        const granted = grantLease(parts, offer)
        arm(granted.member)
        await retired
        return granted.live
      }),
    end: endIfPresent,
    async endNotAdmitted() {
      const out = parts.members.all().filter((member) => !parts.decide(member).isGranted)
      await Promise.all(out.map((member) => endIfPresent(member, notAdmitted).catch(reported(parts.log))))
    },
    async stop() {
      stopped = true
      await turns.settled()
      timers.stop()
      await noteUnderlays(parts).catch(reported(parts.log))
    },
  }
}
