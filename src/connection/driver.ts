import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { type Effect, type Event, initialState, type Lease, type Purpose, type State, step } from './lifecycle.ts'

/** What a connection can do to the world; each wait takes a signal. */
export interface Actions<L extends Lease> {
  /** Asks the manager and checks the answer; throws `OutOfBounds` when the answer is not acceptable. */
  request(purpose: Purpose, lease: L | undefined, signal: AbortSignal): Promise<L>
  /** Makes tunnel, addresses, routes and names match the lease; does nothing for what already matches. */
  apply(lease: L, signal: AbortSignal): Promise<void>
  /** Reports what happens to a lease until the signal is aborted; throws when it cannot watch any more. */
  watch(lease: L, report: (event: Watched) => void, signal: AbortSignal): Promise<void>
  /** Takes addresses and routes off the machine until the next `apply`. */
  withdraw(): Promise<void>
  /** Undoes every change to the machine. */
  undo(): Promise<void>
  /** Closes the lease at the manager. */
  release(lease: L, signal: AbortSignal): Promise<void>
}

/** What `watch` may report. */
export type Watched =
  | { readonly kind: 'control-lost'; readonly error: NsmError }
  | { readonly kind: 'path-lost'; readonly error: NsmError }
  | { readonly kind: 'path-found' }
  | { readonly kind: 'tunnel-lost'; readonly error: NsmError }
  | { readonly kind: 'down'; readonly isDeleted: boolean; readonly error: NsmError }
  | { readonly kind: 'conflict'; readonly error: NsmError }
  | { readonly kind: 'refresh-asked' }

/** An answer that was given but is not acceptable; the lease must be closed. */
export class OutOfBounds<L extends Lease> extends NsmError {
  readonly lease: L
  constructor(lease: L, error: NsmError) {
    super(error.code, error.message, error.next, { cause: error })
    this.lease = lease
  }
}

/** One running connection. */
export interface Driver<L extends Lease> {
  /** The current state. */
  state(): State<L>
  /** Resolves with the first state that is `up` or `closed`. */
  settled(): Promise<State<L>>
  /** Resolves when it is closed and everything is undone. */
  readonly closed: Promise<void>
  /** Closes and resolves when everything is undone; `force` does not wait for the manager. */
  close(why?: NsmError, force?: boolean): Promise<void>
}

/** Everything a driver is made from. */
export interface DriverSettings<L extends Lease> {
  readonly actions: Actions<L>
  readonly clock: Clock
  readonly log: Log
  /** A random number in [0, 1). */
  readonly random: () => number
  readonly onState?: (state: State<L>) => void
}

/** Ours: Close waits this long for the manager; SIGTERM must end everything within 3 s. */
const releaseTimeoutMs = 1_500
/** Ours: what is being done to the machine is stopped, or left to itself, within this time. */
const stopMs = 700
/** Ours: a request that is under way when the connection is closed may still answer, so that its lease can be given back. */
const lateAnswerMs = 500

/** Starts a connection: events are handled one at a time, in the order of arrival. */
export function startDriver<L extends Lease>(settings: DriverSettings<L>): Driver<L> {
  const running = new RunningDriver(settings)
  running.post({ kind: 'start' })
  return running
}

class RunningDriver<L extends Lease> implements Driver<L> {
  readonly #settings: DriverSettings<L>
  readonly #queue: Event<L>[] = []
  readonly #settled = Promise.withResolvers<State<L>>()
  readonly #closed = Promise.withResolvers<void>()
  readonly #work = new AbortController()
  #state: State<L> = initialState()
  #draining = false
  #asking: Asking<L> | undefined
  #force = false
  #applying: Promise<void> = Promise.resolve()
  #requesting: Promise<void> = Promise.resolve()
  #releasing: Promise<void> = Promise.resolve()
  #watching: AbortController | undefined
  #cancelTimer: () => void = () => {}

  constructor(settings: DriverSettings<L>) {
    this.#settings = settings
  }

  state(): State<L> {
    return this.#state
  }

  get closed(): Promise<void> {
    return this.#closed.promise
  }

  settled(): Promise<State<L>> {
    return this.#settled.promise
  }

  close(why?: NsmError, force = false): Promise<void> {
    this.#force ||= force
    this.post(why ? { kind: 'close', why } : { kind: 'close' })
    return this.#closed.promise
  }

  /** Takes an event; the ones that arrive while another is handled wait their turn. */
  post(event: Event<L>): void {
    this.#queue.push(event)
    if (this.#draining) return
    this.#draining = true
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) this.#handle(next)
    this.#draining = false
  }

  #handle(event: Event<L>): void {
    const { clock, log, random, onState } = this.#settings
    const { next, effects } = step(this.#state, event, { nowMs: clock.wallMs(), jitter: random() })
    if (next.kind !== this.#state.kind) log.info('connection state changed', { from: this.#state.kind, to: next.kind })
    this.#state = next
    for (const effect of effects) this.#run(effect)
    onState?.(next)
    if (next.kind === 'up' || next.kind === 'closed') this.#settled.resolve(next)
  }

  #run(effect: Effect<L>): void {
    if (effect.kind === 'request') this.#request(effect.purpose, effect.lease)
    else if (effect.kind === 'apply') this.#apply(effect.lease)
    else if (effect.kind === 'timer') this.#timer(effect.delayMs)
    else if (effect.kind === 'watch') this.#watch(effect.lease)
    else if (effect.kind === 'unwatch') this.#unwatch()
    else if (effect.kind === 'withdraw') this.#withdraw()
    else if (effect.kind === 'teardown') void this.#teardown(effect.lease)
    else this.#releasing = this.#release(effect.lease)
  }

