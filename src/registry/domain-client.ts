import { clone, create } from '@bufbuild/protobuf'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { within } from '../base/within.ts'
import type { NsmClient } from '../nsm/client.ts'
import {
  type Connection,
  type ConnectionEvent,
  ConnectionEventSchema,
  type Mechanism,
  MechanismSchema,
} from '../nsm/generated/connection_pb.js'
import { type NetworkServiceRequest, NetworkServiceRequestSchema } from '../nsm/generated/networkservice_pb.js'
import { withDomain, withoutDomain } from '../nsm/interdomain.ts'
import { isWireGuard } from '../nsm/wireguard-mechanism.ts'
import type { RegistryClient } from './client.ts'
import { endpointsFor } from './discover.ts'

/* To the servers of a domain, and back:
 *
 *   svc@domain  ep@domain  orig_src_ip      --request-->  svc  ep  orig_src_ip = src_ip
 *   svc@domain  ep@domain  without it again <--answer---  svc  ep  orig_src_ip
 *
 * A manager at the border chooses no endpoint, and takes itself for the one that asks unless orig_src_ip is set.
 * [NSM sdk nsmgrproxy, swapip] */

/** Servers of one domain. */
export interface DomainParts {
  readonly domain: string
  readonly registry: Pick<RegistryClient, 'findServices' | 'findEndpoints'>
  /** Of the domain's border manager. */
  readonly client: NsmClient
  readonly clock: Clock
}

/** Ours: an answer passes some ten hops of two domains; the last endpoint asked has the caller's whole deadline. */
const candidateMaxMs = 5_000

/** A client of another domain, for connections whose names carry that domain; it chooses the endpoint itself. */
export function createDomainClient(parts: DomainParts): NsmClient {
  const { domain, client } = parts
  let turn = 0
  return {
    async request(request, signal) {
      const sent = toDomain(request)
      const { connection } = sent
      if (connection?.networkServiceEndpointName !== '') {
        return fromDomain(await client.request(sent, signal), domain)
      }
      const { endpoints, payload } = await candidatesOf(parts, connection, signal)
      connection.payload = payload
      const at = turn++ % endpoints.length
      const ordered = [...endpoints.slice(at), ...endpoints.slice(0, at)]
      return fromDomain(await askEach(parts, { request: sent, endpoints: ordered }, signal), domain)
    },
    close: (connection, signal) => client.close(bare(connection), signal),
    async *monitor(selector, signal) {
      for await (const event of client.monitor(selector, signal)) yield eventFrom(event, domain)
    },
  }
}

async function candidatesOf({ domain, registry }: DomainParts, connection: Connection, signal?: AbortSignal) {
  const name = connection.networkService
  const [services, offered] = await Promise.all([
    registry.findServices({ name, payload: connection.payload }, signal),
    registry.findEndpoints({ networkServiceNames: [name] }, signal),
  ])
  return endpointsFor({ connection, service: services[0], offered, shown: `${name}@${domain}` })
}

async function askEach(
  { client, clock }: DomainParts,
  asked: { readonly request: NetworkServiceRequest; readonly endpoints: readonly { readonly name: string }[] },
  signal: AbortSignal | undefined,
): Promise<Connection> {
  const { request, endpoints } = asked
  let last: NsmError | undefined
  for (const [index, { name }] of endpoints.entries()) {
    signal?.throwIfAborted()
    const wanted = clone(NetworkServiceRequestSchema, request)
    if (wanted.connection) wanted.connection.networkServiceEndpointName = name
    const late = () => new NsmError('UNREACHABLE', `endpoint ${name} does not answer`, 'another one is asked')
    const limit = { clock, limitMs: candidateMaxMs, late, ...(signal ? { signal } : {}) }
    try {
      if (index === endpoints.length - 1) return await client.request(wanted, signal)
      return await within(limit, (limited) => client.request(wanted, limited))
    } catch (error) {
      last = toNsmError(error)
    }
  }
  throw last ?? new NsmError('NOT_FOUND', 'network service endpoint candidates not found', 'register an endpoint')
}

function toDomain(request: NetworkServiceRequest): NetworkServiceRequest {
  return create(NetworkServiceRequestSchema, {
    ...request,
    ...(request.connection ? { connection: bare(request.connection) } : {}),
    mechanismPreferences: request.mechanismPreferences.map(withOrigin),
  })
}

function bare(connection: Connection): Connection {
  const sent = withoutDomain(connection)
  if (sent.mechanism) sent.mechanism = withOrigin(sent.mechanism)
  return sent
}

function fromDomain(answer: Connection, domain: string): Connection {
  const named = withDomain(answer, domain)
  delete named.mechanism?.parameters[originParameter]
  return named
}

function eventFrom(event: ConnectionEvent, domain: string): ConnectionEvent {
  const connections = Object.entries(event.connections).map(([id, connection]) => [id, fromDomain(connection, domain)])
  return create(ConnectionEventSchema, { ...event, connections: Object.fromEntries(connections) })
}

/** [NSM api mechanisms/common] The source address before a border changed it. */
const originParameter = 'orig_src_ip'

function withOrigin(mechanism: Mechanism): Mechanism {
  const source = mechanism.parameters['src_ip']
  if (!isWireGuard(mechanism) || source === undefined || mechanism.parameters[originParameter]) return mechanism
  const marked = clone(MechanismSchema, mechanism)
  marked.parameters[originParameter] = source
  return marked
}
