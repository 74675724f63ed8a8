import { randomUUID } from 'node:crypto'
import { create } from '@bufbuild/protobuf'
import type { Audit } from '../base/audit.ts'
import { type Clock, sleep } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { createTurns, type Turns } from '../base/turns.ts'
import { type TimeLimit, within } from '../base/within.ts'
import { type Admission, type Grant, openAdmission } from '../nsm/admission.ts'
import {
  type Connection,
  type ConnectionEvent,
  ConnectionSchema,
  MonitorConnection,
  type MonitorScopeSelector,
  State,
} from '../nsm/generated/connection_pb.js'
import { NetworkService, type NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import { type MethodBinding, type PeerCall, serverStream, unary } from '../nsm/grpc.ts'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import { domainOf } from '../nsm/interdomain.ts'
import { checkConnectionLimits, checkRequestLimits, checkSelectorLimits } from '../nsm/limits.ts'
import { enterPath, leaseEndMs, leavePath, stampTokens } from '../nsm/path.ts'
import type { PeerContext } from '../nsm/peer.ts'
import { claimsOf, failedMonitorPolicy, failedServerPolicy } from '../nsm/policies.ts'
import { Discovery } from './discover.ts'
import { type Domains, localNames } from './domains.ts'
import type { EndpointServer } from './endpoint-server.ts'
import { type HeldConnection, HeldConnections, type Standing } from './held-connections.ts'
import { type Asker, type Dial, localHop, type NextHop, RemoteHops } from './next-hop.ts'
import { checkAnswer, checkOffered, isWithinOffer } from './offer-bounds.ts'
import { followRemote } from './passthrough.ts'
import type { Registry } from './registry.ts'
import { boundLife, checkRelay, checkRequest, mayStand, quotaKey, serviceOf, takeRoom } from './request-admission.ts'

export type { PeerContext } from '../nsm/peer.ts'
export type { EndpointServer } from './endpoint-server.ts'

/* One request: limits > enter the path > stamp tokens > policies > grant > owner > choose the endpoint > ask it > hold, tell, answer.
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
   * Who may ask for what, and who may pass on requests of others, as managers and forwarders of a cluster do. What a relay
   * passes on counts as its own. By default there is no policy and no relay: a path starts with its caller.
   */
  readonly admission?: Admission
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
}

/** NSM's request and monitor services. */
export interface Manager {
  readonly services: readonly MethodBinding[]
  /** Ends leases, watches and channels; the endpoints keep their connections until their own leases end. */
  close(): void
}

/** Ours: what a deadline may take off a lease; NSM's programs use 15 s. */
const deadlineCountedMaxMs = 60_000

/** A manager over a registry. */
export function createManager(settings: ManagerSettings): Manager {
  const { admission = openAdmission({}) } = settings
  const parts: Parts = {
    ...settings,
    admission,
    held: new HeldConnections(settings.clock),
    remotes: new RemoteHops(settings),
    discovery: new Discovery(settings.registry),
    turns: createTurns(),
  }
  const ignorePolicy = admission.onChange(() => endWhatMayNotStand(parts))
  return {
    services: [
      unary(NetworkService.method.request, (request, call) => onRequest(parts, request, call)),
      unary(NetworkService.method.close, (connection, call) => onClose(parts, connection, call)),
      serverStream(MonitorConnection.method.monitorConnections, (selector, call) => onMonitor(parts, selector, call)),
    ],
    close() {
      ignorePolicy()
      parts.held.close()
      parts.remotes.close()
    },
  }
}

interface Parts extends ManagerSettings {
  readonly admission: Admission
  readonly held: HeldConnections
  readonly remotes: RemoteHops
  readonly discovery: Discovery
  readonly turns: Turns
}

async function onRequest(parts: Parts, request: NetworkServiceRequest, call: PeerCall): Promise<Connection> {
  checkRequestLimits(request)
  const { local, restore } = localNames(request.connection ?? create(ConnectionSchema), parts.domains)
  const { connection: stamped, callerIndex, peer } = enter(parts, local, call)
  const grant = checkRequest(parts.admission, peer, serviceOf(local))
  const nowMs = parts.clock.wallMs()
  const remainingMs = Math.min(call.remainingMs(nowMs), deadlineCountedMaxMs)
  const grantedEndMs = nowMs + (grant?.tokenLifetimeMs ?? Number.POSITIVE_INFINITY)
  const asker: Granted = {
    peer,
    own: call.own,
    leaseEndMs: Math.min(leaseEndMs(stamped.path, remainingMs), grantedEndMs),
    grant,
  }
  const connection = boundLife(stamped, grant, nowMs)
  const entered = { ...request, connection }
  const accepted = await parts.turns.run(connection.id, () => serve(parts, entered, { asker, signal: call.signal }))
  return restore(leavePath(boundLife(accepted, grant, nowMs), callerIndex))
}

