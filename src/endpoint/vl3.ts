import { randomUUID } from 'node:crypto'
import { create } from '@bufbuild/protobuf'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { formatAddress, type Prefix } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import { type Admission, openAdmission, type PolicyDecision } from '../nsm/admission.ts'
import { type Connection, ConnectionSchema } from '../nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import { enterPath, leavePath, stampTokens, trimPath } from '../nsm/path.ts'
import { type HopToken, type PeerContext, tokenLifetimeMs } from '../nsm/peer.ts'
import { claimsOf } from '../nsm/policies.ts'
import type { EndpointServer } from '../registry/endpoint-server.ts'
import type { Hub, HubConfig } from '../tunnel/hub.ts'
import { keyToBase64 } from '../tunnel/key-text.ts'
import { generatePrivateKey, publicKeyOf } from '../tunnel/wireguard/keys.ts'
import { AddressPlan } from './addresses.ts'
import { type Asking, decideMember, notAdmitted, refusedMember } from './admission.ts'
import { buildAnswer, type SharedContext, sharedContext } from './answer.ts'
import { dnsPort } from './gateway-dns.ts'
import { serveGatewayTcp } from './gateway-tcp.ts'
import { HubWatch } from './hub-watch.ts'
import { createLeases, type Leases } from './leases.ts'
import { type Member, Members } from './members.ts'
import { type Offer, readOffer } from './offer.ts'
import { QueryRate } from './query-rate.ts'
import { type SiteLink, SiteLinks } from './site-links.ts'
import { answerPort, SiteNames } from './site-names.ts'
import { buildSiteAnswer, buildSiteRequest, linkOfAnswer, linkOfRequest, type SiteSide } from './site-request.ts'
import type { EndpointStore } from './store.ts'
import { reservedLabels, type ZoneSource } from './zone.ts'

/** Everything a vL3 endpoint is made from. */
export interface Vl3Settings {
  readonly service: string
  /** One or more disjoint prefixes; the base address of each is the gateway's. */
  readonly prefixes: readonly string[]
  readonly dnsDomain: string
  /** The name of this endpoint on every path and in the registry. */
  readonly endpointName: string
  /** Who may join; without it everybody whom TLS verified, and whom a manager lets pass on requests. */
  readonly admission?: Admission
  readonly listenAddress: string
  /** What of the prefixes belongs to this site; all of them by default. */
  readonly parts?: readonly string[]
  /** Gets one more part of this prefix when the others have no address left. */
  readonly takePart?: (whole: Prefix) => Promise<Prefix>
  /** True for other sites and managers of this vL3: they link with us, and what they say of a member's identity counts. */
  readonly isSite?: (spiffeId: string) => boolean
  /** False: a site claims prefixes that are not its own; by default what does not overlap is believed. */
  readonly mayHold?: (spiffeId: string, prefixes: readonly string[]) => boolean
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
  readonly audit?: Audit
}

/** A running vL3 endpoint. */
export interface Vl3 extends EndpointServer {
  /** UDP port of the hub. */
  readonly wireguardPort: number
  readonly gateways: readonly string[]
  members(): readonly Member[]
  /** The dialing side of links to other sites. */
  readonly sites: SiteEnd
  /** Resolves when the hub died by itself. */
  readonly failed: Promise<NsmError>
  /** Stops the hub; leases stay in the store for the next start. */
  stop(): Promise<void>
}

/** What a dialer of links needs of this endpoint. */
export interface SiteEnd {
  /** The request to another endpoint; `address` is where its WireGuard finds us. */
  request(wanted: {
    readonly endpointName: string
    readonly clientName: string
    readonly id: string
    readonly address: string | undefined
  }): NetworkServiceRequest
  /** Makes or renews the link that an answer describes; throws `REFUSED`. */
  link(answer: Connection, other: { readonly spiffeId: string; readonly isFresh: boolean }): Promise<SiteLink>
  unlink(link: SiteLink, why: string): Promise<void>
  /** The live link with the endpoint of this name. */
  linkWith(endpointName: string): SiteLink | undefined
}

/** [NSM 7.6] 1500 bytes less 80 for WireGuard over IPv6. */
const defaultMtuBytes = 1_420
/** [security V6] A released address goes to another identity after two token lifetimes. */
const restMs = 2 * tokenLifetimeMs

