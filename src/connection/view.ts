import { type ErrorData, NsmError } from '../base/errors.ts'
import type { State } from './lifecycle.ts'
import type { Link } from './link.ts'
import { type NsmLease, serviceText, type Wanted } from './wanted.ts'

/** One connection as a person or a script sees it. Times are milliseconds since the Unix epoch. */
export interface ConnectionView {
  readonly id: string
  readonly service: string
  /** `refused`: asked for again in vain, because the identity is not believed; somebody has to do what the error says. */
  readonly state: 'requesting' | 'up' | 'healing' | 'refused' | 'closed'
  readonly interfaceName: string
  readonly addresses: readonly string[]
  readonly routes: readonly string[]
  readonly dnsDomains: readonly string[]
  readonly dnsServers: readonly string[]
  /** Own DNS name. */
  readonly name?: string
  /** Name of the network service endpoint. */
  readonly endpoint: string
  /** Where the WireGuard packets go, `address:port`. */
  readonly endpointAddress: string
  readonly manager: string
  readonly mtuBytes: number
  readonly sinceMs: number
  readonly lastHandshakeAgeMs?: number
  readonly rttMs?: number
  readonly receivedBytes: number
  readonly sentBytes: number
  /** End of the lease unless it is refreshed. */
  readonly expiresMs: number
  /** Why the connection is not healthy. */
  readonly error?: ErrorData
}

/** What a view is made from. */
export interface Viewed {
  readonly wanted: Wanted
  readonly link: Link
  readonly connectionId: string
  readonly managerUrl: string
  readonly sinceMs: number
  readonly state: State<NsmLease>
}

/** Describes a connection; asks its tunnel for the counters. */
export async function viewOf(viewed: Viewed): Promise<ConnectionView> {
  const { link, state } = viewed
  const lease = state.kind === 'closed' ? undefined : state.lease
  return {
    id: viewed.connectionId,
    service: serviceText(viewed.wanted),
    state: refusalOf(state) ? 'refused' : state.kind,
    interfaceName: link.interfaceName,
    ...leaseView(lease),
    ...(link.ownName === undefined ? {} : { name: link.ownName }),
    manager: viewed.managerUrl,
    sinceMs: viewed.sinceMs,
    ...(await trafficOf(link)),
    ...errorOf(state, link.warning),
  }
}

/**
 * Why a connection does not heal by itself: its identity was refused twice in a row. It is asked for again all the same, since
 * an agent or a login may bring an identity that is believed; until then its routes stay, so that no packet leaves another way.
 */
export function refusalOf(state: State<NsmLease>): NsmError | undefined {
  if (state.kind !== 'healing' || state.attempt === 0 || state.error?.code !== 'IDENTITY') return undefined
  const { message, next } = state.error
  const again = next.includes('join again') ? next : `${next}; ${joinAgain}`
  return new NsmError('IDENTITY', message, again, { cause: state.error })
}

const joinAgain =
  'to join again: `nsm disconnect`, then `nsm connect --join FILE` with a new join string, or `nsm login`'

function leaseView(lease: NsmLease | undefined) {
  return {
    addresses: lease?.answer.addresses ?? [],
    routes: lease?.answer.routes ?? [],
    dnsDomains: [...new Set(lease?.answer.dns.flatMap(({ domains }) => domains) ?? [])],
    dnsServers: [...new Set(lease?.answer.dns.flatMap(({ servers }) => servers) ?? [])],
    endpoint: lease?.endpointName ?? '',
    endpointAddress: lease ? `${lease.peer.address}:${lease.peer.port}` : '',
    mtuBytes: lease?.mtuBytes ?? 0,
    expiresMs: lease?.expiresMs ?? 0,
  }
}

async function trafficOf(link: Link) {
  const stats = await link.tunnel?.stats().catch(() => undefined)
  const peer = stats?.peers[0]
  return {
    ...(peer?.lastHandshakeAgeMs === undefined ? {} : { lastHandshakeAgeMs: Math.round(peer.lastHandshakeAgeMs) }),
    ...(peer?.rttMs === undefined ? {} : { rttMs: peer.rttMs }),
    receivedBytes: peer?.receivedBytes ?? 0,
    sentBytes: peer?.sentBytes ?? 0,
  }
}

function errorOf(state: State<NsmLease>, warning: NsmError | undefined): { readonly error?: ErrorData } {
  const own =
    state.kind === 'closed' ? state.why : state.kind === 'requesting' ? undefined : (refusalOf(state) ?? state.error)
  const error = own ?? warning
  return error ? { error: error.toData() } : {}
}
