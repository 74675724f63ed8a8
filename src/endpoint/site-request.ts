import { clone, create } from '@bufbuild/protobuf'
import { timestampMs } from '@bufbuild/protobuf/wkt'
import { NsmError } from '../base/errors.ts'
import {
  formatAddress,
  formatPrefix,
  type IpAddress,
  type Prefix,
  parseAddress,
  parseInterfaceAddress,
  parsePrefix,
  prefixContains,
  prefixCovers,
} from '../base/ip.ts'
import { type Connection, ConnectionSchema, State } from '../nsm/generated/connection_pb.js'
import {
  ConnectionContextSchema,
  type DNSContext,
  DNSContextSchema,
  type IPContext,
  type Route,
  RouteSchema,
} from '../nsm/generated/connectioncontext_pb.js'
import { type NetworkServiceRequest, NetworkServiceRequestSchema } from '../nsm/generated/networkservice_pb.js'
import { startPath } from '../nsm/path.ts'
import { parseWireGuard, wireGuardMechanism } from '../nsm/wireguard-mechanism.ts'
import { keyToBase64 } from '../tunnel/key-text.ts'
import type { AddressPlan } from './addresses.ts'
import { hostPrefix } from './answer.ts'
import type { Offer } from './offer.ts'
import type { SiteLink } from './site-links.ts'

/* How one vL3 endpoint asks another [NSM sdk ipcontext/vl3/client.go, vl3dns]: it is a client that brings an address and
 * a name server of its own. `src` is the dialing site: its gateways, and in dst_routes what lies behind it; the answer
 * has the other's gateways in `dst` and in src_routes what lies behind that. Nothing is allocated. */

/** One side of a link. */
export interface SiteSide {
  readonly plan: Pick<AddressPlan, 'gateways' | 'parts'>
  readonly dnsDomain: string
  /** 32 bytes. */
  readonly publicKey: Uint8Array
  /** Where the other side's WireGuard finds us; undefined leaves it to the handshake. */
  readonly address: string | undefined
  readonly port: number
  readonly mtuBytes: number
}

/** The request of a site to the endpoint of another one; a refresh is the same again. */
export function buildSiteRequest(
  own: SiteSide,
  wanted: { readonly service: string; readonly endpointName: string; readonly clientName: string; readonly id: string },
): NetworkServiceRequest {
  const { service, endpointName, clientName, id } = wanted
  const connection = create(ConnectionSchema, {
    id,
    networkService: service,
    networkServiceEndpointName: endpointName,
    payload: 'IP',
    labels: { podName: clientName },
    path: startPath(clientName, id),
    context: create(ConnectionContextSchema, {
      ipContext: { srcIpAddrs: hostsOf(own), dstRoutes: routesOf(own) },
      dnsContext: { configs: [dnsConfigOf(own)] },
      MTU: own.mtuBytes,
    }),
  })
  const mechanism = wireGuardMechanism({
    srcIp: own.address,
    srcPort: own.port,
    srcPublicKey: own.publicKey,
    mtuBytes: own.mtuBytes,
  })
  return create(NetworkServiceRequestSchema, { connection, mechanismPreferences: [mechanism] })
}

/** The dialing site as its request describes it; throws `REFUSED` when it is no site's request. */
export function linkOfRequest(entered: Connection, offer: Offer): SiteLink {
  const ip = entered.context?.ipContext
  return {
    spiffeId: offer.spiffeId,
    endpointName: entered.path?.pathSegments[0]?.name ?? '',
    connectionId: offer.connectionId,
    segmentId: offer.segmentId,
    publicKey: keyToBase64(offer.publicKey),
    ...behind({ addresses: ip?.srcIpAddrs, routes: ip?.dstRoutes, dns: entered.context?.dnsContext }),
    underlay: offer.underlay,
    expiresMs: offer.expiresMs,
  }
}

