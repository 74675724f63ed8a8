import { randomUUID } from 'node:crypto'
import { create } from '@bufbuild/protobuf'
import { type Clock, sleep } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { createTurns, type Turns } from '../base/turns.ts'
import { type TimeLimit, within } from '../base/within.ts'
import { type Connection, ConnectionSchema, MonitorConnection, State } from '../nsm/generated/connection_pb.js'
import { NetworkService, type NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import { type MethodBinding, type PeerCall, serverStream, unary } from '../nsm/grpc.ts'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import { domainOf } from '../nsm/interdomain.ts'
import { checkConnectionLimits, checkRequestLimits, checkSelectorLimits } from '../nsm/limits.ts'
import { enterPath, leaseEndMs, leavePath, stampTokens } from '../nsm/path.ts'
import type { PeerContext } from '../nsm/peer.ts'
import { claimsOf, failedMonitorPolicy, failedRelayPolicy, failedServerPolicy } from '../nsm/policies.ts'
import { Discovery } from './discover.ts'
import { type Domains, localNames } from './domains.ts'
import type { EndpointServer } from './endpoint-server.ts'
import { HeldConnections } from './held-connections.ts'
import { type Asker, type Dial, localHop, type NextHop, RemoteHops } from './next-hop.ts'
import { followRemote } from './passthrough.ts'
import type { Registry } from './registry.ts'

export type { PeerContext } from '../nsm/peer.ts'
export type { EndpointServer } from './endpoint-server.ts'

/* One request: limits > enter the path > stamp tokens > policies > owner > choose the endpoint > ask it > hold, tell, answer.
 * Requests and closes of one connection run one after the other. A lease that ends closes by itself. */

/** Everything a manager is made from. */
export interface ManagerSettings {
  /** Its name on every path; unlike every other name there. */
  readonly name: string
  readonly registry: Registry
  /** The endpoint of that name in this process. */
  readonly localEndpoint: (name: string) => EndpointServer | undefined
  /** Opens a channel to an endpoint elsewhere; the manager closes it. */
  readonly dial: Dial
  /** The way to services of other domains, `service@domain`; without it there are none. */
  readonly domains?: Domains
  /**
   * Who may pass on requests of others, as managers and forwarders of a cluster do: SPIFFE IDs, or `spiffe://domain/path/*`.
   * What a relay passes on counts as its own. By default nobody: a path starts with its caller.
   */
  readonly relays?: readonly string[]
  readonly clock: Clock
  readonly log: Log
}

/** NSM's request and monitor services. */
export interface Manager {
  readonly services: readonly MethodBinding[]
  /** Ends leases, watches and channels; the endpoints keep their connections until their own leases end. */
  close(): void
}

/** Ours: connections that one identity may hold. */
const connectionsPerOwnerMax = 1_024
/** Ours: what a deadline may take off a lease; NSM's programs use 15 s. */
const deadlineCountedMaxMs = 60_000

/** A manager over a registry. */
export function createManager(settings: ManagerSettings): Manager {
  const parts: Parts = {
    ...settings,
    held: new HeldConnections(settings.clock),
    remotes: new RemoteHops(settings),
    discovery: new Discovery(settings.registry),
    turns: createTurns(),
  }
  return {
    services: [
      unary(NetworkService.method.request, (request, call) => onRequest(parts, request, call)),
      unary(NetworkService.method.close, (connection, call) => onClose(parts, connection, call)),
      serverStream(MonitorConnection.method.monitorConnections, (selector, call) => {
        checkSelectorLimits(selector)
        const failed = failedMonitorPolicy(parts.held.ownersOf(selector), call.peer.spiffeId)
        if (failed) throw policyRefusal(`${failed}: the connection belongs to another identity`)
        return parts.held.watch(selector, call.peer.spiffeId, call.signal)
      }),
    ],
    close() {
      parts.held.close()
      parts.remotes.close()
    },
  }
}

interface Parts extends ManagerSettings {
  readonly held: HeldConnections
  readonly remotes: RemoteHops
  readonly discovery: Discovery
  readonly turns: Turns
}

async function onRequest(parts: Parts, request: NetworkServiceRequest, call: PeerCall): Promise<Connection> {
  checkRequestLimits(request)
  const { local, restore } = localNames(request.connection ?? create(ConnectionSchema), parts.domains)
  const { connection, callerIndex, peer } = enter(parts, local, call)
  const remainingMs = Math.min(call.remainingMs(parts.clock.wallMs()), deadlineCountedMaxMs)
  const asker: Asker = {
    peer,
    own: call.own,
    leaseEndMs: leaseEndMs(connection.path, remainingMs),
  }
  const entered = { ...request, connection }
  const accepted = await parts.turns.run(connection.id, () => serve(parts, entered, { asker, signal: call.signal }))
  return restore(leavePath(accepted, callerIndex))
}

async function onClose(parts: Parts, sent: Connection, call: PeerCall): Promise<Record<string, never>> {
  checkConnectionLimits(sent)
  const { connection, peer } = enter(parts, localNames(sent, parts.domains).local, call)
  await parts.turns.run(connection.id, async () => {
    checkOwner(parts, connection.id, call.peer.spiffeId)
    const held = parts.held.take(connection.id)
    if (held) return held.closeBehind()
    const asker = { peer, own: call.own, leaseEndMs: parts.clock.wallMs() }
    await closeUnknown(parts, connection, asker)
  })
  return {}
}

/** Enters the path, stamps the caller's and our own token, and checks the policies; throws `REFUSED` naming the failed one. */
function enter(
  parts: Parts,
  sent: Connection,
  call: PeerCall,
): { readonly connection: Connection; readonly callerIndex: number; readonly peer: PeerContext } {
  const { peer, own } = call
  const entered = enterPath(sent, { name: parts.name, newId: randomUUID })
  const { token, tokenExpiresMs } = peer
  if (token === undefined || tokenExpiresMs === undefined)
    throw policyRefusal('prev_token_signed: the call has no token')
  const caller = { token, expiresMs: tokenExpiresMs }
  const connection = stampTokens(entered.connection, { caller, own: own.token(peer.spiffeId) })
  const index = connection.path?.index ?? 0
  const failed = failedServerPolicy({
    segments: connection.path?.pathSegments ?? [],
    index,
    peerCertificate: peer.certificate,
    peerId: peer.spiffeId,
    nowMs: parts.clock.wallMs(),
  })
  if (failed) throw policyRefusal(failed)
  const relay = failedRelayPolicy({ index, peerId: peer.spiffeId }, parts.relays ?? [])
  if (relay) throw policyRefusal(`${relay}: the path must start with the caller`)
  const origin = index === 1 ? undefined : claimsOf(connection.path?.pathSegments[0]?.token ?? '')?.sub
  return { connection, callerIndex: entered.callerIndex, peer: origin === undefined ? peer : { ...peer, origin } }
}

function checkOwner(parts: Parts, id: string, caller: string): void {
  const held = parts.held.get(id)
  const failed = failedMonitorPolicy(held ? [held.owner] : [], caller)
  if (failed) throw policyRefusal(`${failed}: the connection belongs to another identity`)
}

interface Asked {
  readonly asker: Asker
  readonly signal: AbortSignal
  /** The endpoint that the caller leaves: most likely dead, so it is asked last. */
  readonly left?: string | undefined
}

/** Ours: an endpoint that is left gets this long to hear of it before another one is asked; a dead one hears nothing. */
const leaveMaxMs = 250

async function serve(parts: Parts, request: NetworkServiceRequest, { asker, signal }: Asked): Promise<Connection> {
  const { held, log } = parts
  const connection = request.connection ?? create(ConnectionSchema)
  const { id } = connection
  const owner = asker.peer.spiffeId
  // Nobody waits for it any more: what is held stays as it is.
  signal.throwIfAborted()
  checkOwner(parts, id, owner)
  const left = connection.state === State.RESELECT_REQUESTED ? held.take(id) : undefined
  if (left) await Promise.race([left.closeBehind(), sleep(parts.clock, leaveMaxMs)])
  if (!held.get(id) && held.countOf(owner) >= connectionsPerOwnerMax) throw tooMany(owner)
  const isNew = held.get(id) === undefined
  try {
    const { accepted, hop } = await askCandidates(parts, request, {
      asker,
      signal,
      left: left?.connection.networkServiceEndpointName,
    })
    hold(parts, { accepted, hop, asker })
    const fields = { connectionId: id, service: accepted.networkService, endpoint: accepted.networkServiceEndpointName }
    log[isNew ? 'info' : 'debug'](isNew ? 'connection accepted' : 'connection refreshed', { ...fields, peer: owner })
    return accepted
  } catch (error) {
    held.down(id)
    throw error
  }
}

function hold(
  parts: Parts,
  found: { readonly accepted: Connection; readonly hop: NextHop; readonly asker: Asker },
): void {
  const { accepted, hop, asker } = found
  const { id } = accepted
  const stopFollowing = hop.monitor
    ? followRemote({ monitor: hop.monitor, name: parts.name, id, held: parts.held, clock: parts.clock })
    : () => {}
  const previous = parts.held.get(id)
  previous?.stopFollowing()
  const closeBehind = async () => {
    stopFollowing()
    await hop.close(parts.held.get(id)?.connection ?? accepted).catch((error: unknown) => {
      parts.log.warn('connection could not be closed at its endpoint', {
        connectionId: id,
        endpoint: accepted.networkServiceEndpointName,
        error: toNsmError(error).message,
      })
    })
  }
  const held = { connection: accepted, owner: asker.peer.spiffeId, closeBehind, stopFollowing }
  const endMs = asker.leaseEndMs
  parts.held.put(held, { endMs, onEnd: () => void endLease(parts, id, endMs) })
}

/** A refresh that was under way when the timer fired has given the connection another end. */
async function endLease(parts: Parts, id: string, endMs: number): Promise<void> {
  await parts.turns.run(id, async () => {
    const ended = parts.held.get(id)
    if (!ended || parts.held.leaseEndMs(id) !== endMs) return
    parts.log.info('connection closed, its lease ended', { connectionId: id, peer: ended.owner })
    await parts.held.take(id)?.closeBehind()
  })
}

/** Each candidate once, in turn; one candidate's refusal is passed on as it is. [NSM sdk roundrobin] */
async function askCandidates(
  parts: Parts,
  request: NetworkServiceRequest,
  { asker, signal, left }: Asked,
): Promise<{ readonly accepted: Connection; readonly hop: NextHop }> {
  const connection = request.connection ?? create(ConnectionSchema)
  const found = candidatesFor(parts, connection, asker)
  const candidates = [...found.filter(({ name }) => name !== left), ...found.filter(({ name }) => name === left)]
  let last: NsmError | undefined
  for (const [at, { name, payload, hop }] of candidates.entries()) {
    signal.throwIfAborted()
    try {
      const asked = { ...connection, networkServiceEndpointName: name, payload: payload ?? connection.payload }
      const ask = (limited: AbortSignal) => hop().request({ ...request, connection: asked }, limited)
      const answer = await (at === candidates.length - 1
        ? ask(signal)
        : within(candidateLimit(parts, name, signal), ask))
      checkConnectionLimits(answer)
      return { accepted: { ...checkSame(answer, connection), state: State.UP }, hop: hop() }
    } catch (error) {
      last = toNsmError(error)
      if (last.code === 'BUG') parts.log.error('an endpoint failed', { endpoint: name, error: last.message })
    }
  }
  if (!last) throw new NsmError('NOT_FOUND', 'network service endpoint candidates not found', 'register an endpoint')
  if (candidates.length === 1) throw last
  throw new NsmError(last.code, `all candidates have failed: ${last.message}`, last.next, { cause: last })
}

/** Ours: an endpoint that is there answers in milliseconds; the last one asked has the caller's whole deadline. */
const candidateMaxMs = 1_000

function candidateLimit({ clock }: Parts, name: string, signal: AbortSignal): TimeLimit {
  const late = () => new NsmError('UNREACHABLE', `endpoint ${name} does not answer`, 'another one is asked')
  return { clock, limitMs: candidateMaxMs, late, signal }
}

interface Candidate {
  readonly name: string
  readonly payload: string | undefined
  readonly hop: () => NextHop
}

/** An endpoint of this process that is named needs no registry: it is there. */
function candidatesFor(parts: Parts, connection: Connection, asker: Asker): readonly Candidate[] {
  const named = connection.networkServiceEndpointName
  const { domains } = parts
  const domain = domainOf(connection)
  // The other domain's endpoint is chosen by whoever knows its registry.
  if (domains && domain !== undefined) {
    const hop = domains.hop({ domain, from: asker.peer.address })
    return [{ name: named, payload: undefined, hop: () => hop }]
  }
  const local = named === '' ? undefined : parts.localEndpoint(named)
  if (local) return [{ name: named, payload: undefined, hop: () => localHop(local, asker) }]
  const { endpoints, payload } = parts.discovery.find(connection)
  return endpoints.map((endpoint) => {
    const here = parts.localEndpoint(endpoint.name)
    const hop = () =>
      here ? localHop(here, asker) : parts.remotes.hop(endpoint, parts.registry.ownerOf(endpoint.name))
    return { name: endpoint.name, payload, hop }
  })
}

/** An endpoint does not get to rename a connection or to move it on its path. */
function checkSame(answer: Connection, asked: Connection): Connection {
  if (answer.id === asked.id && answer.path?.index === asked.path?.index) return answer
  throw new NsmError('REFUSED', 'the endpoint answered with another connection', 'ask whoever runs the endpoint')
}

/** After a restart the manager knows nothing, the endpoint may; a connection that nobody knows is closed already. */
async function closeUnknown(parts: Parts, connection: Connection, asker: Asker): Promise<void> {
  const [candidate] = connection.networkServiceEndpointName === '' ? [] : tryCandidates(parts, connection, asker)
  await candidate?.hop().close(connection)
}

function tryCandidates(parts: Parts, connection: Connection, asker: Asker): readonly Candidate[] {
  try {
    return candidatesFor(parts, connection, asker)
  } catch {
    return []
  }
}

function tooMany(owner: string): NsmError {
  const message = `${owner} holds ${connectionsPerOwnerMax} connections, the most allowed`
  return new NsmError('REFUSED', message, 'disconnect some')
}
