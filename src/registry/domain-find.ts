import { clone } from '@bufbuild/protobuf'
import { type NetworkService, type NetworkServiceEndpoint, NetworkServiceSchema } from '../nsm/generated/registry_pb.js'
import type { PeerCall } from '../nsm/grpc.ts'
import { bareName, nameIn, renameEndpoint, splitDomain } from '../nsm/interdomain.ts'
import type { Domains } from './domains.ts'
import type { Found, Registry } from './registry.ts'

/* A query whose name ends in @domain goes to that domain's registry with bare names, and what it answers gets the domain
 * back. For our own domain that registry is ours. [NSM sdk dnsresolve] */

/** The way to the registries of other domains. */
export interface Beyond {
  readonly domains: Domains
  /** Our manager's url: endpoints of other domains are asked through it. */
  readonly ownUrl: () => string
}

/** Where to look, and whether to go on looking. */
export interface Places {
  readonly registry: Registry
  readonly beyond: Beyond | undefined
  readonly watch: boolean
}

type Caller = Pick<PeerCall, 'peer' | 'signal'>

/** Services whose name has a domain; undefined for a query that has none. */
export function findServicesBeyond(
  { registry, beyond, watch }: Places,
  query: NetworkService,
  caller: Caller,
): AsyncGenerator<Found<NetworkService>> | undefined {
  const { name, domain } = splitDomain(query.name)
  if (!beyond || domain === undefined) return undefined
  const { peer, signal } = caller
  const { domains } = beyond
  const entry = { ...query, name }
  const here = () => (watch ? registry.watchServices(entry, signal) : present(registry.findServices(entry)))
  const found = domains.isOwn(domain)
    ? here()
    : domains.services({ domain, from: peer.address }, { entry, watch, signal })
  return changed(found, (service) => {
    const named = clone(NetworkServiceSchema, service)
    named.name = nameIn(domain, service.name)
    return named
  })
}

/** Endpoints whose name or service has a domain; undefined for a query that has none. */
export function findEndpointsBeyond(
  { registry, beyond, watch }: Places,
  query: NetworkServiceEndpoint,
  caller: Caller,
): AsyncGenerator<Found<NetworkServiceEndpoint>> | undefined {
  const asked = [query.name, ...query.networkServiceNames].find((name) => name.includes('@'))
  const domain = asked === undefined ? undefined : splitDomain(asked).domain
  if (!beyond || domain === undefined) return undefined
  const { peer, signal } = caller
  const { domains, ownUrl } = beyond
  const entry = renameEndpoint(query, bareName)
  const isOwn = domains.isOwn(domain)
  const here = () => (watch ? registry.watchEndpoints(entry, signal) : present(registry.findEndpoints(entry)))
  const found = isOwn ? here() : domains.endpoints({ domain, from: peer.address }, { entry, watch, signal })
  return changed(found, (endpoint) => {
    const named = renameEndpoint(endpoint, (name) => nameIn(domain, name))
    if (!isOwn) named.url = ownUrl()
    return named
  })
}

async function* present<T>(entries: readonly T[]): AsyncGenerator<Found<T>> {
  for (const entry of entries) yield { entry, deleted: false }
}

async function* changed<T>(found: AsyncIterable<Found<T>>, change: (entry: T) => T): AsyncGenerator<Found<T>> {
  for await (const { entry, deleted } of found) yield { entry: change(entry), deleted }
}