function onMonitor(parts: Parts, selector: MonitorScopeSelector, call: PeerCall): AsyncIterable<ConnectionEvent> {
  checkSelectorLimits(selector)
  const { admission, held } = parts
  const { spiffeId: id } = call.peer
  const mayWatch = ({ owner, connection }: HeldConnection) =>
    owner === id || admission.decide({ id, action: 'monitor', service: serviceOf(connection) }).isGranted
  const owners = held.named(selector).map((one) => (mayWatch(one) ? id : one.owner))
  const failed = failedMonitorPolicy(owners, id)
  if (failed) throw policyRefusal(`${failed}: the connection belongs to another identity`)
  return held.watch(selector, mayWatch, call.signal)
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
  const origin = index === 1 ? undefined : (claimsOf(connection.path?.pathSegments[0]?.token ?? '')?.sub ?? '')
  const asking = origin === undefined ? peer : { ...peer, origin }
  checkRelay(parts.admission, asking, serviceOf(sent))
  return { connection, callerIndex: entered.callerIndex, peer: asking }
}

function checkOwner(parts: Parts, id: string, caller: string): void {
  const held = parts.held.get(id)
  const failed = failedMonitorPolicy(held ? [held.owner] : [], caller)
  if (failed) throw policyRefusal(`${failed}: the connection belongs to another identity`)
}

/** Who asks, and by which grant. */
interface Granted extends Asker {
  readonly grant: Grant | undefined
}

interface Asked {
  readonly asker: Granted
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
  const isNew = held.get(id) === undefined
  const leaveRoom = isNew ? takeRoom(held, asker.peer, asker.grant) : () => {}
  try {
    const { accepted, hop } = await askCandidates(parts, request, {
      asker,
      signal,
      left: left?.connection.networkServiceEndpointName,
    })
    const standing = standingOf(parts, { accepted, hop, asker })
    if (!mayStand(parts.admission, standing)) return await refuseAfterAll(parts, { accepted, hop, asker })
    hold(parts, { accepted, hop, asker, standing })
    const fields = { connectionId: id, service: accepted.networkService, endpoint: accepted.networkServiceEndpointName }
    log[isNew ? 'info' : 'debug'](isNew ? 'connection accepted' : 'connection refreshed', { ...fields, peer: owner })
    return accepted
  } catch (error) {
    held.down(id)
    throw error
  } finally {
    leaveRoom()
  }
}

interface Found {
  readonly accepted: Connection
  readonly hop: NextHop
  readonly asker: Granted
}

function standingOf({ registry }: Parts, { accepted, hop, asker }: Found): Standing {
  const { spiffeId: owner, origin } = asker.peer
  const isElsewhere = hop.monitor !== undefined && domainOf(accepted) === undefined
  const offeredBy = isElsewhere ? registry.offererOf(accepted.networkServiceEndpointName) : undefined
  return { connection: accepted, owner, origin, offeredBy }
}

/** The policy has changed while the endpoint was asked. */
async function refuseAfterAll(parts: Parts, { accepted, hop, asker }: Found): Promise<never> {
  await hop.close(accepted).catch(() => {})
  checkRequest(parts.admission, asker.peer, serviceOf(accepted))
  throw policyRefusal('offer: the endpoint may not offer this service any more')
}

/** Ends the connections that a new policy does not admit; all others go on untouched. */
function endWhatMayNotStand({ admission, held, turns, log }: Parts): void {
  for (const one of held.all()) {
    if (mayStand(admission, one)) continue
    const { id, networkService: service } = one.connection
    void turns.run(id, async () => {
      const present = held.get(id)
      if (!present || mayStand(admission, present)) return
      log.info('connection closed, not granted any more', { connectionId: id, service, peer: present.owner })
      await held.take(id)?.closeBehind()
    })
  }
}

function hold(parts: Parts, found: Found & { readonly standing: Standing }): void {
  const { accepted, hop, asker, standing } = found
  const { id } = accepted
  const { networkServiceEndpointName: endpoint } = accepted
  const mayTell = (answer: Connection) => isWithinOffer(parts, { name: endpoint, answer })
  const stopFollowing = hop.monitor
    ? followRemote({ monitor: hop.monitor, name: parts.name, id, held: parts.held, mayTell, clock: parts.clock })
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
  const held = { ...standing, quota: quotaKey(asker.grant, asker.peer), closeBehind, stopFollowing }
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
      const accepted = { ...checkSame(answer, connection), state: State.UP }
      await checkAnswer(parts, { name, answer: accepted, hop: hop() })
      return { accepted, hop: hop() }
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
  if (!parts.admission.isOpen) checkOffered(endpoints, connection)
  return endpoints.map((endpoint) => {
    const here = parts.localEndpoint(endpoint.name)
    const hop = () =>
      here ? localHop(here, asker) : parts.remotes.hop(endpoint, parts.registry.ownerOf(endpoint.name))
    return { name: endpoint.name, payload, hop }
  })
}

/** An endpoint does not get to rename a connection or its service, or to move it on its path. */
function checkSame(answer: Connection, asked: Connection): Connection {
  const { networkService } = asked
  if (answer.id === asked.id && answer.path?.index === asked.path?.index) return { ...answer, networkService }
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
