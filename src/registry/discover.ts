import { create } from '@bufbuild/protobuf'
import { NsmError } from '../base/errors.ts'
import type { Connection } from '../nsm/generated/connection_pb.js'
import {
  type NetworkService,
  type NetworkServiceEndpoint,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../nsm/generated/registry_pb.js'
import { selectEndpoints } from './match.ts'
import type { Registry } from './registry.ts'

/** Endpoints that may serve a connection, in the order to try them. */
export interface Candidates {
  readonly endpoints: readonly NetworkServiceEndpoint[]
  /** The service's payload when it was looked up; an endpoint asked for by name leaves the connection's own. */
  readonly payload: string | undefined
}

/** Chooses endpoints for connections, round robin per service. [NSM sdk discover, roundrobin] */
export class Discovery {
  readonly #registry: Pick<Registry, 'findServices' | 'findEndpoints'>
  readonly #turns = new Map<string, number>()

  constructor(registry: Pick<Registry, 'findServices' | 'findEndpoints'>) {
    this.#registry = registry
  }

  /** By name when the connection names its endpoint, else by service and labels; throws `NOT_FOUND` in NSM's words. */
  find(connection: Connection): Candidates {
    const { networkServiceEndpointName: name } = connection
    if (name !== '') return { endpoints: [this.#named(name)], payload: undefined }
    const wanted = create(NetworkServiceSchema, { name: connection.networkService, payload: connection.payload })
    const shown = connection.networkService
    const [service] = shown === '' ? [] : this.#registry.findServices(wanted)
    const query = create(NetworkServiceEndpointSchema, { networkServiceNames: [shown] })
    const offered = service ? this.#registry.findEndpoints(query) : []
    const { endpoints, payload } = endpointsFor({ connection, service, offered, shown })
    return { endpoints: this.#inTurn(shown, endpoints), payload }
  }

  #named(name: string): NetworkServiceEndpoint {
    const [endpoint] = this.#registry.findEndpoints(create(NetworkServiceEndpointSchema, { name }))
    if (!endpoint) throw notFound(`network service endpoint ${name} not found`)
    return endpoint
  }

  #inTurn(service: string, endpoints: readonly NetworkServiceEndpoint[]): readonly NetworkServiceEndpoint[] {
    const turn = this.#turns.get(service) ?? 0
    this.#turns.set(service, turn + 1)
    const at = turn % endpoints.length
    return [...endpoints.slice(at), ...endpoints.slice(0, at)]
  }
}

/**
 * Those of the offered endpoints that the connection's labels lead to, and the service's payload. Throws `NOT_FOUND` in
 * NSM's words, without a service or without an endpoint; `shown` is the service as it was asked for.
 */
export function endpointsFor(found: {
  readonly connection: Connection
  readonly service: NetworkService | undefined
  readonly offered: readonly NetworkServiceEndpoint[]
  readonly shown: string
}): { readonly endpoints: readonly NetworkServiceEndpoint[]; readonly payload: string } {
  const { connection, service, offered, shown } = found
  if (!service) throw notFound(`network service ${shown} is not found`)
  const endpoints = selectEndpoints(connection.labels, service, offered)
  if (endpoints.length === 0) throw notFound('network service endpoint candidates not found')
  return { endpoints, payload: service.payload }
}

function notFound(text: string): NsmError {
  return new NsmError('NOT_FOUND', text, '`nsm list` shows the services that can be requested')
}
