import { clone } from '@bufbuild/protobuf'
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { createEventQueue, type EventQueue } from '../nsm/event-queue.ts'
import {
  type NetworkService,
  type NetworkServiceEndpoint,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../nsm/generated/registry_pb.js'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import { failedRegistryPolicy } from '../nsm/policies.ts'
import { checkEndpointSize, checkServiceSize } from './entry-limits.ts'
import { Expiry } from './expiry.ts'
import { matchesEndpoint, matchesService } from './match.ts'
import type { RegistryStore, StoredEndpoint } from './store.ts'

/** A service or endpoint that a watcher asked for, or that it is gone. */
export interface Found<T> {
  readonly entry: T
  readonly deleted: boolean
}

/** The registry's rules over its store: names belong to the first identity that registers them. */
export interface Registry {
  /** Throws `REFUSED` when the name belongs to another identity. */
  registerService(service: NetworkService, owner: string): NetworkService
  unregisterService(name: string, owner: string): void
  findServices(query: NetworkService): NetworkService[]
  watchServices(query: NetworkService, signal: AbortSignal): AsyncIterable<Found<NetworkService>>
  /** `latestEndMs`: the end of the caller's token. Throws `REFUSED` when the name belongs to another identity. */
  registerEndpoint(endpoint: NetworkServiceEndpoint, owner: string, latestEndMs: number): NetworkServiceEndpoint
  unregisterEndpoint(name: string, owner: string): void
  /** Expired entries are not given. */
  findEndpoints(query: NetworkServiceEndpoint): NetworkServiceEndpoint[]
  watchEndpoints(query: NetworkServiceEndpoint, signal: AbortSignal): AsyncIterable<Found<NetworkServiceEndpoint>>
  /** SPIFFE ID of the one who registered an endpoint, as TLS verified it. */
  ownerOf(endpoint: string): string | undefined
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
  readonly clock: Clock
  readonly log: Log
}): Registry {
  const { store, clock, mayOffer = () => false } = parts
  const serviceWatchers = new Watchers(matchesService)
  const endpointWatchers = new Watchers(matchesEndpoint)
  const expiry = new Expiry({
    ...parts,
    onEndpoint: (entry) => endpointWatchers.tell({ entry, deleted: true }),
    onService: (entry) => serviceWatchers.tell({ entry, deleted: true }),
  })
  const live = () => store.endpoints().filter(({ expiresMs }) => expiresMs > clock.wallMs())
  const findServices = (query: NetworkService) =>
    store.services().flatMap(({ service }) => (matchesService(query, service) ? [service] : []))
  const findEndpoints = (query: NetworkServiceEndpoint) =>
    live().flatMap(({ endpoint }) => (matchesEndpoint(query, endpoint) ? [endpoint] : []))
  return {
    findServices,
    findEndpoints,
    committed: () => store.committed(),
    ownerOf: (endpoint) => store.endpoint(endpoint)?.owner,
    watchServices: (query, signal) => serviceWatchers.watch(query, findServices(query), signal),
    watchEndpoints: (query, signal) => endpointWatchers.watch(query, findEndpoints(query), signal),
    registerService(service, owner) {
      const stored = acceptService(store, service, owner)
      expiry.used(stored.name)
      serviceWatchers.tell({ entry: stored, deleted: false })
      return stored
    },
    unregisterService(name, owner) {
      const held = store.service(name)
      if (!held) return
      checkOwner(held.owner, owner, name)
      store.deleteService(name)
      serviceWatchers.tell({ entry: held.service, deleted: true })
    },
    registerEndpoint(endpoint, owner, latestEndMs) {
      const nowMs = clock.wallMs()
      const { endpoint: stored, expiresMs } = acceptEndpoint(store, { endpoint, owner, latestEndMs, nowMs, mayOffer })
      expiry.endsAt(expiresMs)
      endpointWatchers.tell({ entry: stored, deleted: false })
      return stored
    },
    unregisterEndpoint(name, owner) {
      const held = store.endpoint(name)
      if (!held) return
      checkOwner(held.owner, owner, name)
      store.deleteEndpoint(name)
      endpointWatchers.tell({ entry: held.endpoint, deleted: true })
    },
    close() {
      expiry.close()
      serviceWatchers.close()
      endpointWatchers.close()
    },
  }
}

function acceptService(store: RegistryStore, service: NetworkService, owner: string): NetworkService {
  if (service.name === '') throw nameless('NetworkService.Name')
  checkServiceSize(service)
  if (service.name.includes('@')) throw interdomain(service.name)
  const held = store.service(service.name)
  if (held) checkOwner(held.owner, owner, service.name)
  else checkCount(store.services(), owner)
  const stored = clone(NetworkServiceSchema, service)
  stored.payload ||= defaultPayload
  store.putService({ service: stored, owner })
  return stored
}

function acceptEndpoint(
  store: RegistryStore,
  wanted: {
    readonly endpoint: NetworkServiceEndpoint
    readonly owner: string
    readonly latestEndMs: number
    readonly nowMs: number
    readonly mayOffer: (spiffeId: string) => boolean
  },
): StoredEndpoint {
  const { endpoint, owner, nowMs } = wanted
  if (endpoint.name === '') throw nameless('NetworkServiceEndpoint.Name')
  checkEndpointSize(endpoint)
  if ([endpoint.name, ...endpoint.networkServiceNames].some((name) => name.includes('@'))) {
    throw interdomain(endpoint.name)
  }
  if (!wanted.mayOffer(owner)) for (const name of endpoint.networkServiceNames) checkMayOffer(store, name, owner)
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

/** [NSM registry/client_allowed] with the identity that TLS verified. */
function checkOwner(owner: string, caller: string, name: string): void {
  const failed = failedRegistryPolicy(owner, caller)
  if (failed) throw policyRefusal(`${failed}: the name ${name} belongs to another identity`)
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

/** Who watches what; each watcher first gets the present picture, then each change that its query fits. */
class Watchers<T> {
  readonly #matches: (query: T, entry: T) => boolean
  readonly #watching = new Map<EventQueue<Found<T>>, T>()

  constructor(matches: (query: T, entry: T) => boolean) {
    this.#matches = matches
  }

  watch(query: T, present: readonly T[], signal: AbortSignal): AsyncIterable<Found<T>> {
    const events = present.map((entry) => ({ entry, deleted: false }))
    const queue: EventQueue<Found<T>> = createEventQueue(events, {
      signal,
      onEnd: () => void this.#watching.delete(queue),
    })
    if (!signal.aborted) this.#watching.set(queue, query)
    return queue.events
  }

  tell(found: Found<T>): void {
    for (const [queue, query] of this.#watching) if (this.#matches(query, found.entry)) queue.push(found)
  }

  close(): void {
    for (const queue of [...this.#watching.keys()]) queue.end()
  }
}
