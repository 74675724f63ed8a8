import { create } from '@bufbuild/protobuf'
import { familyBits, formatAddress, formatPrefix, type IpAddress, type Prefix, prefixContains } from '../base/ip.ts'
import { type Connection, State } from '../nsm/generated/connection_pb.js'
import {
  type ConnectionContext,
  ConnectionContextSchema,
  DNSConfigSchema,
  type DNSContext,
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
  readonly shared: SharedContext
  readonly mtuBytes: number
  /** Where the member's WireGuard finds us. */
  readonly address: string
  readonly port: number
  readonly publicKey: Uint8Array
}

/** What every member gets alike, made once: answers share its messages, so nobody may change them. */
export interface SharedContext {
  readonly dstIpAddrs: readonly string[]
  readonly srcRoutes: readonly Route[]
  readonly dnsContext: DNSContext
}

/**
 * The prefixes are those of the whole vL3, which a member's route covers, whichever sites there are or will be; the
 * gateways are this endpoint's, one for each prefix.
 */
export function sharedContext(of: {
  readonly prefixes: readonly Prefix[]
  readonly gateways: readonly IpAddress[]
  readonly dnsDomain: string
}): SharedContext {
  const dnsServerIps = of.gateways.map(formatAddress)
  const configs = [create(DNSConfigSchema, { dnsServerIps, searchDomains: [of.dnsDomain] })]
  return {
    dstIpAddrs: of.gateways.map((gateway) => formatPrefix(hostPrefix(gateway))),
    srcRoutes: of.prefixes.flatMap((prefix) => routesOf(prefix, of.gateways)),
    dnsContext: create(DNSContextSchema, { configs }),
  }
}

/**
 * The entered connection with everything the vL3 gives [NSM vl3 ipam]: addresses, routes by way of the gateway, the
 * gateway as name server, the MTU and our side of the mechanism. What the client sent in these fields is replaced, so
 * that nothing of an endpoint it was connected to before survives; what it asked for stays.
 */
export function buildAnswer(entered: Connection, offer: Offer, grant: Grant): Connection {
  const { address, port, publicKey, mtuBytes } = grant
  const ours = { dstIp: address, dstPort: port, dstPublicKey: publicKey, mtuBytes }
  return {
    ...entered,
    mechanism: wireGuardMechanism(ours, offer.mechanism),
    context: contextOf(entered.context, grant),
    payload: 'IP',
    state: State.UP,
    networkServiceEndpointName: grant.endpointName,
  }
}

function contextOf(sent: ConnectionContext | undefined, grant: Grant): ConnectionContext {
  return {
    ...create(ConnectionContextSchema),
    ...(sent && { extraContext: sent.extraContext }),
    ipContext: ipContextOf(sent?.ipContext, grant),
    dnsContext: grant.shared.dnsContext,
    MTU: grant.mtuBytes,
  }
}

function ipContextOf(sent: IPContext | undefined, grant: Grant): IPContext {
  return {
    ...create(IPContextSchema),
    ...(sent && {
      excludedPrefixes: sent.excludedPrefixes,
      extraPrefixRequest: sent.extraPrefixRequest,
      srcIpRequired: sent.srcIpRequired,
      dstIpRequired: sent.dstIpRequired,
    }),
    srcIpAddrs: [...grant.addresses],
    dstIpAddrs: [...grant.shared.dstIpAddrs],
    srcRoutes: [...grant.shared.srcRoutes],
    dstRoutes: grant.addresses.map((prefix) => create(RouteSchema, { prefix })),
  }
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
