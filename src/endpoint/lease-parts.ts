import type { Audit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { PolicyDecision } from '../nsm/admission.ts'
import type { Hub } from '../tunnel/hub.ts'
import type { PeerConfig } from '../tunnel/tunnels.ts'
import type { AddressPlan } from './addresses.ts'
import type { Asking } from './admission.ts'
import type { HubWatch } from './hub-watch.ts'
import type { Member, Members } from './members.ts'
import type { EndpointStore } from './store.ts'

/** What leases act on; all of it is the caller's. */
export interface LeaseParts {
  readonly service: string
  readonly hub: Hub
  readonly store: EndpointStore
  readonly plan: AddressPlan
  readonly members: Members
  /** Whether somebody may be a member, asked again when members are restored. */
  readonly decide: (asking: Asking) => PolicyDecision
  /** Milliseconds that a released address rests. */
  readonly restMs: number
  readonly clock: Clock
  readonly log: Log
  readonly audit: Audit
  readonly watch: HubWatch
}

/** Ours: keeps the way back through a member's NAT open; routers forget UDP after 30 s at the earliest [RFC 4787 4.3]. */
const keepaliveSeconds = 25

/** [RFC 8200 5] What every link carries: a member that claims less would have others send it crumbs. */
const mtuMinBytes = 1_280

/** The hub's settings of a member: allowed prefixes are exactly its addresses [security V1]. */
export function peerOf(member: Member, underlay: Member['underlay']): PeerConfig {
  return {
    publicKey: fromBase64(member.publicKey),
    keepaliveSeconds,
    allowedPrefixes: member.addresses,
    ...(underlay && { endpoint: underlay }),
    ...(member.mtuBytes !== undefined && { mtuBytes: Math.max(member.mtuBytes, mtuMinBytes) }),
  }
}

/** A handler for failures that must not stop the rest. */
export function reported(log: Log): (error: unknown) => void {
  return (error) => log.warn('the endpoint could not finish a change', { error: toNsmError(error).message })
}

/** The bytes of a WireGuard key in text. */
export function fromBase64(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64'))
}
