import { timestampMs } from '@bufbuild/protobuf/wkt'
import { NsmError } from '../base/errors.ts'
import { type Prefix, parsePrefix } from '../base/ip.ts'
import type { Connection, Mechanism } from '../nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import { leaseEndMs } from '../nsm/path.ts'
import type { PeerContext } from '../nsm/peer.ts'
import { isWireGuard, parseWireGuard } from '../nsm/wireguard-mechanism.ts'
import type { UnderlayAddress } from './members.ts'

/** What a client asks of the vL3, read once from the NSM request. */
export interface Offer {
  readonly spiffeId: string
  /** Whom a relay asks for. */
  readonly origin: string | undefined
  readonly connectionId: string
  readonly segmentId: string
  /** 32 bytes. */
  readonly publicKey: Uint8Array
  /** The mechanism that was chosen, with the client's parameters. */
  readonly mechanism: Mechanism
  /** The smallest MTU the client or a hop before us named; undefined when nobody did. */
  readonly mtuBytes: number | undefined
  readonly excluded: readonly Prefix[]
  readonly wantedName: string | undefined
  /** Where WireGuard may be sent before the member's first datagram. */
  readonly underlay: UnderlayAddress | undefined
  /** Wall milliseconds. */
  readonly expiresMs: number
}

/**
 * Reads a request whose path the endpoint has entered already.
 * Throws `REFUSED` for another payload, no common mechanism or no key, `USAGE` for a prefix that is none.
 */
export function readOffer(request: NetworkServiceRequest, entered: Connection, peer: PeerContext): Offer {
  checkPayload(entered.payload)
  const mechanism = chooseMechanism(request, entered)
  const parameters = parseWireGuard(mechanism)
  const { srcPublicKey: publicKey } = parameters
  if (!publicKey) throw new NsmError('REFUSED', 'the WireGuard mechanism has no src_public_key', 'send one')
  const mtus = [parameters.mtuBytes, entered.context?.MTU].filter((mtu) => mtu !== undefined && mtu > 0)
  return {
    spiffeId: peer.spiffeId,
    origin: peer.origin,
    connectionId: entered.path?.pathSegments[0]?.id ?? entered.id,
    segmentId: entered.id,
    publicKey,
    mechanism,
    mtuBytes: mtus.length === 0 ? undefined : Math.min(...mtus.map(Number)),
    excluded: (entered.context?.ipContext?.excludedPrefixes ?? []).map(parsePrefix),
    wantedName: entered.labels['podName'],
    underlay: underlayOf(parameters, peer),
    expiresMs: earliestEndMs(entered),
  }
}

/** NSM leaves an empty payload to the registry, whose default is IP. */
function checkPayload(payload: string): void {
  if (payload === '' || payload === 'IP') return
  throw new NsmError('REFUSED', `payload ${JSON.stringify(payload.slice(0, 32))} is not IP`, 'ask for payload IP')
}

/** A mechanism in the connection wins over the preferences; the class is not compared [NSM sdk mechanisms/server.go]. */
function chooseMechanism(request: NetworkServiceRequest, entered: Connection): Mechanism {
  const fixed = entered.mechanism?.type ? entered.mechanism : undefined
  const chosen = [fixed, ...(fixed ? [] : request.mechanismPreferences)].find(isWireGuard)
  if (chosen) return chosen
  const types = fixed ? [fixed.type] : request.mechanismPreferences.map((preference) => preference.type)
  throw new NsmError(
    'REFUSED',
    `cannot support any of the requested mechanism: ${types.join(', ').slice(0, 128) || 'none offered'}`,
    'offer the mechanism WIREGUARD',
  )
}

/**
 * The client's own word for its address counts only when its TCP connection comes from there: otherwise a client could
 * make the endpoint send to a third party. Everybody else's address is learned from the first valid handshake.
 */
function underlayOf(
  parameters: { readonly srcIp: string | undefined; readonly srcPort: number | undefined },
  peer: PeerContext,
): UnderlayAddress | undefined {
  if (!parameters.srcIp || !parameters.srcPort || parameters.srcIp !== peer.address) return undefined
  return { address: parameters.srcIp, port: parameters.srcPort }
}

/**
 * The end of the lease: the previous hop's token, and no later than the token of any hop before it, so that a member
 * never outlives its own token behind a manager whose token lasts longer.
 */
function earliestEndMs(entered: Connection): number {
  const previous = leaseEndMs(entered.path, 0)
  const earlier = entered.path?.pathSegments.slice(0, entered.path.index) ?? []
  return Math.min(previous, ...earlier.flatMap(({ expires }) => (expires ? [timestampMs(expires)] : [])))
}
