import { clone, create } from '@bufbuild/protobuf'
import { familyBits, formatAddress, formatPrefix, type IpAddress, type Prefix, prefixContains } from '../base/ip.ts'
import { type Connection, ConnectionSchema, State } from '../nsm/generated/connection_pb.js'
import {
  type ConnectionContext,
  ConnectionContextSchema,
  DNSConfigSchema,
  DNSContextSchema,
  type IPContext,
  IPContextSchema,
  type Route,
  RouteSchema,
} from '../nsm/generated/connectioncontext_pb.js'
import { wireGuardMechanism } from '../nsm/wireguard-mechanism.ts'
import type { Offer } from './offer.ts'

/** What the endpoint says about itself and gives to one member. */
export interface Grant {
  readonly endpointName: string
  /** `address/32` and `/128` of the member. */
  readonly addresses: readonly string[]
  /** Of the whole vL3: what the member's route covers, whichever sites there are or will be. */
  readonly prefixes: readonly Prefix[]
  /** Of this endpoint, one for each prefix. */
  readonly gateways: readonly IpAddress[]
  readonly dnsDomain: string
  readonly mtuBytes: number
  /** Where the member's WireGuard finds us. */
  readonly address: string
  readonly port: number
  readonly publicKey: Uint8Array
}

/**
 * The entered connection with everything the vL3 gives [NSM vl3 ipam]: addresses, routes by way of the gateway, the
 * gateway as name server, the MTU and our side of the mechanism. What the client sent in these fields is replaced, so
 * that nothing of an endpoint it was connected to before survives; what it asked for stays.
 */
export function buildAnswer(entered: Connection, offer: Offer, grant: Grant): Connection {
  const answer = clone(ConnectionSchema, entered)
  const { address, port, publicKey, mtuBytes } = grant
  answer.mechanism = wireGuardMechanism(
    { dstIp: address, dstPort: port, dstPublicKey: publicKey, mtuBytes },
    offer.mechanism,
  )
  answer.context = contextOf(entered.context, grant)
  answer.payload = 'IP'
  answer.state = State.UP
  answer.networkServiceEndpointName = grant.endpointName
  return answer
}

function contextOf(sent: ConnectionContext | undefined, grant: Grant): ConnectionContext {
  const gateways = grant.gateways.map(formatAddress)
  return create(ConnectionContextSchema, {
    ...(sent && { extraContext: sent.extraContext }),
    ipContext: ipContextOf(sent?.ipContext, grant),
    dnsContext: create(DNSContextSchema, {
      configs: [create(DNSConfigSchema, { dnsServerIps: gateways, searchDomains: [grant.dnsDomain] })],
    }),
    MTU: grant.mtuBytes,
  })
}

function ipContextOf(sent: IPContext | undefined, grant: Grant): IPContext {
  return create(IPContextSchema, {
    ...(sent && {
      excludedPrefixes: sent.excludedPrefixes,
      extraPrefixRequest: sent.extraPrefixRequest,
      srcIpRequired: sent.srcIpRequired,
      dstIpRequired: sent.dstIpRequired,
    }),
    srcIpAddrs: [...grant.addresses],
    dstIpAddrs: grant.gateways.map((gateway) => formatPrefix(hostPrefix(gateway))),
    srcRoutes: grant.prefixes.flatMap((prefix) => routesOf(prefix, grant.gateways)),
    dstRoutes: grant.addresses.map((prefix) => create(RouteSchema, { prefix })),
  })
}

/**
 * The gateway itself and the whole prefix of the vL3. NSM gives the site's part and the /16 or /64 around it: that would
 * take addresses that the client's own networks use.
 */
function routesOf(prefix: Prefix, gateways: readonly IpAddress[]): Route[] {
  const gateway = gateways.find((one) => prefixContains(prefix, one))
  if (!gateway) return []
  const nextHop = formatAddress(gateway)
  return [hostPrefix(gateway), prefix].map((routed) => create(RouteSchema, { prefix: formatPrefix(routed), nextHop }))
}

/** The prefix of one address. */
export function hostPrefix(address: IpAddress): Prefix {
  return { ...address, length: familyBits[address.family] }
}
