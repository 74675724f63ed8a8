import { create, type MessageInitShape } from '@bufbuild/protobuf'
import type { Clock } from '../base/clock.ts'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../nsm/generated/registry_pb.js'
import { tokenLifetimeMs } from '../nsm/peer.ts'
import type { RegistryClient } from '../registry/client.ts'
import type { Registry } from '../registry/registry.ts'

/** The registry of this process as a client sees one: no socket, no token, but the same rules of ownership and expiry. */
export function localRegistryClient(parts: {
  readonly registry: Registry
  /** SPIFFE ID in whose name things are registered. */
  readonly owner: string
  readonly clock: Clock
}): RegistryClient {
  const { registry, owner, clock } = parts
  const service = (init: MessageInitShape<typeof NetworkServiceSchema>) => create(NetworkServiceSchema, init)
  const endpoint = (init: MessageInitShape<typeof NetworkServiceEndpointSchema>) =>
    create(NetworkServiceEndpointSchema, init)
  return {
    findServices: async (query) => registry.findServices(service(query)),
    findEndpoints: async (query) => registry.findEndpoints(endpoint(query)),
    watchEndpoints: (query, signal) => registry.watchEndpoints(endpoint(query), signal ?? new AbortController().signal),
    registerService: async (init) => registry.registerService(service(init), owner),
    registerEndpoint: async (init) =>
      registry.registerEndpoint(endpoint(init), owner, clock.wallMs() + tokenLifetimeMs),
    unregisterService: async (name) => registry.unregisterService(name, owner),
    unregisterEndpoint: async (init) => registry.unregisterEndpoint(endpoint(init).name, owner),
  }
}
