import { NsmError, toNsmError } from '../base/errors.ts'
import type { Hub } from '../tunnel/hub.ts'
import { fromBase64, type LeaseParts, peerOf, reported, toBase64 } from './lease-parts.ts'
import type { Member, Members } from './members.ts'
import type { Offer } from './offer.ts'

/**
 * Gives or renews a lease; the WireGuard peer is live when it resolves. Throws `CONFLICT` when a prefix has no address,
 * `REFUSED` for too many connections of one identity.
 * Nothing is changed when the addresses cannot be had; what fails later ends the lease as a whole.
 */
export async function grantLease(parts: LeaseParts, offer: Offer): Promise<Member> {
  const { members, plan, clock } = parts
  const current = members.find(offer.spiffeId, offer.connectionId)
  const { spiffeId, excluded } = offer
  if (!current) checkQuota(members, offer)
  const addresses = plan.allocate({ spiffeId, excluded, current: current?.addresses ?? [], nowMs: clock.wallMs() })
  const member = memberOf(offer, addresses, current, members)
  try {
    await applyPeer(parts.hub, member, current)
    parts.store.put(parts.service, { ...member, releasedMs: undefined })
  } catch (error) {
    await abandon(parts, member, current)
    throw toNsmError(error)
  }
  plan.release(current?.addresses.filter((address) => !addresses.includes(address)) ?? [], clock.wallMs())
  members.put(member)
  if (!current) logMember(parts, 'a member joined', member)
  return member
}

/** Ours: live connections of one identity, or of one workload behind a relay; more would let one member take the addresses of all others. */
const connectionsPerIdentityMax = 64

function checkQuota(members: Members, { spiffeId, origin }: Offer): void {
  if (members.countOf(spiffeId, origin) < connectionsPerIdentityMax) return
  const message = `this identity has ${connectionsPerIdentityMax} connections already`
  throw new NsmError('REFUSED', message, 'close some, or wait until their leases end')
}

function memberOf(offer: Offer, addresses: readonly string[], current: Member | undefined, members: Members): Member {
  const publicKey = toBase64(offer.publicKey)
  return {
    spiffeId: offer.spiffeId,
    origin: offer.origin,
    connectionId: offer.connectionId,
    segmentId: offer.segmentId,
    publicKey,
    addresses,
    label: members.labelFor(offer.wantedName, offer.spiffeId, current),
    expiresMs: offer.expiresMs,
    underlay: (current?.publicKey === publicKey ? current.underlay : undefined) ?? offer.underlay,
  }
}

/** The old key goes before the new one comes [security V2]; a refresh that changes nothing does not touch the hub. */
async function applyPeer(hub: Hub, member: Member, current: Member | undefined): Promise<void> {
  const isSameKey = current?.publicKey === member.publicKey
  if (current && !isSameKey) await hub.removePeer(fromBase64(current.publicKey))
  if (isSameKey && current.addresses.join() === member.addresses.join()) return
  await hub.setPeer(peerOf(member, isSameKey ? undefined : member.underlay))
}

/** Leaves neither the old nor the new peer behind. */
async function abandon(parts: LeaseParts, member: Member, current: Member | undefined): Promise<void> {
  if (current) await endLease(parts, current, 'failed').catch(reported(parts.log))
  if (current?.publicKey !== member.publicKey) {
    await parts.hub.removePeer(fromBase64(member.publicKey)).catch(reported(parts.log))
  }
  parts.plan.release(member.addresses, parts.clock.wallMs())
}

/** Ends a lease: the WireGuard peer first, so that nothing flows any more [security V7]; then its addresses rest. */
export async function endLease(parts: LeaseParts, member: Member, why: string): Promise<void> {
  const { hub, members, plan, store, clock } = parts
  members.remove(member)
  await hub.removePeer(fromBase64(member.publicKey)).catch(reported(parts.log))
  const releasedMs = clock.wallMs()
  plan.release(member.addresses, releasedMs)
  store.put(parts.service, { ...member, releasedMs })
  logMember(parts, 'a member left', member, why)
}

function logMember(parts: LeaseParts, sentence: string, member: Member, why?: string): void {
  const { service, log } = parts
  log.info(sentence, { service, peer: member.spiffeId, prefix: member.addresses.join(' '), name: member.label, why })
}

/**
 * A WireGuard key belongs to one member. The same identity with the same key on a new connection has restarted and takes
 * its place; another identity with that key is refused, or it would cut the first one off. So is one that names another
 * member's path segment: that member could not close its connection any more.
 */
export function holderToRetire(parts: LeaseParts, offer: Offer): Member | undefined {
  const named = parts.members.bySegment(offer.segmentId)
  if (named && named.spiffeId !== offer.spiffeId) {
    throw new NsmError('REFUSED', 'this path segment belongs to another member', 'ask without the segment')
  }
  const holder = parts.members.byKey(toBase64(offer.publicKey))
  if (!holder || (holder.spiffeId === offer.spiffeId && holder.connectionId === offer.connectionId)) return undefined
  if (holder.spiffeId === offer.spiffeId) return holder
  parts.log.warn('a WireGuard key of another member was refused', {
    service: parts.service,
    peer: offer.spiffeId,
  })
  throw new NsmError('REFUSED', 'this WireGuard key belongs to another member', 'make a new key and ask again')
}
