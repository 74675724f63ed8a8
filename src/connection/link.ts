import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { UndoStack } from '../base/undo.ts'
import type { NsmClient } from '../nsm/client.ts'
import type { InterfaceSettings } from '../tunnel/tun/host.ts'
import type { Tunnel } from '../tunnel/tunnels.ts'
import { publicKeyOf } from '../tunnel/wireguard/keys.ts'
import { checkAnswer } from './bounds.ts'
import { type Actions, OutOfBounds, type Watched } from './driver.ts'
import { chooseInterfaceName } from './interface-name.ts'
import type { Journal } from './journal.ts'
import type { Purpose } from './lifecycle.ts'
import type { Machine } from './machine.ts'
import type { Names } from './names.ts'
import { checkOwnName } from './own-name.ts'
import { buildRequest, type Offer, readLease } from './request.ts'
import { scopesOf, zonesOf } from './scopes.ts'
import type { ConnectionStore, Remembered } from './store.ts'
import { excludedPrefixes, takenPrefixes } from './taken.ts'
import { type NsmLease, serviceText, tunnelPrefixes, type Wanted } from './wanted.ts'
import { watchLease } from './watch.ts'

/** Parts of a connect that a link runs; `identity` and `registry` come before. */
export type LinkPhase = 'request' | 'tunnel' | 'routes' | 'dns'

/** Everything one connection is made from. */
export interface LinkParts {
  readonly wanted: Wanted
  readonly client: NsmClient
  /** Where the manager is: `address` outside every tunnel, `url` for views. */
  readonly manager: { readonly address: string; readonly url: string }
  readonly machine: Machine
  readonly names: Names
  readonly store: ConnectionStore
  readonly journal: Journal
  readonly clock: Clock
  readonly log: Log
  /** Interfaces and prefixes of the other connections. */
  readonly others: () => readonly {
    readonly service: string
    readonly interfaceName: string
    readonly prefixes: readonly string[]
  }[]
  readonly progress: (phase: LinkPhase, state: 'started' | 'done', detail?: string) => void
}

/** Ours: MTU inside a tunnel when the path does not say less [nsm-protocol 7.6]. */
const tunnelMtuMaxBytes = 1_420
/** [WG 5.4.6] Outer IPv4 or IPv6, UDP and WireGuard headers. */
const overheadBytes = { 4: 60, 6: 80 } as const
/** [NSM sdk-vpp wireguard] Port that peers inside a cluster let through. */
const preferredPort = 51_820
/** [nsm-protocol 11.4] Keeps the way through a NAT open. */
const keepaliveSeconds = 10
/** Ours: three initiations and their answers over a slow line. */
const handshakeTimeoutMs = 15_000

/** One connection's doings: request and answer, tunnel, addresses and routes, names; each change has its undo. */
export class Link implements Actions<NsmLease> {
  readonly #parts: LinkParts
  readonly #remembered: Remembered
  readonly #undos: UndoStack
  #interfaceName: string | undefined
  #listenPort = 0
  #opening: Promise<Tunnel> | undefined
  #tunnel: Tunnel | undefined
  #configured: InterfaceSettings | undefined
  #applied: NsmLease | undefined
  #claimed: readonly string[] = []
  #ownName: string | undefined

  constructor(parts: LinkParts) {
    this.#parts = parts
    this.#undos = new UndoStack(parts.log)
    this.#remembered = parts.store.get(serviceText(parts.wanted))
  }

  /** Empty until it is chosen. */
  get interfaceName(): string {
    return this.#interfaceName ?? ''
  }

  /** Prefixes of the last accepted answer. */
  get prefixes(): readonly string[] {
    return this.#claimed
  }

  /** Own DNS name, once it was seen. */
  get ownName(): string | undefined {
    return this.#ownName
  }

  /** The open tunnel. */
  get tunnel(): Tunnel | undefined {
    return this.#tunnel
  }

