import { NsmError } from '../base/errors.ts'
import type { Admission, Grant } from '../nsm/admission.ts'
import type { Connection } from '../nsm/generated/connection_pb.js'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import { domainOf, nameIn } from '../nsm/interdomain.ts'
import { stampTokens } from '../nsm/path.ts'
import type { PeerContext } from '../nsm/peer.ts'
import type { HeldConnections, Standing } from './held-connections.ts'

/** The service that a connection leads to, with its domain: the name of an endpoint may bring one too. */
export function serviceOf(connection: Connection): string {
  const domain = domainOf(connection)
  return domain === undefined ? connection.networkService : nameIn(domain, connection.networkService)
}

/** A path that starts with another workload may come from a relay only. Throws `REFUSED`. [security C9] */
export function checkRelay(admission: Admission, { spiffeId, origin }: PeerContext, service: string): void {
  if (origin === undefined || admission.decide({ id: spiffeId, action: 'relay', service }).isGranted) return
  throw policyRefusal('relay: the path must start with the caller')
}

/** The grant of whoever wants the connection, the origin where a relay asks. Throws `REFUSED` (NOT_GRANTED). */
export function checkRequest(admission: Admission, { spiffeId, origin }: PeerContext, service: string) {
  return admission.check({ id: origin ?? spiffeId, action: 'request', service })
}

/** True while all who take part in a connection may. */
export function mayStand(admission: Admission, { connection, owner, origin, offeredBy }: Standing): boolean {
  const service = serviceOf(connection)
  const may = (id: string, action: 'relay' | 'request' | 'offer') => admission.decide({ id, action, service }).isGranted
  if (origin !== undefined && !may(owner, 'relay')) return false
  return may(origin ?? owner, 'request') && (offeredBy === undefined || may(offeredBy, 'offer'))
}

/** The connection with our segment ending in time for the grant, by which the client paces its refreshes. */
export function boundLife(connection: Connection, grant: Grant | undefined, nowMs: number): Connection {
  const { path } = connection
  const token = path?.pathSegments[path.index]?.token
  if (grant?.tokenLifetimeMs === undefined || token === undefined) return connection
  return stampTokens(connection, { caller: undefined, own: { token, expiresMs: nowMs + grant.tokenLifetimeMs } })
}

/** What the connections of one identity under one grant are counted by. */
export function quotaKey(grant: Grant | undefined, { spiffeId, origin }: PeerContext): string | undefined {
  return grant?.connectionsMax === undefined ? undefined : `${grant.name} ${origin ?? ''} ${spiffeId}`
}

/** Ours: connections that one identity may hold. */
const connectionsPerOwnerMax = 1_024

/**
 * Takes the room of one more connection until it is held, and the result gives it back; throws `REFUSED` when the caller, or
 * whom it asks for under its grant, has none left.
 */
export function takeRoom(
  held: Pick<HeldConnections, 'countOf' | 'reserve'>,
  peer: PeerContext,
  grant: Grant | undefined,
): () => void {
  const { spiffeId: owner, origin } = peer
  if (held.countOf(owner) >= connectionsPerOwnerMax) throw tooMany(owner, connectionsPerOwnerMax)
  const quota = quotaKey(grant, peer)
  const max = grant?.connectionsMax
  if (quota !== undefined && max !== undefined && held.countOf(quota) >= max) throw tooMany(origin ?? owner, max)
  return held.reserve({ owner, quota })
}

function tooMany(id: string, max: number): NsmError {
  return new NsmError('REFUSED', `${id} holds ${max} connections, the most allowed`, 'disconnect some')
}