  #timer(delayMs: number): void {
    this.#cancelTimer()
    this.#cancelTimer = this.#settings.clock.after(delayMs, () => this.post({ kind: 'due' }))
  }

  #unwatch(): void {
    this.#watching?.abort()
    this.#watching = undefined
  }

  /** One request at a time; only a reselect does not wait for what was asked before: that may hang at a dead endpoint. */
  #request(purpose: Purpose, lease: L | undefined): void {
    if (this.#asking) {
      if (purpose !== 'reselect' || this.#asking.purpose === 'reselect') return
      this.#asking.successor = { purpose, lease }
      this.#asking.stop.abort(superseded())
      return
    }
    const asking: Asking<L> = { purpose, stop: new AbortController(), successor: undefined }
    this.#asking = asking
    const signal = AbortSignal.any([this.#work.signal, asking.stop.signal])
    this.#requesting = this.#settings.actions
      .request(purpose, lease, signal)
      .then(
        (accepted): Event<L> => ({ kind: 'accepted', lease: accepted }),
        (thrown): Event<L> => requestFailed(thrown),
      )
      .then((event) => {
        this.#asking = undefined
        if (asking.successor && this.#state.kind !== 'closed')
          this.#request(asking.successor.purpose, asking.successor.lease)
        else this.post(event)
      })
  }

  /** Changes to the machine never overlap: each waits for the one before. */
  #apply(lease: L): void {
    this.#applying = this.#applying
      .then(() => this.#settings.actions.apply(lease, this.#work.signal))
      .then(
        () => this.post({ kind: 'applied', lease }),
        (thrown) => this.post({ kind: 'not-applied', lease, error: toNsmError(thrown) }),
      )
  }

  #withdraw(): void {
    this.#applying = this.#applying
      .then(() => this.#settings.actions.withdraw())
      .catch((error: unknown) => {
        this.#settings.log.warn('a connection could not be withdrawn', { error: String(error) })
      })
  }

  #watch(lease: L): void {
    this.#watching?.abort()
    const watching = new AbortController()
    this.#watching = watching
    const report = (event: Watched) => {
      if (!watching.signal.aborted) this.post(event)
    }
    this.#settings.actions.watch(lease, report, watching.signal).then(
      () => {},
      (thrown) => report({ kind: 'control-lost', error: toNsmError(thrown) }),
    )
  }

  async #teardown(lease: L | undefined): Promise<void> {
    this.#cancelTimer()
    const late = this.#settings.clock.after(this.#force ? 0 : lateAnswerMs, () => this.#work.abort(closing()))
    const released = lease ? this.#release(lease) : this.#requesting.then(() => this.#releasing)
    // Stops the work on the machine before it is undone, so that nothing is added behind the undo's back.
    if (lease) this.#work.abort(closing())
    await this.#within(stopMs, this.#applying)
    await this.#settings.actions.undo().catch((error: unknown) => {
      this.#settings.log.warn('a connection could not be undone', { error: String(error) })
    })
    if (!this.#force) await released
    late()
    this.#work.abort(closing())
    this.#closed.resolve()
  }

  /** Work that does not heed its signal must not keep the machine from being put back. */
  #within(timeoutMs: number, work: Promise<void>): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#settings.clock.after(timeoutMs, resolve)
      work.then(resolve, resolve).finally(cancel)
    })
  }

  async #release(lease: L): Promise<void> {
    const stop = new AbortController()
    const cancel = this.#settings.clock.after(releaseTimeoutMs, () => stop.abort(closing()))
    try {
      await this.#settings.actions.release(lease, stop.signal)
    } catch (error) {
      this.#settings.log.warn('the manager did not confirm the close', { error: String(error) })
    } finally {
      cancel()
    }
  }
}

/** A request that is under way, and the one that takes its place. */
interface Asking<L extends Lease> {
  readonly purpose: Purpose
  readonly stop: AbortController
  successor: { readonly purpose: Purpose; readonly lease: L | undefined } | undefined
}

/** Errors that can pass by themselves: silence, and an endpoint that is not ready yet. */
function requestFailed<L extends Lease>(thrown: unknown): Event<L> {
  if (isOutOfBounds<L>(thrown)) return { kind: 'out-of-bounds', lease: thrown.lease, error: thrown }
  const error = toNsmError(thrown)
  return { kind: 'failed', error, retry: error.code === 'UNREACHABLE' || error.code === 'NOT_READY' }
}

function isOutOfBounds<L extends Lease>(thrown: unknown): thrown is OutOfBounds<L> {
  return thrown instanceof OutOfBounds
}

function superseded(): NsmError {
  return new NsmError('UNREACHABLE', 'the endpoint is dead, another one is asked for', 'nothing')
}

function closing(): NsmError {
  return new NsmError('LOST', 'the connection is being closed', 'nothing')
}
