import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { createListeners, type Listeners } from '../base/listeners.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import type { NsmClient } from '../nsm/client.ts'
import { keyToBase64 } from '../tunnel/key-text.ts'
import { publicKeyOf } from '../tunnel/wireguard/keys.ts'
import { auditStates } from './audit-states.ts'
import { mayOverlap } from './awareness.ts'
import { type Driver, startDriver } from './driver.ts'
import type { Journal } from './journal.ts'
import type { State } from './lifecycle.ts'
import { Link, type LinkPhase } from './link.ts'
import type { Machine } from './machine.ts'
import type { Names } from './names.ts'
import type { ConnectionStore } from './store.ts'
import type { Other } from './taken.ts'
import { type ConnectionView, refusalOf, viewOf } from './view.ts'
import { type NsmLease, serviceText, type Wanted } from './wanted.ts'

/** Everything that all connections share. */
export interface ConnectionsParts {
  readonly machine: Machine
  readonly names: Names
  readonly store: ConnectionStore
  readonly journal: Journal
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
  /** A random number in [0, 1). */
  readonly random: () => number
  readonly onCount: (count: number) => void
}

/** The manager that a connection is asked from. */
export interface ManagerSession {
  readonly client: NsmClient
  readonly address: string
  readonly url: string
  /** Whose identity it uses. */
  readonly source?: { current(): { readonly svid: { readonly spiffeId: string } } }
}

/** One `connect` of one service. */
export interface ConnectCall {
  readonly wanted: Wanted
  /** Opened only when something has to be asked. */
  readonly session: () => Promise<ManagerSession>
  readonly progress: (phase: LinkPhase, state: 'started' | 'done', detail?: string) => void
}

/** The result of one `connect`; `isNew` is false when it was up before. */
export interface Connected {
  readonly view: ConnectionView
  readonly isNew: boolean
}

interface Live {
  readonly wanted: Wanted
  readonly link: Link
  readonly driver: Driver<NsmLease>
  readonly connectionId: string
  readonly session: ManagerSession
  readonly sinceMs: number
  /** Who hears of the first connect's parts; later changes are nobody's progress. */
  readonly listeners: Listeners<[State<NsmLease>]>
}

/** All live connections, at most one per service. */
export class Connections {
  readonly #parts: ConnectionsParts
  readonly #live = new Map<string, Live>()
  /** The calls of one service follow each other, whatever became of the one before. */
  readonly #turns = createTurns()

  constructor(parts: ConnectionsParts) {
    this.#parts = parts
  }

  /** Connects, or waits until what is there is up. One at a time per service; a failure leaves nothing behind. */
  connect(call: ConnectCall, signal: AbortSignal): Promise<Connected> {
    return new Promise((resolve, reject) => {
      // Who only waits for another's turn may leave at once; who has begun leaves when everything is undone.
      const giveUp = () => reject(toNsmError(signal.reason))
      signal.addEventListener('abort', giveUp, { once: true })
      const begin = () => {
        signal.removeEventListener('abort', giveUp)
        return this.#connectNow(call, signal)
      }
      this.#turns.run(serviceText(call.wanted), begin).then(resolve, reject)
    })
  }

