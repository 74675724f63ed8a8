import { clone } from '@bufbuild/protobuf'
import { untilAborted } from '../base/until-aborted.ts'
import { type NetworkService, type NetworkServiceEndpoint, NetworkServiceSchema } from '../nsm/generated/registry_pb.js'
import type { PeerCall } from '../nsm/grpc.ts'
import { bareName, nameIn, renameEndpoint, splitDomain } from '../nsm/interdomain.ts'
import type { Domains } from './domains.ts'
import type { Found, Registry } from './registry.ts'
import type { View } from './view.ts'

/* A query whose name ends in @domain goes to that domain's registry with bare names, and what it answers gets the domain
 * back. For our own domain that registry is ours. [NSM sdk dnsresolve] */

/** The way to the registries of other domains. */
export interface Beyond {
  readonly domains: Domains
  /** Our manager's url: endpoints of other domains are asked through it. */
  readonly ownUrl: () => string
}

/** Where to look, and whether to go on looking. */
export interface Places<T> {
  readonly registry: Registry
  readonly beyond: Beyond | undefined
  readonly watch: boolean
  /** What the caller sees: of our own domain by bare names, of others by names with the domain. */
  readonly view: View<T> | undefined
  /** False: the caller may find nothing, so nobody else is asked. */
  readonly mayFind: boolean
}

type Caller = Pick<PeerCall, 'peer' | 'signal'>

/** Services whose name has a domain; undefined for a query that has none. */
export function findServicesBeyond(
  { registry, beyond, watch, view, mayFind }: Places<NetworkService>,
  query: NetworkService,
  caller: Caller,
): AsyncGenerator<Found<NetworkService>> | undefined {
  const { name, domain } = splitDomain(query.name)
  if (!beyond || domain === undefined) return undefined
  const { peer, signal } = caller
  const { domains } = beyond
  const entry = { ...query, name }
  const isOwn = domains.isOwn(domain)
  const here = () => (watch ? registry.watchServices(entry, signal, view) : present(registry.findServices(entry, view)))
  const there = () => domains.services({ domain, from: peer.address }, { entry, watch, signal })
  const isHidden = !mayFind || (name !== '' && view !== undefined && view(query) === undefined)
  const found = isOwn ? here() : isHidden ? nothing<NetworkService>(watch, signal) : there()
  const seen = isOwn ? undefined : view
  return changed(found, seen, (service) => {
    const named = clone(NetworkServiceSchema, service)
    named.name = nameIn(domain, service.name)
    return named
  })
}

/** Endpoints whose name or service has a domain; undefined for a query that has none. */
export function findEndpointsBeyond(
  { registry, beyond, watch, view, mayFind }: Places<NetworkServiceEndpoint>,
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
  const here = () =>
    watch ? registry.watchEndpoints(entry, signal, view) : present(registry.findEndpoints(entry, view))
  const there = () => domains.endpoints({ domain, from: peer.address }, { entry, watch, signal })
  const isNamed = query.networkServiceNames.length > 0
  const isHidden = !mayFind || (isNamed && view !== undefined && view(query) === undefined)
  const found = isOwn ? here() : isHidden ? nothing<NetworkServiceEndpoint>(watch, signal) : there()
  return changed(found, isOwn ? undefined : view, (endpoint) => {
    const named = renameEndpoint(endpoint, (name) => nameIn(domain, name))
    if (!isOwn) named.url = ownUrl()
    return named
  })
}

/** What nobody may find here is not looked for elsewhere, and looks like what is not there. */
async function* nothing<T>(watch: boolean, signal: AbortSignal): AsyncGenerator<Found<T>> {
  if (watch) await untilAborted(signal)
  yield* []
}

async function* present<T>(entries: readonly T[]): AsyncGenerator<Found<T>> {
  for (const entry of entries) yield { entry, deleted: false }
}

async function* changed<T>(
  found: AsyncIterable<Found<T>>,
  view: View<T> | undefined,
  change: (entry: T) => T,
): AsyncGenerator<Found<T>> {
  for await (const { entry, deleted } of found) {
    const renamed = change(entry)
    const seen = view ? view(renamed) : renamed
    if (seen !== undefined) yield { entry: seen, deleted }
  }
}