/** Opens the hub, brings back the members of the last run and serves requests. Throws `USAGE`, `CONFLICT`. */
export async function createVl3(settings: Vl3Settings): Promise<Vl3> {
  const { service, store, clock, log, audit = noAudit } = settings
  const { prefixes, parts } = settings
  const plan = new AddressPlan({ prefixes, restMs, ...(parts && { parts }) })
  const members = new Members(reservedLabels)
  const privateKey = store.privateKey(service, generatePrivateKey)
  const publicKey = publicKeyOf(privateKey)
  const { hub, links } = await openHubOf(settings, { privateKey, plan, members })
  const { admission = openAdmission({ isSite: () => true }) } = settings
  const decide = (asking: Asking) => decideMember(admission, service, asking)
  const idOf = (publicKey: string) => (members.byKey(publicKey) ?? links.byKey(publicKey))?.spiffeId
  const watch = new HubWatch({ service, audit, idOf })
  const leases = createLeases({ service, hub, store, plan, members, restMs, clock, log, audit, watch, decide })
  try {
    await leases.restore()
  } catch (error) {
    await hub.close()
    throw error
  }
  const ignorePolicy = admission.onChange(() => void endNotAdmitted(endpoint))
  const endpoint: Endpoint = {
    settings,
    decide,
    plan,
    members,
    leases,
    links,
    shared: sharedContext({ prefixes: plan.prefixes, gateways: plan.gateways, dnsDomain: settings.dnsDomain }),
    port: hub.listenPort,
    publicKey,
    growing: Promise.resolve(),
  }
  return {
    wireguardPort: hub.listenPort,
    gateways: plan.gateways.map(formatAddress),
    members: () => members.all(),
    sites: siteEndOf(endpoint),
    failed: hub.failed,
    request: (request, peer, signal) => admit(endpoint, { request, peer, signal }),
    close: (connection, peer) => dismiss(endpoint, connection, peer),
    async stop() {
      ignorePolicy()
      links.stop()
      await leases.stop()
      await hub.close()
    },
  }
}

interface Endpoint {
  readonly settings: Vl3Settings
  readonly decide: (asking: Asking) => PolicyDecision
  readonly plan: AddressPlan
  readonly members: Members
  readonly leases: Leases
  readonly links: SiteLinks
  readonly shared: SharedContext
  readonly port: number
  /** 32 bytes. */
  readonly publicKey: Uint8Array
  /** The growth under way. */
  growing: Promise<void>
}

interface Call {
  readonly request: Parameters<EndpointServer['request']>[0]
  readonly peer: PeerContext
  readonly signal: AbortSignal
}

/** The order of an NSM endpoint: enter the path, decide, act, answer, stamp our token, trim, hand the path back. */
async function admit(endpoint: Endpoint, { request, peer: caller, signal }: Call): Promise<Connection> {
  signal.throwIfAborted()
  const { settings } = endpoint
  const sent = request.connection ?? create(ConnectionSchema)
  checkService(settings.service, sent.networkService)
  const { connection: entered, callerIndex } = enterPath(sent, { name: settings.endpointName, newId: randomUUID })
  const { peer, isSite } = asker(settings, entered, caller)
  checkAdmission(endpoint, peer)
  const offer = readOffer(request, entered, peer)
  checkKey(endpoint, offer)
  const answer = isSite
    ? await linkSite(endpoint, { entered, offer, peer })
    : await grantMember(endpoint, { entered, offer, peer, signal })
  const own = settings.ownToken(audienceOf(entered, caller))
  return leavePath(trimPath(stampTokens(answer, { caller: undefined, own })), callerIndex)
}

interface Entered {
  readonly entered: Connection
  readonly offer: Offer
  readonly peer: PeerContext
}

async function grantMember(
  endpoint: Endpoint,
  { entered, offer: asked, peer, signal }: Entered & { readonly signal: AbortSignal },
): Promise<Connection> {
  const { links, leases } = endpoint
  const ownMtuBytes = endpoint.settings.mtuBytes ?? defaultMtuBytes
  const offer = { ...asked, mtuBytes: Math.min(asked.mtuBytes ?? ownMtuBytes, ownMtuBytes) }
  if (links.byKey(keyToBase64(offer.publicKey))) throw keyOfOther()
  await growFor(endpoint, offer)
  const member = await leases.grant(offer, signal)
  return buildAnswer(entered, offer, grantOf(endpoint, { offer, member, peer }))
}

/** Another site brings its own addresses; nothing is given to it but the way to ours. */
async function linkSite(endpoint: Endpoint, { entered, offer, peer }: Entered): Promise<Connection> {
  const { settings, members, links } = endpoint
  if (members.byKey(keyToBase64(offer.publicKey))) throw keyOfOther()
  await links.put(linkOfRequest(entered, offer))
  const own = { ...sideOf(endpoint, settings.reachableAt(peer)), endpointName: settings.endpointName }
  return buildSiteAnswer(entered, offer, own)
}

/**
 * Who asks: what TLS verified, unless that is a manager of this vL3 that passes on a member's request. Then it is the member
 * as the path names it, and the member's own address is not known. A site that begins the path itself wants a link.
 */
function asker(
  settings: Vl3Settings,
  entered: Connection,
  caller: PeerContext,
): { readonly peer: PeerContext; readonly isSite: boolean } {
  if (!settings.isSite?.(caller.spiffeId)) return { peer: caller, isSite: false }
  const first = claimsOf(entered.path?.pathSegments[0]?.token ?? '')?.sub
  if (first === undefined || first === caller.spiffeId) return { peer: caller, isSite: true }
  return { peer: { ...caller, spiffeId: first, address: '' }, isSite: false }
}

