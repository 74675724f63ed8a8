import { clone, create } from '@bufbuild/protobuf'
import { timestampMs } from '@bufbuild/protobuf/wkt'
import { NsmError } from '../base/errors.ts'
import { formatPrefix, parsePrefix } from '../base/ip.ts'
import { type Connection, ConnectionSchema, type Mechanism, State } from '../nsm/generated/connection_pb.js'
import type { ConnectionContext } from '../nsm/generated/connectioncontext_pb.js'
import { type NetworkServiceRequest, NetworkServiceRequestSchema } from '../nsm/generated/networkservice_pb.js'
import { refreshDelayMs, startPath } from '../nsm/path.ts'
import { isWireGuard, parseWireGuard, wireGuardMechanism } from '../nsm/wireguard-mechanism.ts'
import type { Answer } from './bounds.ts'
import type { Purpose } from './lifecycle.ts'
import { type NsmLease, serviceText, type TunnelPeer, type Wanted } from './wanted.ts'

/* The only file of this folder that knows both NSM's messages and our plain values. */

/** Who asks: stable over restarts, so that the address can be taken over [nsm-protocol 4.11]. */
export interface Requester {
  /** Unlike every other name on the path. */
  readonly clientName: string
  readonly connectionId: string
}

/** Our side of the tunnel. */
export interface Offer {
  readonly sourceAddress: string
  readonly listenPort: number
  readonly publicKey: Uint8Array
  readonly mtuBytes: number
}

/** Everything a request is made from. */
export interface RequestParts {
  readonly wanted: Wanted
  readonly requester: Requester
  readonly offer: Offer
  readonly excludedPrefixes: readonly string[]
  readonly purpose: Purpose
  /** The last answer; a stored one for a `first` request takes the address over. */
  readonly last?: Connection
}

/** The NSM request for a purpose: fresh, the whole last connection, or that one without what its endpoint decided. */
export function buildRequest(parts: RequestParts): NetworkServiceRequest {
  const connection = parts.last ? clone(ConnectionSchema, parts.last) : freshConnection(parts)
  if (parts.purpose === 'reselect') forgetEndpoint(connection)
  setExcluded(connection, parts.excludedPrefixes)
  return create(NetworkServiceRequestSchema, { connection, mechanismPreferences: [preference(parts.offer)] })
}

/** Reads an answer; throws `REFUSED` when it cannot carry a tunnel. */
export function readLease(
  connection: Connection,
  parts: { readonly offer: Offer; readonly purpose: Purpose; readonly nowMs: number },
): NsmLease {
  const parameters =
    connection.mechanism && isWireGuard(connection.mechanism) ? parseWireGuard(connection.mechanism) : undefined
  const mtus = [parameters?.mtuBytes ?? 0, connection.context?.MTU ?? 0]
  return {
    connection,
    answer: readAnswer(connection.context, Math.min(...mtus.filter((mtu) => mtu > 0), Number.POSITIVE_INFINITY)),
    peer: readPeer(parameters),
    endpointName: connection.networkServiceEndpointName,
    mtuBytes: Math.min(parts.offer.mtuBytes, ...mtus.filter((mtu) => mtu > 0)),
    expiresMs: leaseEnd(connection, parts.nowMs),
    refreshAtMs: parts.nowMs + refreshDelayMs(connection.path, parts.nowMs),
    renewed: parts.purpose === 'renew' || parts.purpose === 'reselect',
  }
}

/** The selector that finds a connection of ours in a monitor stream: our own segment [nsm-protocol 4.8]. */
export function ownSegment(connection: Connection): { readonly name: string; readonly id: string } | undefined {
  const segment = connection.path?.pathSegments[0]
  return segment && { name: segment.name, id: segment.id }
}

function freshConnection({ wanted, requester }: RequestParts): Connection {
  return create(ConnectionSchema, {
    id: requester.connectionId,
    networkService: serviceText(wanted),
    labels: { ...wanted.labels, podName: wanted.labels['podName'] ?? wanted.name },
    payload: payloadIp,
    path: startPath(requester.clientName, requester.connectionId),
    // A vL3 endpoint of NSM dies of a missing context.
    context: { ipContext: {}, dnsContext: {} },
  })
}

/** [NSM api payload] WireGuard is silently left out for any other payload. */
const payloadIp = 'IP'

/**
 * [NSM sdk heal] keeps the context; a vL3 endpoint would then keep an address of another endpoint's prefix, so what the
 * old endpoint gave goes as well.
 */
function forgetEndpoint(connection: Connection): void {
  delete connection.mechanism
  connection.networkServiceEndpointName = ''
  connection.state = State.RESELECT_REQUESTED
  connection.context = create(ConnectionSchema, { context: { ipContext: {}, dnsContext: {} } }).context
}

function setExcluded(connection: Connection, prefixes: readonly string[]): void {
  if (connection.context?.ipContext) connection.context.ipContext.excludedPrefixes = [...prefixes]
}

function preference(offer: Offer): Mechanism {
  return wireGuardMechanism({
    srcIp: offer.sourceAddress,
    srcPort: offer.listenPort,
    srcPublicKey: offer.publicKey,
    mtuBytes: offer.mtuBytes,
  })
}

function readAnswer(context: ConnectionContext | undefined, mtuBytes: number): Answer {
  const ip = context?.ipContext
  return {
    addresses: ip?.srcIpAddrs ?? [],
    endpointAddresses: ip?.dstIpAddrs ?? [],
    routes: [...new Set((ip?.srcRoutes ?? []).map(({ prefix }) => maskedText(prefix)))],
    policies: ip?.policies.length ?? 0,
    dns: (context?.dnsContext?.configs ?? []).map((config) => ({
      servers: config.dnsServerIps,
      domains: config.searchDomains,
    })),
    mtuBytes: Number.isFinite(mtuBytes) ? mtuBytes : 0,
  }
}

/** Host bits may be set in routes on the wire; text that is no prefix stays as it is, for the bounds to refuse. */
function maskedText(prefix: string): string {
  try {
    return formatPrefix(parsePrefix(prefix))
  } catch {
    return prefix
  }
}

function readPeer(parameters: ReturnType<typeof parseWireGuard> | undefined): TunnelPeer {
  const { dstIp, dstPort, dstPublicKey } = parameters ?? {}
  if (dstIp && dstPort && dstPublicKey) return { publicKey: dstPublicKey, address: dstIp, port: dstPort }
  throw new NsmError(
    'REFUSED',
    'the answer carries no WireGuard endpoint',
    'ask whoever runs the service whether it offers WireGuard with payload IP',
  )
}

/** The lease at the manager ends with our own segment's token; without one, ours is as good as over. */
function leaseEnd(connection: Connection, nowMs: number): number {
  const expires = connection.path?.pathSegments[0]?.expires
  return expires ? timestampMs(expires) : nowMs
}
