import { clone } from '@bufbuild/protobuf'
import { type Connection, ConnectionSchema } from './generated/connection_pb.js'
import { type NetworkServiceEndpoint, NetworkServiceEndpointSchema } from './generated/registry_pb.js'

/* Names of another domain are written `name@domain`, services and endpoints alike. The domain is for whoever looks for the
 * way: it goes before a domain's own servers are asked, and comes back into what they answer. [NSM sdk tools/interdomain] */

/** A name in two parts; no domain: it is our own. */
export interface DomainName {
  readonly name: string
  readonly domain: string | undefined
}

/** Splits at the first "@"; what follows is the domain, whatever is in it. */
export function splitDomain(text: string): DomainName {
  const at = text.indexOf('@')
  return at < 0 ? { name: text, domain: undefined } : { name: text.slice(0, at), domain: text.slice(at + 1) }
}

/** The name alone. */
export function bareName(text: string): string {
  return splitDomain(text).name
}

/** The same name as it is known outside; an empty one stays empty. */
export function nameIn(domain: string, name: string): string {
  return name === '' ? '' : `${bareName(name)}@${domain}`
}

/** The domain that a connection leads to: its service's, else its endpoint's. */
export function domainOf(connection: Connection): string | undefined {
  return splitDomain(connection.networkService).domain ?? splitDomain(connection.networkServiceEndpointName).domain
}

/** A copy with the names that the domain itself uses. */
export function withoutDomain(connection: Connection): Connection {
  const bare = clone(ConnectionSchema, connection)
  bare.networkService = bareName(connection.networkService)
  bare.networkServiceEndpointName = bareName(connection.networkServiceEndpointName)
  return bare
}

/** A copy with the names that others use for that domain's service and endpoint. */
export function withDomain(connection: Connection, domain: string): Connection {
  const named = clone(ConnectionSchema, connection)
  named.networkService = nameIn(domain, connection.networkService)
  named.networkServiceEndpointName = nameIn(domain, connection.networkServiceEndpointName)
  return named
}

/** A copy of a registry entry, or of a query for one, with each name of it changed. */
export function renameEndpoint(
  endpoint: NetworkServiceEndpoint,
  rename: (name: string) => string,
): NetworkServiceEndpoint {
  const renamed = clone(NetworkServiceEndpointSchema, endpoint)
  renamed.name = rename(endpoint.name)
  renamed.networkServiceNames = endpoint.networkServiceNames.map(rename)
  renamed.networkServiceLabels = Object.fromEntries(
    Object.entries(endpoint.networkServiceLabels).map(([service, labels]) => [rename(service), labels]),
  )
  return renamed
}
