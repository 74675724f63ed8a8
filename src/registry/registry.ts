import { clone } from '@bufbuild/protobuf'
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { type Admission, openAdmission } from '../nsm/admission.ts'
import {
  type NetworkService,
  type NetworkServiceEndpoint,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../nsm/generated/registry_pb.js'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import { checkEndpointSize, checkServiceSize } from './entry-limits.ts'
import { Expiry } from './expiry.ts'
import { matchesEndpoint, matchesService } from './match.ts'
import {
  checkMay,
  checkMayRemove,
  checkOwner,
  registrantOf,
  ungrantedEndpoints,
  ungrantedServices,
} from './registrant.ts'
import type { RegistryStore, StoredEndpoint } from './store.ts'
import { type View, viewed } from './view.ts'
import { type Found, Watchers } from './watchers.ts'

export type { Found } from './watchers.ts'

/** The registry's rules over its store: names belong to whom the policy says, else to the first identity that registers them. */
export interface Registry {
  /** Throws `REFUSED` when the name belongs to another identity. */
  registerService(service: NetworkService, owner: string): NetworkService
  unregisterService(name: string, owner: string): void
  /** With a view: what of it is seen. */
  findServices(query: NetworkService, view?: View<NetworkService>): NetworkService[]
  watchServices(
    query: NetworkService,
    signal: AbortSignal,
    view?: View<NetworkService>,
  ): AsyncIterable<Found<NetworkService>>
  /** `latestEndMs`: the end of the caller's token. Throws `REFUSED` when the name belongs to another identity. */
  registerEndpoint(endpoint: NetworkServiceEndpoint, owner: string, latestEndMs: number): NetworkServiceEndpoint
  unregisterEndpoint(name: string, owner: string): void
  /** Expired entries are not given. */
  findEndpoints(query: NetworkServiceEndpoint, view?: View<NetworkServiceEndpoint>): NetworkServiceEndpoint[]
  watchEndpoints(
    query: NetworkServiceEndpoint,
    signal: AbortSignal,
    view?: View<NetworkServiceEndpoint>,
  ): AsyncIterable<Found<NetworkServiceEndpoint>>
  /** SPIFFE ID of the one who registered an endpoint, as TLS verified it. */
  ownerOf(endpoint: string): string | undefined
  /** SPIFFE ID on whose word an endpoint is offered: the owner, or where a relay registered it, whom that relay named. */
  offererOf(endpoint: string): string | undefined
  /** Resolves when everything so far survives the end of this process; an answer waits for it. */
  committed(): Promise<void>
  /** Ends every watch and the expiry; the store stays open. */
  close(): void
}

/** [NSM cmd-registry-memory] An endpoint that does not refresh is gone after this. */
const endpointLifeMs = 60_000
/** Ours: entries that one identity may hold. */
const entriesPerOwnerMax = 1_024
/** [NSM sdk setpayload] */
const defaultPayload = 'IP'

/** Starts the expiry of what the store holds; `close` ends it. */
export function createRegistry(parts: {
  readonly store: RegistryStore
  /** Identities that may offer the services of others, as further sites do; by default none. */
  readonly mayOffer?: (spiffeId: string) => boolean
  /** By default there is no policy. */
  readonly admission?: Admission
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
}): Registry {
  const { store, clock, audit = noAudit, mayOffer = () => false, admission = openAdmission({}) } = parts
  const serviceWatchers = new Watchers(matchesService)
  const endpointWatchers = new Watchers(matchesEndpoint)
  const expiry = new Expiry({
    ...parts,
    onEndpoint(entry) {
      audit.record({ event: 'nse.expire', endpoint: entry.name, reason: 'expired' })
      endpointWatchers.tell({ entry, deleted: true })
    },
    onService: (entry) => serviceWatchers.tell({ entry, deleted: true }),
  })
  const live = () => store.endpoints().filter(({ expiresMs }) => expiresMs > clock.wallMs())
  const findServices = (query: NetworkService) =>
    store.services().flatMap(({ service }) => (matchesService(query, service) ? [service] : []))
  const findEndpoints = (query: NetworkServiceEndpoint) =>
    live().flatMap(({ endpoint }) => (matchesEndpoint(query, endpoint) ? [endpoint] : []))
  const onPolicy = () => {
    for (const { service } of ungrantedServices(store, admission)) {
      store.deleteService(service.name)
      serviceWatchers.tell({ entry: service, deleted: true })
    }
    for (const { endpoint, owner } of ungrantedEndpoints(store, admission)) {
      store.deleteEndpoint(endpoint.name)
      audit.record({ event: 'nse.expire', id: owner, endpoint: endpoint.name, reason: 'NOT_GRANTED' })
      endpointWatchers.tell({ entry: endpoint, deleted: true })
    }
    serviceWatchers.lookAgain(store.services().map(({ service }) => service))
    endpointWatchers.lookAgain(live().map(({ endpoint }) => endpoint))
  }
  const ignorePolicy = admission.onChange(onPolicy)
  if (!admission.isOpen) onPolicy()
  return {
    findServices: (query, view) =>
      viewed(findServices(query), { view, matches: (seen) => matchesService(query, seen) }),
    findEndpoints: (query, view) =>
      viewed(findEndpoints(query), { view, matches: (seen) => matchesEndpoint(query, seen) }),
    committed: () => store.committed(),
    ownerOf: (endpoint) => store.endpoint(endpoint)?.owner,
    offererOf(name) {
      const held = store.endpoint(name)
      return held && registrantOf(held.owner, held.endpoint.pathIds)
    },
    watchServices: (query, signal, view) => serviceWatchers.watch({ query, view }, findServices(query), signal),
    watchEndpoints: (query, signal, view) => endpointWatchers.watch({ query, view }, findEndpoints(query), signal),
    registerService(service, owner) {
      const stored = acceptService(store, { service, owner, admission })
      expiry.used(stored.name)
      serviceWatchers.tell({ entry: stored, deleted: false })
      return stored
    },
    unregisterService(name, owner) {
      const held = store.service(name)
      if (!held) return
      checkMayRemove(admission, { held: held.owner, caller: owner, name })
      store.deleteService(name)
      serviceWatchers.tell({ entry: held.service, deleted: true })
    },
    registerEndpoint(endpoint, owner, latestEndMs) {
      const nowMs = clock.wallMs()
      const wanted = { endpoint, owner, latestEndMs, nowMs, mayOffer, admission }
      const { endpoint: stored, expiresMs } = audited(audit, wanted, () => acceptEndpoint(store, wanted))
      expiry.endsAt(expiresMs)
      endpointWatchers.tell({ entry: stored, deleted: false })
      return stored
    },
    unregisterEndpoint(name, owner) {
      const held = store.endpoint(name)
      if (!held) return
      checkMayRemove(admission, { held: held.owner, caller: owner, name })
      store.deleteEndpoint(name)
      audit.record({ event: 'nse.expire', id: owner, endpoint: name, reason: 'unregistered' })
      endpointWatchers.tell({ entry: held.endpoint, deleted: true })
    },
    close() {
      ignorePolicy()
      expiry.close()
      serviceWatchers.close()
      endpointWatchers.close()
    },
  }
}

/** A name belongs to whom the policy grants it, whoever has it; without such a grant to the first who registers it. */
function acceptService(
  store: RegistryStore,
  wanted: { readonly service: NetworkService; readonly owner: string; readonly admission: Admission },
): NetworkService {
  const { service, owner, admission } = wanted
  if (service.name === '') throw nameless('NetworkService.Name')
  checkServiceSize(service)
  if (service.name.includes('@')) throw interdomain(service.name)
  const grant = checkMay(admission, { owner, pathIds: service.pathIds, action: 'own', service: service.name })
  const held = store.service(service.name)
  if (held && !grant) checkOwner(held.owner, owner, service.name)
  if (held?.owner !== owner) checkCount(store.services(), owner)
  const stored = clone(NetworkServiceSchema, service)
  stored.payload ||= defaultPayload
  store.putService({ service: stored, owner })
  return stored
}

interface Wanted {
  readonly endpoint: NetworkServiceEndpoint
  readonly owner: string
  readonly latestEndMs: number
  readonly nowMs: number
  readonly mayOffer: (spiffeId: string) => boolean
  readonly admission: Admission
}

/** A first registration and a refusal are news; a refresh of what is there is none. */
function audited(audit: Audit, { endpoint, owner, nowMs }: Wanted, accept: () => StoredEndpoint): StoredEndpoint {
  const what = { id: owner, endpoint: endpoint.name, service: endpoint.networkServiceNames.join(' ') }
  try {
    const stored = accept()
    const { initialRegistrationTime: since } = stored.endpoint
    if (since && timestampMs(since) === nowMs) audit.record({ event: 'nse.register', ...what, url: endpoint.url })
    return stored
  } catch (error) {
    audit.record({ event: 'nse.deny', ...what, reason: toNsmError(error).code })
    throw error
  }
}

function acceptEndpoint(store: RegistryStore, wanted: Wanted): StoredEndpoint {
  const { endpoint, owner, nowMs } = wanted
  if (endpoint.name === '') throw nameless('NetworkServiceEndpoint.Name')
  checkEndpointSize(endpoint)
  if ([endpoint.name, ...endpoint.networkServiceNames].some((name) => name.includes('@'))) {
    throw interdomain(endpoint.name)
  }
  checkOffer(store, wanted)
  const held = store.endpoint(endpoint.name)
  const isLive = held !== undefined && held.expiresMs > nowMs
  if (isLive) checkOwner(held.owner, owner, endpoint.name)
  else checkCount(store.endpoints(), owner)
  const asked = endpoint.expirationTime ? timestampMs(endpoint.expirationTime) : Number.POSITIVE_INFINITY
  const expiresMs = Math.min(nowMs + endpointLifeMs, wanted.latestEndMs, asked > nowMs ? asked : nowMs + endpointLifeMs)
  const entry = clone(NetworkServiceEndpointSchema, endpoint)
  entry.expirationTime = timestampFromMs(expiresMs)
  entry.initialRegistrationTime = (isLive && held.endpoint.initialRegistrationTime) || timestampFromMs(nowMs)
  const stored = { endpoint: entry, owner, expiresMs }
  store.putEndpoint(stored)
  return stored
}

/** Everything that is offered must be granted; what no grant decides is offered by the owner of the service. */
function checkOffer(store: RegistryStore, { endpoint, owner, mayOffer, admission }: Wanted): void {
  const { networkServiceNames: names, pathIds } = endpoint
  if (names.length === 0 && !admission.isOpen) admission.check({ id: owner, action: 'offer', service: '' })
  for (const service of names) {
    const grant = checkMay(admission, { owner, pathIds, action: 'offer', service })
    if (!grant && !mayOffer(owner)) checkMayOffer(store, service, owner)
  }
}

/**
 * A service that is registered is offered by its owner alone. NSM lets everybody offer everything, and a member could
 * have itself chosen as the endpoint of others.
 */
function checkMayOffer(store: RegistryStore, service: string, caller: string): void {
  const held = store.service(service)
  if (held && held.owner !== caller) throw policyRefusal(`offer: the service ${service} belongs to another identity`)
}

function checkCount(held: readonly { readonly owner: string }[], owner: string): void {
  const count = held.filter((one) => one.owner === owner).length
  if (count < entriesPerOwnerMax) return
  throw new NsmError('REFUSED', `${owner} has ${count} registrations, the most allowed`, 'unregister some')
}

function nameless(field: string): NsmError {
  return new NsmError('REFUSED', `${field} can not be zero valued`, 'give it a name')
}

function interdomain(name: string): NsmError {
  return new NsmError('REFUSED', `${name} names another domain; this registry serves its own`, 'leave the @domain out')
}
