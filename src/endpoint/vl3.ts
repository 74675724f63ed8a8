import { randomUUID } from 'node:crypto'
import { create } from '@bufbuild/protobuf'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { formatAddress } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import { type Connection, ConnectionSchema } from '../nsm/generated/connection_pb.js'
import { enterPath, leavePath, stampTokens, trimPath } from '../nsm/path.ts'
import { type HopToken, type PeerContext, tokenLifetimeMs } from '../nsm/peer.ts'
import { claimsOf } from '../nsm/policies.ts'
import type { EndpointServer } from '../registry/endpoint-server.ts'
import type { Hub, HubConfig } from '../tunnel/hub.ts'
import { generatePrivateKey, publicKeyOf } from '../tunnel/wireguard/keys.ts'
import { AddressPlan } from './addresses.ts'
import { isAdmitted } from './admission.ts'
import { buildAnswer } from './answer.ts'
import { answerPacket, dnsPort } from './gateway-dns.ts'
import { createLeases, type Leases } from './leases.ts'
import { type Member, Members } from './members.ts'
import { type Offer, readOffer } from './offer.ts'
import type { EndpointStore } from './store.ts'
import { gatewayLabel, type ZoneSource } from './zone.ts'

/** Everything a vL3 endpoint is made from. */
export interface Vl3Settings {
  readonly service: string
  /** One or more disjoint prefixes; the base address of each is the gateway's. */
  readonly prefixes: readonly string[]
  readonly dnsDomain: string
  /** The name of this endpoint on every path and in the registry. */
  readonly endpointName: string
  /** SPIFFE IDs, or `spiffe://domain/*`, that may join; without a list everybody whom TLS verified. */
  readonly admission?: readonly string[]
  readonly listenAddress: string
  /** UDP port of the WireGuard hub; 0 = any. */
  readonly listenPort: number
  /** The address a member's WireGuard reaches us by: the advertised one, else the local one of its TCP connection. */
  readonly reachableAt: (peer: PeerContext) => string
  /** Largest packet inside the tunnel; by default what fits a 1500 byte link over IPv6. */
  readonly mtuBytes?: number
  /** Our own token for the hop that called us. */
  readonly ownToken: (audience: string) => HopToken
  /** The caller's; must outlive the endpoint. */
  readonly store: EndpointStore
  readonly openHub: (config: HubConfig) => Promise<Hub>
  readonly clock: Clock
  readonly log: Log
}

/** A running vL3 endpoint. */
export interface Vl3 extends EndpointServer {
  /** UDP port of the hub. */
  readonly wireguardPort: number
  readonly gateways: readonly string[]
  members(): readonly Member[]
  /** Resolves when the hub died by itself. */
  readonly failed: Promise<NsmError>
  /** Stops the hub; leases stay in the store for the next start. */
  stop(): Promise<void>
}

/** [NSM 7.6] 1500 bytes less 80 for WireGuard over IPv6. */
const defaultMtuBytes = 1_420
/** [security V6] A released address goes to another identity after two token lifetimes. */
const restMs = 2 * tokenLifetimeMs

/** Opens the hub, brings back the members of the last run and serves requests. Throws `USAGE`, `CONFLICT`. */
export async function createVl3(settings: Vl3Settings): Promise<Vl3> {
  const { service, store, clock, log } = settings
  const plan = new AddressPlan({ prefixes: settings.prefixes, restMs })
  const members = new Members([gatewayLabel])
  const privateKey = store.privateKey(service, generatePrivateKey)
  const hub = await openHubOf(settings, privateKey, zoneOf(settings, plan, members))
  const leases = createLeases({
    ...{ service, hub, store, plan, members, restMs, clock, log },
    isAdmitted: (spiffeId) => isAdmitted(settings.admission, spiffeId),
  })
  try {
    await leases.restore()
  } catch (error) {
    await hub.close()
    throw error
  }
  const endpoint: Endpoint = {
    settings,
    plan,
    members,
    leases,
    port: hub.listenPort,
    publicKey: publicKeyOf(privateKey),
  }
  return {
    wireguardPort: hub.listenPort,
    gateways: plan.gateways.map(formatAddress),
    members: () => members.all(),
    failed: hub.failed,
    request: (request, peer, signal) => admit(endpoint, { request, peer, signal }),
    close: (connection, peer) => dismiss(endpoint, connection, peer),
    async stop() {
      await leases.stop()
      await hub.close()
    },
  }
}

interface Endpoint {
  readonly settings: Vl3Settings
  readonly plan: AddressPlan
  readonly members: Members
  readonly leases: Leases
  readonly port: number
  /** 32 bytes. */
  readonly publicKey: Uint8Array
}

