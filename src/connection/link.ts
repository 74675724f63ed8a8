import { type Clock, sleep } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { UndoStack } from '../base/undo.ts'
import type { NsmClient } from '../nsm/client.ts'
import type { HostNetwork } from '../tunnel/tun/host.ts'
import type { Tunnel } from '../tunnel/tunnels.ts'
import { Asker } from './asker.ts'
import { checkAnswer, findConflict } from './bounds.ts'
import { ChangeLimit } from './change-limit.ts'
import { type Actions, OutOfBounds, type Watched } from './driver.ts'
import type { Echo } from './echo.ts'
import { HostSide } from './host-side.ts'
import { chooseInterfaceName } from './interface-name.ts'
import type { Journal } from './journal.ts'
import type { Purpose } from './lifecycle.ts'
import { paceOf } from './liveness.ts'
import type { Machine } from './machine.ts'
import { type Applying, isSamePeer, PeerMeeting } from './meet-peer.ts'
import type { Names } from './names.ts'
import { makeOffer } from './offer.ts'
import { checkOwnName } from './own-name.ts'
import { buildRequest, type Offer, readLease } from './request.ts'
import { scopesOf, zonesOf } from './scopes.ts'
import type { ConnectionStore, Remembered } from './store.ts'
import { watchSurroundings } from './surroundings.ts'
import { excludedPrefixes, nameOwners, type Other, takenPrefixes, withoutLaterRoutes } from './taken.ts'
import {
  bareAddresses,
  contextText,
  type NsmLease,
  serviceText,
  type TunnelPeer,
  tunnelPrefixes,
  type Wanted,
} from './wanted.ts'
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
  /** The other connections. */
  readonly others: () => readonly Other[]
  readonly progress: (phase: LinkPhase, state: 'started' | 'done', detail?: string) => void
}

/** Ours: putting a lease in place while healing; then the service is asked for again. */
const healApplyMs = 20_000
/** Ours: a tunnel that is being opened when everything is undone is waited for this long. */
const openingMs = 700

/** One connection's doings: request and answer, tunnel, addresses and routes, names; each change has its undo. */
export class Link implements Actions<NsmLease> {
  readonly #parts: LinkParts
  readonly #remembered: Remembered
  readonly #undos: UndoStack
  #interfaceName: string | undefined
  #listenPort = 0
  #opening: Promise<Tunnel> | undefined
  #tunnel: Tunnel | undefined
  readonly #host: HostSide
  #applied: NsmLease | undefined
  #claimed: readonly string[] = []
  #addresses: readonly string[] = []
  #ownName: string | undefined
  #warning: NsmError | undefined
  #isUndone = false
  /** The tunnel's peer, also one that has not answered. */
  #peer: TunnelPeer | undefined
  readonly #meeting: PeerMeeting
  readonly #asker: Asker
  readonly #changes = new ChangeLimit()