/** The asked site as its answer describes it; throws `REFUSED` when it cannot be linked. */
export function linkOfAnswer(answer: Connection, spiffeId: string): SiteLink {
  const ip = answer.context?.ipContext
  const wireGuard = answer.mechanism && parseWireGuard(answer.mechanism)
  if (!wireGuard?.dstPublicKey) throw notASite('it gave no WireGuard key')
  const { dstIp, dstPort } = wireGuard
  const ends = (answer.path?.pathSegments ?? []).flatMap(({ expires }) => (expires ? [expires] : []))
  if (ends.length === 0) throw notASite('its answer has no end')
  return {
    spiffeId,
    endpointName: answer.networkServiceEndpointName,
    connectionId: answer.id,
    segmentId: answer.id,
    publicKey: keyToBase64(wireGuard.dstPublicKey),
    ...behind({ addresses: ip?.dstIpAddrs, routes: ip?.srcRoutes, dns: answer.context?.dnsContext }),
    underlay: dstIp && dstPort ? { address: dstIp, port: dstPort } : undefined,
    expiresMs: Math.min(...ends.map(timestampMs)),
  }
}

/** The entered connection of another site with our side filled in. */
export function buildSiteAnswer(
  entered: Connection,
  offer: Offer,
  own: SiteSide & { endpointName: string },
): Connection {
  const answer = clone(ConnectionSchema, entered)
  answer.mechanism = wireGuardMechanism(
    { dstIp: own.address, dstPort: own.port, dstPublicKey: own.publicKey, mtuBytes: own.mtuBytes },
    offer.mechanism,
  )
  const sent = entered.context?.ipContext
  answer.context = create(ConnectionContextSchema, {
    ipContext: {
      srcIpAddrs: sent?.srcIpAddrs ?? [],
      dstRoutes: sent?.dstRoutes ?? [],
      dstIpAddrs: hostsOf(own),
      srcRoutes: routesOf(own),
    },
    dnsContext: create(DNSContextSchema, { configs: [dnsConfigOf(own)] }),
    MTU: own.mtuBytes,
  })
  answer.state = State.UP
  answer.payload = 'IP'
  answer.networkServiceEndpointName = own.endpointName
  return answer
}

function hostsOf({ plan }: SiteSide): string[] {
  return plan.gateways.map((gateway) => formatPrefix(hostPrefix(gateway)))
}

function routesOf({ plan }: SiteSide): Route[] {
  return plan.parts.map((part) => {
    const gateway = plan.gateways.find(({ family }) => family === part.family)
    return create(RouteSchema, { prefix: formatPrefix(part), ...(gateway && { nextHop: formatAddress(gateway) }) })
  })
}

function dnsConfigOf({ plan, dnsDomain }: SiteSide) {
  return { dnsServerIps: plan.gateways.map(formatAddress), searchDomains: [dnsDomain] }
}

/**
 * NSM's endpoints name three routes: their own address, their prefix, and the /16 or /64 around it, in which all endpoints
 * of the network lie [NSM sdk ipcontext/vl3/server.go]. Only the prefix says what lies behind this one. Their DNS
 * configurations come back with ours among them, so a name server counts when it lies behind the endpoint.
 */
function behind(said: {
  readonly addresses: IPContext['srcIpAddrs'] | undefined
  readonly routes: readonly Route[] | undefined
  readonly dns: DNSContext | undefined
}): Pick<SiteLink, 'gateways' | 'nameServers' | 'prefixes'> {
  const hosts = (said.addresses ?? []).map((text) => parseInterfaceAddress(text).address)
  if (hosts.length === 0) throw notASite('it gave no address of its own')
  const routed = (said.routes ?? []).map(({ prefix }) => parsePrefix(prefix)).filter((one) => !hosts.some(isHost(one)))
  const prefixes = routed.filter((one) => !routed.some((other) => isWithin(other, one)))
  const servers = (said.dns?.configs ?? []).flatMap(({ dnsServerIps }) => dnsServerIps).map(parseAddress)
  const named = servers.filter((server) => prefixes.some((prefix) => prefixContains(prefix, server)))
  return {
    gateways: hosts.map(formatAddress),
    nameServers: [...new Set((named.length > 0 ? named : hosts).map(formatAddress))],
    prefixes: [...new Set(prefixes.map(formatPrefix))],
  }
}

function isHost(prefix: Prefix): (host: IpAddress) => boolean {
  return (host) => formatPrefix(hostPrefix(host)) === formatPrefix(prefix)
}

function isWithin(inner: Prefix, outer: Prefix): boolean {
  return inner.length > outer.length && prefixCovers(outer, inner)
}

function notASite(why: string): NsmError {
  return new NsmError('REFUSED', `this is no vL3 endpoint that can be linked: ${why}`, 'run nsm serve there')
}
