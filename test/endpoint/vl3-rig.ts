import { createHash } from 'node:crypto'
import { clone, create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { silentLog } from '../../src/base/log.ts'
import { type EndpointStore, openEndpointStore } from '../../src/endpoint/store.ts'
import { createVl3, type Vl3, type Vl3Settings } from '../../src/endpoint/vl3.ts'
import { type Connection, ConnectionSchema, MechanismSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import type { PeerContext } from '../../src/nsm/peer.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { type FakeHub, openFakeHub } from '../support/fake-hub.ts'

export const leaseMs = 600_000
export const restMs = 1_200_000

/** A vL3 over a fake hub, a real SQLite file and a fake clock. */
export interface Rig {
  readonly vl3: Vl3
  readonly hub: FakeHub
  readonly clock: FakeClock
  readonly store: EndpointStore
}

/** Opens a vL3 on the SQLite file `path`; the same path and clock again is a restart. */
export async function openRig(path: string, wish: Partial<Vl3Settings> = {}, clock = createFakeClock()): Promise<Rig> {
  const store = openEndpointStore(path)
  const hubs: FakeHub[] = []
  const vl3 = await createVl3({
    service: 'blue',
    prefixes: ['10.64.0.0/16'],
    dnsDomain: 'blue.nsm.internal',
    endpointName: 'vl3-blue',
    listenAddress: '0.0.0.0',
    listenPort: 51_820,
    reachableAt: (peer) => peer.localAddress,
    ownToken: (audience) => ({ token: `token for ${audience}`, expiresMs: clock.wallMs() + leaseMs }),
    store,
    openHub: async (config) => {
      const hub = openFakeHub(config)
      hubs.push(hub)
      return hub
    },
    clock,
    log: silentLog,
    ...wish,
  })
  return {
    vl3,
    get hub() {
      const [hub] = hubs
      if (!hub) throw new Error('the rig has a hub of its own')
      return hub
    },
    clock,
    store,
  }
}

/** Ends a rig as a process that is killed does: nothing is told to anybody. */
export function kill(rig: Rig): void {
  rig.store.close()
}

/** Who asks, and with what. */
export interface Ask {
  readonly id?: string
  readonly connectionId?: string
  readonly key?: string
  readonly name?: string
  readonly excluded?: readonly string[]
  /** Whom a relay asks for. */
  readonly origin?: string
  readonly mtu?: string
  /** The client's word for its own address. */
  readonly sourceIp?: string
  readonly change?: (connection: Connection) => void
}

export const idOf = (name: string) => `spiffe://example.org/${name}`
/** A made-up WireGuard public key, base64. */
export const keyOf = (name: string) => createHash('sha256').update(name).digest('base64')

export function peerOf(name: string): PeerContext {
  return {
    spiffeId: idOf(name),
    certificate: new Uint8Array(),
    token: undefined,
    tokenExpiresMs: undefined,
    address: '192.0.2.7',
    localAddress: '192.0.2.1',
  }
}

/** The connection as the manager hands it down: client and manager on the path, the manager's segment current. */
export function firstConnection(rig: Rig, ask: Ask = {}): Connection {
  const id = ask.id ?? 'alice'
  const connectionId = ask.connectionId ?? `${id}-0`
  const expires = timestampFromMs(rig.clock.wallMs() + leaseMs)
  const connection = create(ConnectionSchema, {
    id: `manager-${connectionId}`,
    networkService: 'blue',
    payload: 'IP',
    labels: { podName: ask.name ?? id },
    context: { ipContext: { excludedPrefixes: [...(ask.excluded ?? [])] } },
    path: {
      index: 1,
      pathSegments: [
        { name: `client-${id}`, id: connectionId, expires },
        { name: 'manager', id: `manager-${connectionId}`, expires },
      ],
    },
  })
  ask.change?.(connection)
  return connection
}

/** A WireGuard preference with this public key. */
export function wireGuardOffer(key: string, { mtu = '1440', sourceIp = '192.0.2.7' }: Ask = {}) {
  const parameters = { src_ip: sourceIp, src_port: '51820', src_public_key: key, MTU: mtu }
  return create(MechanismSchema, { cls: 'REMOTE', type: 'WIREGUARD', parameters })
}

/** Requests a connection for the first time. */
export function join(rig: Rig, ask: Ask = {}): Promise<Connection> {
  const id = ask.id ?? 'alice'
  const request = create(NetworkServiceRequestSchema, {
    connection: firstConnection(rig, ask),
    mechanismPreferences: [{ cls: 'LOCAL', type: 'KERNEL' }, wireGuardOffer(ask.key ?? keyOf(id), ask)],
  })
  const peer = { ...peerOf(id), ...(ask.origin === undefined ? {} : { origin: idOf(ask.origin) }) }
  return rig.vl3.request(request, peer, new AbortController().signal)
}

/** Sends the last answer again, with fresh leases, as a refresh through the manager does. */
export function refresh(rig: Rig, answer: Connection, id = 'alice', change?: Ask['change']): Promise<Connection> {
  const connection = clone(ConnectionSchema, answer)
  for (const segment of connection.path?.pathSegments ?? []) {
    segment.expires = timestampFromMs(rig.clock.wallMs() + leaseMs)
  }
  change?.(connection)
  const request = create(NetworkServiceRequestSchema, { connection })
  return rig.vl3.request(request, peerOf(id), new AbortController().signal)
}

export const addressesOf = (connection: Connection) => connection.context?.ipContext?.srcIpAddrs

/** Identity and addresses of all members, in the order of their arrival. */
export const membersOf = (rig: Rig) => rig.vl3.members().map(({ spiffeId, addresses }) => [spiffeId, ...addresses])
