import { toNsmError } from '../base/errors.ts'
import { parsePrefix } from '../base/ip.ts'
import { buildEchoRequest } from '../tunnel/ip-packet.ts'
import type { AddressPlan } from './addresses.ts'
import { notAdmitted } from './admission.ts'
import { type LeaseParts, peerOf } from './lease-parts.ts'
import type { Member } from './members.ts'
import type { Lease } from './store.ts'

/** Live leases come back first; those that ended, also while nobody was there, rest from the time they ended. */
export async function restoreLeases(parts: LeaseParts): Promise<readonly Member[]> {
  const { store, service, clock, restMs } = parts
  const nowMs = clock.wallMs()
  store.forgetReleased(service, nowMs - restMs)
  const restored: Member[] = []
  const ended: { readonly lease: Lease; readonly releasedMs: number }[] = []
  for (const lease of store.leases(service)) {
    if (lease.releasedMs !== undefined) ended.push({ lease, releasedMs: lease.releasedMs })
    else if (lease.expiresMs <= nowMs) ended.push({ lease, releasedMs: lease.expiresMs })
    else if (await restoreMember(parts, lease)) restored.push(lease)
  }
  for (const { lease, releasedMs } of ended.toSorted((a, b) => a.releasedMs - b.releasedMs)) {
    if (lease.releasedMs === undefined) store.put(service, { ...lease, releasedMs })
    if (parts.plan.reserve(lease.addresses, lease.spiffeId, releasedMs)) parts.plan.release(lease.addresses, releasedMs)
  }
  return restored
}

async function restoreMember(parts: LeaseParts, lease: Lease): Promise<boolean> {
  const { plan, hub, members, clock, decide } = parts
  if (!decide(lease).isGranted) return drop(parts, lease, notAdmitted)
  if (!plan.reserve(lease.addresses, lease.spiffeId, clock.wallMs())) return drop(parts, lease, 'other prefixes')
  try {
    await hub.setPeer(peerOf(lease, lease.underlay))
  } catch (error) {
    plan.release(lease.addresses, clock.wallMs())
    return drop(parts, lease, toNsmError(error).message)
  }
  members.put(lease)
  if (lease.underlay) hub.sendLocal(wakePacket(plan, lease))
  return true
}

function drop({ store, service, clock, log }: LeaseParts, lease: Lease, why: string): false {
  log.warn('a lease of the last run was dropped', { service, peer: lease.spiffeId, why })
  store.put(service, { ...lease, releasedMs: clock.wallMs() })
  return false
}

/** Anything sent to a member makes the hub start a handshake, so that its traffic flows before the member notices. */
function wakePacket(plan: AddressPlan, { addresses }: Member): Uint8Array {
  const destination = parsePrefix(addresses[0] ?? '')
  const source = plan.gateways.find(({ family }) => family === destination.family) ?? destination
  return buildEchoRequest({ source, destination })
}

/** Writes down where members are, for the next start, and what the hub saw, and forgets leases whose addresses have rested. */
export async function noteUnderlays(parts: LeaseParts): Promise<void> {
  const { hub, members, store, service, clock, restMs, watch } = parts
  const stats = await hub.stats()
  watch.look(stats)
  for (const { publicKey, endpoint } of stats.peers) {
    const member = members.byKey(publicKey)
    if (!member || !endpoint) continue
    if (member.underlay?.address === endpoint.address && member.underlay?.port === endpoint.port) continue
    const moved = { ...member, underlay: { address: endpoint.address, port: endpoint.port } }
    members.put(moved)
    store.put(service, { ...moved, releasedMs: undefined })
  }
  store.forgetReleased(service, clock.wallMs() - restMs)
}