  /** Closes the named services, all without names; gives those that were there. */
  async disconnect(services: readonly string[], force: boolean): Promise<string[]> {
    const names = services.length > 0 ? [...services] : [...new Set([...this.#live.keys(), ...this.#turns.keys()])]
    const closed = await Promise.all(names.map((name) => this.#disconnectOne(name, force)))
    return closed.flat()
  }

  /** True when nothing is connected or being connected. */
  get isEmpty(): boolean {
    return this.#live.size === 0 && this.#turns.keys().length === 0
  }

  /** The sessions that connections use. */
  get sessions(): ReadonlySet<ManagerSession> {
    return new Set([...this.#live.values()].map(({ session }) => session))
  }

  /** Describes every connection. */
  views(): Promise<ConnectionView[]> {
    return Promise.all([...this.#live.values()].map((live) => this.#view(live)))
  }

  /** Closes everything, also what is being connected, and resolves when it is undone. */
  async close(): Promise<void> {
    await Promise.all([...this.#live.values()].map((live) => live.driver.close(ending())))
    await this.#parts.store.flush()
  }

  async #connectNow(call: ConnectCall, signal: AbortSignal): Promise<Connected> {
    if (signal.aborted) throw toNsmError(signal.reason)
    const live = this.#live.get(serviceText(call.wanted))
    if (live && !asksForMore(call.wanted, live.wanted)) {
      await untilUp(live, signal)
      return { view: await this.#view(live), isNew: false }
    }
    if (live) await this.#close(live, false)
    const started = await this.#start(call, signal)
    return { view: await this.#view(started), isNew: true }
  }

  /** Does not wait for a connect that is under way: it ends it. */
  async #disconnectOne(name: string, force: boolean): Promise<string[]> {
    const live = this.#live.get(name)
    if (!live) return []
    await this.#close(live, force)
    return [name]
  }

  async #start(call: ConnectCall, signal: AbortSignal): Promise<Live> {
    const session = await call.session()
    if (signal.aborted) throw toNsmError(signal.reason)
    const live = this.#open(call, session)
    const abort = () => void live.driver.close(toNsmError(signal.reason))
    signal.addEventListener('abort', abort, { once: true })
    try {
      const state = await live.driver.settled()
      if (state.kind !== 'closed') return live
      await live.driver.close()
      throw state.why ?? ending()
    } finally {
      signal.removeEventListener('abort', abort)
    }
  }

  #open(call: ConnectCall, session: ManagerSession): Live {
    const { clock, log, audit = noAudit, random, onCount } = this.#parts
    const service = serviceText(call.wanted)
    const { connectionId, privateKey } = this.#parts.store.get(service)
    const publicKey = keyToBase64(publicKeyOf(privateKey))
    const link = new Link({
      ...this.#parts,
      wanted: call.wanted,
      client: session.client,
      manager: session,
      others: () => this.#others(service, call.wanted.awarenessGroups ?? []),
      progress: call.progress,
    })
    const listeners: Live['listeners'] = createListeners()
    const record = auditStates<NsmLease>(audit, () => {
      const address = link.addresses.join(' ')
      return { id: idOf(session), service, connection: connectionId, address, publicKey }
    })
    const onState = (state: State<NsmLease>) => {
      record(state)
      listeners.tell(state)
    }
    const driver = startDriver<NsmLease>({ actions: link, clock, log, random, onState })
    const live = {
      wanted: call.wanted,
      link,
      driver,
      connectionId,
      session,
      sinceMs: clock.wallMs(),
      listeners,
    }
    this.#live.set(service, live)
    onCount(this.#live.size)
    void driver.closed.then(() => {
      if (this.#live.get(service) === live) this.#live.delete(service)
      onCount(this.#live.size)
    })
    return live
  }

  #close(live: Live, force: boolean): Promise<void> {
    return live.driver.close(disconnected(), force)
  }

  #others(service: string, groups: readonly (readonly string[])[]): Other[] {
    return [...this.#live.entries()]
      .filter(([name]) => name !== service)
      .map(([name, { link }]) => ({
        service: name,
        interfaceName: link.interfaceName,
        prefixes: link.prefixes,
        addresses: link.addresses,
        mayOverlap: mayOverlap(groups, [service, name]),
      }))
  }

  #view(live: Live): Promise<ConnectionView> {
    return viewOf({ ...live, managerUrl: live.session.url, state: live.driver.state() })
  }
}

/** True when a repeated connect names something that the running connection does not have; what it leaves out stays. */
export function asksForMore(wanted: Wanted, running: Wanted): boolean {
  const differs = (a: unknown, b: unknown) => JSON.stringify(a) !== JSON.stringify(b)
  return (
    (wanted.interfaceName !== undefined && wanted.interfaceName !== running.interfaceName) ||
    (wanted.mtuBytes !== undefined && wanted.mtuBytes !== running.mtuBytes) ||
    (wanted.dnsMode !== 'fanout' && wanted.dnsMode !== running.dnsMode) ||
    (wanted.dns === 'off' && running.dns !== 'off') ||
    (Object.keys(wanted.labels).length > 0 && differs(wanted.labels, running.labels)) ||
    (['allowPrefixes', 'excludePrefixes', 'allowDomains'] as const).some(
      (list) => wanted[list].length > 0 && differs(wanted[list], running[list]),
    )
  )
}

function untilUp(live: Live, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      leave()
      signal.removeEventListener('abort', abort)
    }
    const abort = () => {
      stop()
      reject(toNsmError(signal.reason))
    }
    const look = (state: State<NsmLease>) => {
      const refused = refusalOf(state)
      if (state.kind !== 'up' && state.kind !== 'closed' && !refused) return
      stop()
      if (state.kind === 'up') resolve()
      else reject(refused ?? (state.kind === 'closed' ? state.why : undefined) ?? ending())
    }
    const leave = live.listeners.add(look)
    signal.addEventListener('abort', abort, { once: true })
    look(live.driver.state())
  })
}

function idOf({ source }: ManagerSession): string | undefined {
  try {
    return source?.current().svid.spiffeId
  } catch {
    return undefined
  }
}

function disconnected(): NsmError {
  return new NsmError('LOST', 'the service was disconnected', '`nsm connect` joins it again')
}

function ending(): NsmError {
  return new NsmError('LOST', 'the background process ends', '`nsm connect` starts it again')
}