interface Call {
  readonly request: Parameters<EndpointServer['request']>[0]
  readonly peer: PeerContext
  readonly signal: AbortSignal
}

/** The order of an NSM endpoint: enter the path, decide, act, answer, stamp our token, trim, hand the path back. */
async function admit(endpoint: Endpoint, { request, peer, signal }: Call): Promise<Connection> {
  signal.throwIfAborted()
  const { settings, leases } = endpoint
  checkAdmission(settings, peer)
  const sent = request.connection ?? create(ConnectionSchema)
  checkService(settings.service, sent.networkService)
  const { connection: entered, callerIndex } = enterPath(sent, { name: settings.endpointName, newId: randomUUID })
  const offer = readOffer(request, entered, peer)
  checkKey(endpoint, offer)
  const member = await leases.grant(offer, signal)
  const answer = buildAnswer(entered, offer, grantOf(endpoint, { offer, member, peer }))
  const own = settings.ownToken(audienceOf(entered, peer))
  return leavePath(trimPath(stampTokens(answer, { caller: undefined, own })), callerIndex)
}

/** An unknown connection, or one of another identity, is closed already as far as the caller may know. */
async function dismiss(endpoint: Endpoint, connection: Connection, peer: PeerContext): Promise<void> {
  const { settings, members, leases } = endpoint
  const { connection: entered } = enterPath(connection, { name: settings.endpointName, newId: randomUUID })
  const member = members.bySegment(entered.id)
  if (member?.spiffeId === peer.spiffeId) await leases.end(member, 'closed')
}

function openHubOf(settings: Vl3Settings, privateKey: Uint8Array, zone: ZoneSource): Promise<Hub> {
  let hub: Hub | undefined
  const opening = settings.openHub({
    privateKey,
    listenAddress: settings.listenAddress,
    listenPort: settings.listenPort,
    gateways: zone.gateways.map(formatAddress),
    localUdpPorts: [dnsPort],
    onLocalPacket(packet) {
      const answer = answerPacket(zone, packet)
      if (answer) hub?.sendLocal(answer)
    },
  })
  return opening.then((opened) => {
    hub = opened
    return opened
  })
}

function zoneOf(settings: Vl3Settings, plan: AddressPlan, members: Members): ZoneSource {
  return {
    dnsDomain: settings.dnsDomain.toLowerCase(),
    prefixes: plan.prefixes,
    gateways: plan.gateways,
    addressesOf: (label) => members.addressesOf(label),
    labelOf: (address) => members.labelOf(address),
  }
}

function grantOf(
  { settings, plan, port, publicKey }: Endpoint,
  { offer, member, peer }: { readonly offer: Offer; readonly member: Member; readonly peer: PeerContext },
): Parameters<typeof buildAnswer>[2] {
  const ownMtuBytes = settings.mtuBytes ?? defaultMtuBytes
  return {
    endpointName: settings.endpointName,
    addresses: member.addresses,
    prefixes: plan.prefixes,
    dnsDomain: settings.dnsDomain,
    mtuBytes: Math.min(offer.mtuBytes ?? ownMtuBytes, ownMtuBytes),
    address: settings.reachableAt(peer),
    port,
    publicKey,
  }
}

/** Our token is for the hop before us: who that is, its own token says; without one it is the TLS peer. */
function audienceOf(entered: Connection, peer: PeerContext): string {
  const previous = entered.path?.pathSegments[entered.path.index - 1]
  return claimsOf(previous?.token ?? '')?.sub ?? peer.spiffeId
}

function checkAdmission(settings: Vl3Settings, peer: PeerContext): void {
  if (isAdmitted(settings.admission, peer.spiffeId)) return
  settings.log.info('an identity was not admitted', { service: settings.service, peer: peer.spiffeId })
  throw new NsmError('REFUSED', 'no sufficient privileges: this identity is not admitted', 'ask whoever runs the vL3')
}

/** `name@domain` is the service `name` by the time it is here [NSM sdk interdomain]. */
function checkService(service: string, asked: string): void {
  const [name = ''] = asked.split('@')
  if (name === service) return
  const text = `network service ${name.slice(0, 128)} is not found`
  throw new NsmError('NOT_FOUND', text, `ask for ${service}`)
}

function checkKey({ publicKey }: Endpoint, offer: Offer): void {
  if (!Buffer.from(publicKey).equals(offer.publicKey)) return
  throw new NsmError('REFUSED', "src_public_key is the endpoint's own", 'send the public key of the member')
}