  async request(purpose: Purpose, lease: NsmLease | undefined, signal: AbortSignal): Promise<NsmLease> {
    const { client, clock, progress, wanted } = this.#parts
    progress('request', 'started')
    const taken = await this.#taken(purpose === 'first')
    const offer = await this.#offer()
    if (purpose === 'first') this.#openEarly(offer, signal)
    if (purpose === 'reselect' && lease) await client.close(lease.connection, signal).catch(() => {})
    const last = lease?.connection ?? this.#takeOver()
    const message = buildRequest({
      wanted,
      requester: { clientName: this.#parts.store.clientName, connectionId: this.#remembered.connectionId },
      offer,
      excludedPrefixes: excludedPrefixes(taken),
      purpose,
      ...(last ? { last } : {}),
    })
    const connection = await client.request(message, signal)
    const answer = await this.#read(connection, { offer, purpose, nowMs: clock.wallMs() })
    const underlay = { prefix: answer.peer.address, by: "the endpoint's address outside the tunnel" }
    const error = checkAnswer(answer.answer, { ...wanted, taken: [...taken, underlay] })
    if (error) throw new OutOfBounds(answer, error)
    this.#claimed = tunnelPrefixes(answer.answer)
    progress('request', 'done', answer.answer.addresses.join(' '))
    return answer
  }

  async apply(lease: NsmLease, signal: AbortSignal): Promise<void> {
    const tunnel = await this.#ensureTunnel(lease, signal)
    await both(this.#meetPeer(tunnel, lease, signal), this.#configure(tunnel, lease))
    await this.#serveNames(lease, signal)
    this.#applied = lease
    const { store, wanted, manager } = this.#parts
    store.setLast(serviceText(wanted), { connection: lease.connection, manager: manager.url })
  }

  watch(lease: NsmLease, report: (event: Watched) => void, signal: AbortSignal): Promise<void> {
    const { client, clock, log } = this.#parts
    return watchLease({ client, clock, log, lease, tunnel: this.#tunnel }, report, signal)
  }

  readonly undo = async (): Promise<void> => {
    // A tunnel that is still being opened is closed by the undo that its opening registers.
    await this.#opening?.catch(() => {})
    await this.#undos.run()
    this.#tunnel = undefined
    this.#configured = undefined
  }

  async release(lease: NsmLease, signal: AbortSignal): Promise<void> {
    this.#parts.store.setLast(serviceText(this.#parts.wanted), undefined)
    await this.#parts.client.close(lease.connection, signal)
  }

  /** A lease of a process before this one; only with the manager that gave it, and only while it runs. */
  #takeOver() {
    const { last, manager } = this.#remembered
    return last && manager === this.#parts.manager.url ? last : undefined
  }

  async #read(connection: NsmLease['connection'], parts: Parameters<typeof readLease>[1]): Promise<NsmLease> {
    try {
      return readLease(connection, parts)
    } catch (error) {
      await this.#parts.client.close(connection).catch(() => {})
      throw error
    }
  }

  async #taken(isFirst: boolean) {
    const { machine, names, manager, wanted, others } = this.#parts
    const [host, upstreams] = await Promise.all([machine.readHostNetwork(), names.upstreams()])
    const ours = others()
    if (isFirst) {
      const used = [...host.interfaceNames, ...ours.map(({ interfaceName }) => interfaceName)]
      this.#interfaceName ??= chooseInterfaceName(wanted.interfaceName, wanted.service, used)
    }
    return takenPrefixes({
      host,
      ownInterfaceNames: [this.interfaceName, ...ours.map(({ interfaceName }) => interfaceName)],
      addresses: [
        { address: manager.address, what: 'the manager' },
        ...upstreams.map(({ address }) => ({ address, what: 'a DNS server of this machine' })),
      ],
      others: ours,
      excludePrefixes: wanted.excludePrefixes,
    })
  }

  async #offer(): Promise<Offer> {
    const { machine, manager, wanted } = this.#parts
    const route = await machine.routeTo(manager.address)
    if (!route) {
      throw new NsmError('UNREACHABLE', `no route to the manager at ${manager.address}`, 'check the network')
    }
    this.#listenPort ||= await machine.freeUdpPort(preferredPort)
    const outer = overheadBytes[route.sourceAddress.includes(':') ? 6 : 4]
    return {
      sourceAddress: route.sourceAddress,
      listenPort: this.#listenPort,
      publicKey: publicKeyOf(this.#remembered.privateKey),
      mtuBytes: wanted.mtuBytes ?? Math.min(tunnelMtuMaxBytes, route.mtuBytes - outer),
    }
  }

  /** The thread and the interface come up while the manager thinks. */
  #openEarly(offer: Offer, signal: AbortSignal): void {
    if (this.#opening) return
    this.#opening = this.#open(offer.mtuBytes, signal)
    this.#opening.catch(() => {})
  }

  async #open(mtuBytes: number, signal: AbortSignal): Promise<Tunnel> {
    const { machine, journal } = this.#parts
    const { interfaceName } = this
    await journal.add(interfaceName)
    this.#undos.push(() => journal.remove(interfaceName))
    const tunnel = await machine.openTunnel(
      { interfaceName, privateKey: this.#remembered.privateKey, listenPort: this.#listenPort, mtuBytes, peers: [] },
      signal,
    )
    this.#undos.push(() => tunnel.close())
    this.#tunnel = tunnel
    void tunnel.failed.then(() => this.#forget(tunnel))
    return tunnel
  }

  /** A tunnel that died is opened anew by the next `apply`; its routes went with its interface. */
  #forget(tunnel: Tunnel): void {
    if (this.#tunnel !== tunnel) return
    this.#tunnel = undefined
    this.#opening = undefined
    this.#configured = undefined
    this.#applied = undefined
  }

  async #ensureTunnel(lease: NsmLease, signal: AbortSignal): Promise<Tunnel> {
    if (this.#tunnel) return this.#tunnel
    const { progress } = this.#parts
    progress('tunnel', 'started')
    if (!this.#opening) {
      await this.#undos.run()
      this.#opening = this.#open(lease.mtuBytes, signal)
    }
    const opening = this.#opening
    return opening.catch((error: unknown) => {
      if (this.#opening === opening) this.#opening = undefined
      throw error
    })
  }

  async #meetPeer(tunnel: Tunnel, lease: NsmLease, signal: AbortSignal): Promise<void> {
    const before = this.#applied?.peer
    const isSame = before !== undefined && sameKey(before.publicKey, lease.peer.publicKey)
    if (isSame && !lease.renewed && before.address === lease.peer.address && before.port === lease.peer.port) return
    const { progress } = this.#parts
    progress('tunnel', 'started')
    if (before && !isSame) await tunnel.removePeer(before.publicKey)
    await tunnel.setPeer({
      publicKey: lease.peer.publicKey,
      endpoint: { address: lease.peer.address, port: lease.peer.port },
      keepaliveSeconds,
      allowedPrefixes: ['0.0.0.0/0', '::/0'],
    })
    await this.#handshake(tunnel, lease, signal)
    progress('tunnel', 'done', `${lease.peer.address}:${lease.peer.port}`)
  }

  async #handshake(tunnel: Tunnel, { peer }: NsmLease, signal: AbortSignal): Promise<void> {
    const late = new AbortController()
    const cancel = this.#parts.clock.after(handshakeTimeoutMs, () => late.abort(noHandshake(peer)))
    try {
      await tunnel.handshake(peer.publicKey, AbortSignal.any([signal, late.signal]))
    } finally {
      cancel()
    }
  }

  async #configure(tunnel: Tunnel, lease: NsmLease): Promise<void> {
    const { machine, log, progress } = this.#parts
    const before = this.#configured
    const after: InterfaceSettings = {
      interfaceName: tunnel.interfaceName,
      addresses: lease.answer.addresses,
      routes: [...new Set([...hostRoutes(lease), ...lease.answer.routes])],
      mtuBytes: lease.mtuBytes,
    }
    if (before && JSON.stringify(before) === JSON.stringify(after)) return
    progress('routes', 'started')
    if (before) await machine.updateInterface(before, after, log)
    else this.#undos.push(await machine.configureInterface(after, log))
    this.#configured = after
    progress('routes', 'done', after.routes.join(' '))
  }

