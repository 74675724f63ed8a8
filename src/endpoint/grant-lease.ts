import { NsmError, toNsmError } from '../base/errors.ts'
import type { Hub } from '../tunnel/hub.ts'
import { keyToBase64 } from '../tunnel/key-text.ts'
import { fromBase64, type LeaseParts, peerOf, reported } from './lease-parts.ts'
import type { Member, Members } from './members.ts'
import type { Offer } from './offer.ts'
import type { Lease } from './store.ts'

/** A lease that is given: the member is known, and found by others, from this moment on. */
export interface GrantedLease {
  readonly member: Member
  /** Resolves with the member when its WireGuard peer is live and its row on disk; else the lease is ended and it throws. */
  readonly live: Promise<Member>
}

/**
 * Gives or renews a lease at once. Throws `CONFLICT` when a prefix has no address, `REFUSED` for too many connections of
 * one identity, and then nothing is changed.
 */
export function grantLease(parts: LeaseParts, offer: Offer): GrantedLease {
  const { members, plan, clock } = parts
  const current = members.find(offer.spiffeId, offer.connectionId)
  const { spiffeId, excluded } = offer
  if (!current) checkQuota(members, offer)
  const addresses = plan.allocate({ spiffeId, excluded, current: current?.addresses ?? [], nowMs: clock.wallMs() })
  const member = memberOf(offer, addresses, current, members)
  plan.release(current?.addresses.filter((address) => !addresses.includes(address)) ?? [], clock.wallMs())
  members.put(member)
  return { member, live: bringUp(parts, member, current) }
}

/** The hub is asked at once, before whatever is asked of it later; the row is written only for a peer that is live. */
async function bringUp(parts: LeaseParts, member: Member, current: Member | undefined): Promise<Member> {
  try {
    await applyPeer(parts.hub, member, current)
    const present = presentOf(parts, member)
    if (present) await persist(parts, { ...present, releasedMs: undefined })
  } catch (error) {
    await abandon(parts, member, current).catch(reported(parts.log))
    throw toNsmError(error)
  }
  if (!current) logMember(parts, 'a member joined', member)
  const isNews = current?.publicKey !== member.publicKey || current.addresses.join() !== member.addresses.join()
  if (isNews) recordMember(parts, current ? 'conn.heal' : 'conn.up', member)
  return member
}

async function persist({ store, service }: LeaseParts, lease: Lease): Promise<void> {
  store.put(service, lease)
  await store.committed()
}

/** Ours: live connections of one identity, or of one workload behind a relay; more would let one member take the addresses of all others. */
const connectionsPerIdentityMax = 64

function checkQuota(members: Members, { spiffeId, origin }: Offer): void {
  if (members.countOf(spiffeId, origin) < connectionsPerIdentityMax) return
  const message = `this identity has ${connectionsPerIdentityMax} connections already`
  throw new NsmError('REFUSED', message, 'close some, or wait until their leases end')
}

function memberOf(offer: Offer, addresses: readonly string[], current: Member | undefined, members: Members): Member {
  const publicKey = keyToBase64(offer.publicKey)
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
    mtuBytes: offer.mtuBytes,
  }
}

/** The old key goes before the new one comes [security V2]; a refresh that changes nothing does not touch the hub. */
async function applyPeer(hub: Hub, member: Member, current: Member | undefined): Promise<void> {
  const isSameKey = current?.publicKey === member.publicKey
  const isSame = isSameKey && current.mtuBytes === member.mtuBytes
  if (isSame && current.addresses.join() === member.addresses.join()) return
  const gone = current && !isSameKey ? hub.removePeer(fromBase64(current.publicKey)) : undefined
  await Promise.all([gone, hub.setPeer(peerOf(member, isSameKey ? undefined : member.underlay))])
}

/** Ends what could not be brought up, unless another lease has taken its place: that one has done away with it. */
async function abandon(parts: LeaseParts, member: Member, current: Member | undefined): Promise<void> {
  const { hub, members, plan, clock } = parts
  const present = presentOf(parts, member)
  if (!present) return
  if (current) return endLease(parts, present, 'failed')
  members.remove(present)
  plan.release(member.addresses, clock.wallMs())
  await hub.removePeer(fromBase64(member.publicKey))
}

/** The member as it is known, unless it has ended or was replaced; its underlay may have been noted meanwhile. */
function presentOf({ members }: LeaseParts, member: Member): Member | undefined {
  const present = members.find(member.spiffeId, member.connectionId)
  const isSame = present?.publicKey === member.publicKey && present.segmentId === member.segmentId
  return isSame ? present : undefined
}

/**
 * Ends a lease: the WireGuard peer first, so that nothing flows any more [security V7]; then its addresses rest, and
 * nobody else gets them before the rest is over. Resolves when the hub and the disk know.
 */
export async function endLease(parts: LeaseParts, member: Member, why: string): Promise<void> {
  const { hub, members, plan, clock } = parts
  members.remove(member)
  const gone = hub.removePeer(fromBase64(member.publicKey)).catch(reported(parts.log))
  const releasedMs = clock.wallMs()
  plan.release(member.addresses, releasedMs)
  await Promise.all([gone, persist(parts, { ...member, releasedMs })])
  logMember(parts, 'a member left', member, why)
  recordMember(parts, 'conn.down', member, why)
}

/** One record ties the identity of layer 7 to the key and the addresses of layer 3. */
function recordMember(
  { service, audit, decide }: LeaseParts,
  event: 'conn.up' | 'conn.heal' | 'conn.down',
  member: Member,
  reason?: string,
): void {
  const { spiffeId, origin, connectionId, addresses, publicKey } = member
  const address = addresses.join(' ')
  const decision = decide(member)
  const grant = decision.isGranted ? decision.grant?.name : undefined
  audit.record({ event, id: spiffeId, origin, service, connection: connectionId, address, publicKey, grant, reason })
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
  const holder = parts.members.byKey(keyToBase64(offer.publicKey))
  if (!holder || (holder.spiffeId === offer.spiffeId && holder.connectionId === offer.connectionId)) return undefined
  if (holder.spiffeId === offer.spiffeId) return holder
  parts.log.warn('a WireGuard key of another member was refused', {
    service: parts.service,
    peer: offer.spiffeId,
  })
  throw new NsmError('REFUSED', 'this WireGuard key belongs to another member', 'make a new key and ask again')
}