/** Gets more parts when a new member would find no address; one at a time, so that a crowd takes one part. */
async function growFor(endpoint: Endpoint, offer: Offer): Promise<void> {
  const { settings, plan, members } = endpoint
  const { takePart, clock, log } = settings
  if (!takePart || members.find(offer.spiffeId, offer.connectionId)) return
  const grow = async () => {
    for (const whole of plan.full(offer.spiffeId, clock.wallMs())) plan.add(await takePart(whole))
  }
  endpoint.growing = endpoint.growing.then(grow).catch((error: unknown) => {
    log.warn('this site gets no further prefix', { service: settings.service, error: toNsmError(error).message })
  })
  await endpoint.growing
}

/** An unknown connection, or one of another identity, is closed already as far as the caller may know. */
async function dismiss(endpoint: Endpoint, connection: Connection, caller: PeerContext): Promise<void> {
  const { settings, members, leases, links } = endpoint
  const { connection: entered } = enterPath(connection, { name: settings.endpointName, newId: randomUUID })
  const { peer } = asker(settings, entered, caller)
  const member = members.bySegment(entered.id)
  if (member?.spiffeId === peer.spiffeId) await leases.end(member, 'closed')
  const link = links.bySegment(entered.id)
  if (link?.spiffeId === peer.spiffeId) await links.remove(link, 'closed')
}

function siteEndOf(endpoint: Endpoint): SiteEnd {
  const { settings, links } = endpoint
  const { service } = settings
  return {
    request: ({ address, ...wanted }) => buildSiteRequest(sideOf(endpoint, address), { service, ...wanted }),
    async link(answer, { spiffeId, isFresh }) {
      const link = linkOfAnswer(answer, spiffeId)
      await links.put(link, { isFresh })
      return link
    },
    unlink: (link, why) => links.remove(link, why),
    linkWith: (endpointName) => links.withEndpoint(endpointName),
  }
}

function sideOf({ settings, plan, publicKey, port }: Endpoint, address: string | undefined): SiteSide {
  const mtuBytes = settings.mtuBytes ?? defaultMtuBytes
  return { plan, dnsDomain: settings.dnsDomain, publicKey, address, port, mtuBytes }
}

async function openHubOf(
  settings: Vl3Settings,
  made: { readonly privateKey: Uint8Array; readonly plan: AddressPlan; readonly members: Members },
): Promise<{ readonly hub: Hub; readonly links: SiteLinks }> {
  const { clock, log } = settings
  const { privateKey, plan, members } = made
  const rate = new QueryRate()
  const port = answerPort()
  let hub: Hub | undefined
  const names = new SiteNames({
    zone: zoneOf(settings, plan, members),
    others: () => links?.nameSites() ?? [],
    port,
    send: (packet) => hub?.sendLocal(packet),
    clock,
  })
  let links: SiteLinks | undefined
  hub = await settings.openHub({
    privateKey,
    listenAddress: settings.listenAddress,
    listenPort: settings.listenPort,
    gateways: plan.gateways.map(formatAddress),
    localUdpPorts: settings.isSite ? [dnsPort, port] : [dnsPort],
    onLocalPacket(packet) {
      if (names.isOther(packet) || rate.allows(packet, clock.monotonicMs())) names.take(packet)
    },
  })
  try {
    await serveGatewayTcp(hub, { names, rate, gateways: plan.gateways, clock })
  } catch (error) {
    await hub.close()
    throw error
  }
  links = new SiteLinks({ hub, plan, mayHold: settings.mayHold ?? (() => true), clock, log })
  return { hub, links }
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

/** An offer with the MTU that is granted. */
type Granted = Offer & { readonly mtuBytes: number }

function grantOf(
  { settings, shared, port, publicKey }: Endpoint,
  { offer, member, peer }: { readonly offer: Granted; readonly member: Member; readonly peer: PeerContext },
): Parameters<typeof buildAnswer>[2] {
  return {
    endpointName: settings.endpointName,
    addresses: member.addresses,
    shared,
    mtuBytes: offer.mtuBytes,
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

function checkAdmission({ settings, decide }: Endpoint, peer: PeerContext): void {
  const decision = decide(peer)
  if (decision.isGranted) return
  const { service, log, audit = noAudit } = settings
  log.info('an identity was not admitted', { service, peer: peer.spiffeId })
  audit.record({ event: 'grant.deny', id: peer.spiffeId, service, reason: decision.reason, address: peer.address })
  throw refusedMember()
}

/** Members and links with other sites end that a new policy does not admit. */
async function endNotAdmitted({ leases, links, decide }: Endpoint): Promise<void> {
  const out = links.all().filter(({ spiffeId }) => !decide({ spiffeId, origin: undefined }).isGranted)
  await Promise.all([leases.endNotAdmitted(), ...out.map((link) => links.remove(link, notAdmitted))])
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

function keyOfOther(): NsmError {
  return new NsmError('REFUSED', 'this WireGuard key belongs to another member or site', 'make a new key and ask again')
}