  async #serveNames(lease: NsmLease, signal: AbortSignal): Promise<void> {
    const { names, wanted, progress } = this.#parts
    const scopes = scopesOf(lease, wanted)
    const before = this.#applied && scopesOf(this.#applied, wanted)
    if (this.#applied && JSON.stringify(before) === JSON.stringify(scopes)) return
    const owner = this.#remembered.connectionId
    if (!scopes) return before ? names.detach(owner) : undefined
    progress('dns', 'started')
    if (!before) this.#undos.push(() => names.detach(owner))
    await names.attach(owner, scopes)
    this.#ownName = await checkOwnName({ ...this.#parts, name: this.#podName, ...ownSide(lease, wanted) }, signal)
    progress('dns', 'done', this.#ownName ?? scopes.searchDomains.join(' '))
  }

  get #podName(): string {
    return this.#parts.wanted.labels['podName'] ?? this.#parts.wanted.name
  }
}

function ownSide(lease: NsmLease, wanted: Wanted): { readonly zones: readonly string[]; readonly addresses: string[] } {
  const addresses = lease.answer.addresses.map((address) => address.split('/')[0] ?? '')
  return { zones: zonesOf(lease, wanted), addresses }
}

/** The endpoint's addresses are on the link [nsm-protocol 7.5]. */
function hostRoutes(lease: NsmLease): string[] {
  return lease.answer.endpointAddresses.map((address) => {
    const [bare = ''] = address.split('/')
    return `${bare}/${bare.includes(':') ? 128 : 32}`
  })
}

/** Waits for both also when one fails, so that an undo does not race with the other. */
async function both(...work: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(work)
  const failed = results.find((result) => result.status === 'rejected')
  if (failed) throw toNsmError(failed.reason)
}

function sameKey(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}

function noHandshake({ address, port }: NsmLease['peer']): NsmError {
  return new NsmError(
    'UNREACHABLE',
    `no WireGuard answer from ${address}:${port} within ${handshakeTimeoutMs / 1_000} s`,
    'check that UDP to that address and port is let through',
  )
}