  constructor(parts: LinkParts) {
    this.#parts = parts
    this.#undos = new UndoStack(parts.log)
    this.#meeting = new PeerMeeting(parts.clock)
    this.#host = new HostSide(parts.machine, parts.log)
    this.#asker = new Asker(parts.client, parts.clock)
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

  /** Own addresses of the last accepted answer. */
  get addresses(): readonly string[] {
    return this.#addresses
  }

  /** Own DNS name, once it was seen. */
  get ownName(): string | undefined {
    return this.#ownName
  }

  /** What is not as it should be although packets flow. */
  get warning(): NsmError | undefined {
    return this.#warning
  }

  /** The open tunnel. */
  get tunnel(): Tunnel | undefined {
    return this.#tunnel
  }

  async request(purpose: Purpose, lease: NsmLease | undefined, signal: AbortSignal): Promise<NsmLease> {
    const { clock, progress, wanted } = this.#parts
    progress('request', 'started')
    if (purpose === 'first') await this.#chooseName()
    const taken = withoutLaterRoutes(await this.#taken(), this.#claimed)
    const offer = await this.#offer()
    if (purpose === 'first') this.#openEarly(offer, signal)
    const last = lease?.connection ?? this.#takeOver()
    const message = buildRequest({
      wanted,
      requester: { clientName: this.#parts.store.clientName, connectionId: this.#remembered.connectionId },
      offer,
      excludedPrefixes: excludedPrefixes(taken),
      purpose,
      ...(last ? { last } : {}),
    })
    const connection = await this.#asker.request(message, purpose, signal).catch((thrown: unknown) => {
      throw nameOwners(toNsmError(thrown), taken)
    })
    const answer = await this.#read(connection, { offer, purpose, nowMs: clock.wallMs() })
    const underlay = { prefix: answer.peer.address, by: "the endpoint's address outside the tunnel" }
    const error = checkAnswer(answer.answer, { ...wanted, taken: [...taken, underlay] })
    if (error) throw new OutOfBounds(answer, error)
    this.#claimed = tunnelPrefixes(answer.answer)
    this.#addresses = answer.answer.addresses
    progress('request', 'done', answer.answer.addresses.join(' '))
    return answer
  }

  async apply(lease: NsmLease, signal: AbortSignal): Promise<void> {
    const isHealing = this.#applied !== undefined && lease.renewed
    const late = new AbortController()
    const cancel = this.#parts.clock.after(healApplyMs, () => isHealing && late.abort(notInPlace()))
    try {
      await this.#applyNow(lease, { isHealing, signal: AbortSignal.any([signal, late.signal]) })
    } finally {
      cancel()
    }
  }

  async #applyNow(lease: NsmLease, how: Applying): Promise<void> {
    const { signal } = how
    const tunnel = await this.#ensureTunnel(lease, signal)
    await this.#waitForTurn(lease, how)
    await both(this.#meetPeer(tunnel, lease, how), this.#configure(tunnel, lease))
    await this.#serveNames(lease, signal)
    this.#applied = lease
    const { store, wanted, manager } = this.#parts
    store.setLast(serviceText(wanted), { connection: lease.connection, manager: manager.url })
  }

  /** The first change is the user's wish; each later one is the endpoint's [security E12]. */
  async #waitForTurn(lease: NsmLease, how: Applying) {
    const { clock } = this.#parts
    if (!this.#applied || contextText(this.#applied) === contextText(lease)) return
    const waitMs = this.#changes.waitMs(clock.monotonicMs(), how.isHealing)
    if (waitMs > 0) await sleep(clock, waitMs, how.signal)
    this.#changes.note(clock.monotonicMs())
  }

  watch(lease: NsmLease, report: (event: Watched) => void, signal: AbortSignal): Promise<void> {
    const { client, clock, log, wanted } = this.#parts
    void watchSurroundings(this.#parts, () => this.#judgeSurroundings(lease, report), signal).catch(() => {})
    const pace = wanted.livenessEnabled === false ? undefined : paceOf(wanted)
    const echo = pace && this.#openEcho(lease)
    return watchLease({ client, clock, log, lease, tunnel: this.#tunnel, echo, pace }, report, signal)
  }

  #openEcho(lease: NsmLease): Echo | undefined {
    const [to] = bareAddresses(lease.answer.endpointAddresses)
    const from = bareAddresses(lease.answer.addresses).find((own) => own.includes(':') === to?.includes(':'))
    if (!this.#tunnel || to === undefined || from === undefined) return undefined
    return this.#parts.machine.openEcho({ interfaceName: this.#tunnel.interfaceName, from, to })
  }

  /** A network that the machine joins later comes first; a route that it learns later does not, and is only said. */
  async #judgeSurroundings(lease: NsmLease, report: (event: Watched) => void): Promise<boolean> {
    const host = await this.#parts.machine.readHostNetwork()
    // An interface that is down takes no routes: they come when it is up, which is a change again.
    await this.#host.restore(host).catch(() => {})
    const taken = await this.#taken(host)
    const conflict = findConflict(lease.answer, taken)
    const own = taken.filter(({ isOnlyRoute }) => !isOnlyRoute)
    const error = conflict && findConflict(lease.answer, own)
    if (error) report({ kind: 'conflict', error })
    if (conflict && conflict.message !== this.#warning?.message) {
      this.#parts.log.warn('a network of this machine overlaps the service', { reason: conflict.message })
    }
    this.#warning = conflict
    return error !== undefined
  }

  withdraw(): Promise<void> {
    return this.#host.withdraw()
  }

  readonly undo = async (): Promise<void> => {
    this.#isUndone = true
    // A tunnel that is still being opened is closed by the undo that its opening registers, or by its opening itself.
    const opened = this.#opening?.then(() => {}).catch(() => {})
    await Promise.race([opened, sleep(this.#parts.clock, openingMs)])
    await this.#undos.run()
    await this.#host.close()
    this.#tunnel = undefined
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

  async #chooseName(): Promise<void> {
    const { machine, wanted, others } = this.#parts
    const { interfaceNames } = await machine.readHostNetwork()
    const used = [...interfaceNames, ...others().map(({ interfaceName }) => interfaceName)]
    this.#interfaceName ??= chooseInterfaceName(wanted.interfaceName, wanted.service, used)
  }

  async #taken(known?: HostNetwork) {
    const { machine, names, manager, wanted, others } = this.#parts
    const [host, upstreams] = await Promise.all([known ?? machine.readHostNetwork(), names.upstreams()])
    const ours = others()
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
    const offer = await makeOffer({
      machine,
      managerAddress: manager.address,
      wanted,
      privateKey: this.#remembered.privateKey,
      listenPort: this.#listenPort,
    })
    this.#listenPort = offer.listenPort
    return offer
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
    if (this.#isUndone) {
      await tunnel.close()
      throw notInPlace()
    }
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
    this.#host.forget()
    this.#applied = undefined
    this.#peer = undefined
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

  async #meetPeer(tunnel: Tunnel, lease: NsmLease, applying: Applying): Promise<void> {
    const before = this.#peer
    if (!lease.renewed && this.#applied && isSamePeer(this.#applied, lease)) return
    const { progress } = this.#parts
    progress('tunnel', 'started')
    this.#peer = lease.peer
    await this.#meeting.meet(tunnel, { before, peer: lease.peer }, applying)
    progress('tunnel', 'done', `${lease.peer.address}:${lease.peer.port}`)
  }

  async #configure(tunnel: Tunnel, lease: NsmLease): Promise<void> {
    const { progress, others } = this.#parts
    const friends = others().filter(({ mayOverlap }) => mayOverlap)
    const after = this.#host.plan(
      lease,
      tunnel.interfaceName,
      friends.map(({ interfaceName }) => interfaceName),
    )
    if (!after) return
    progress('routes', 'started')
    await tunnel.setMtu(lease.mtuBytes)
    if (await this.#host.place(after)) this.#undos.push(() => this.#host.unplace())
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
    await names.attach(owner, { ...scopes, interfaceName: this.interfaceName })
    this.#ownName = await checkOwnName({ ...this.#parts, name: this.#podName, ...ownSide(lease, wanted) }, signal)
    progress('dns', 'done', this.#ownName ?? scopes.searchDomains.join(' '))
  }

  get #podName(): string {
    return this.#parts.wanted.labels['podName'] ?? this.#parts.wanted.name
  }
}

function ownSide(lease: NsmLease, wanted: Wanted): { readonly zones: readonly string[]; readonly addresses: string[] } {
  return { zones: zonesOf(lease, wanted), addresses: bareAddresses(lease.answer.addresses) }
}

/** Waits for both also when one fails, so that an undo does not race with the other. */
async function both(...work: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(work)
  const failed = results.find((result) => result.status === 'rejected')
  if (failed) throw toNsmError(failed.reason)
}

function notInPlace(): NsmError {
  return new NsmError('UNREACHABLE', 'the endpoint was too slow', 'nothing: the service is asked for again')
}
