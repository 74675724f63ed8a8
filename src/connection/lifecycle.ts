import type { NsmError } from '../base/errors.ts'

/*
 *              accepted, applied                    refresh due: request, same state
 *  requesting ------------------> up <------------------------------------------.
 *    |    ^ |                      | control lost, DOWN, refresh failed,         |
 *    |    '-' failed, can be       | path lost, tunnel lost, conflict            |
 *    |        tried again          v                                             |
 *    |                          healing ---- accepted, applied ------------------'
 *    |                           |   ^ | failed: back-off, then again
 *    | failed for good           |   '-' path lost: reselect; path found: renew
 *    v                           v close
 *  closed <--- close from anywhere                                (closed is final)
 *
 * Control (the manager) and path (the packets) die apart. While packets flow nothing but the same connection is asked
 * for, and the tunnel stays as it is; only a dead path is worth another endpoint [nsm-protocol 4.9].
 */

/** What the manager granted; `request.ts` makes it from an NSM connection. */
export interface Lease {
  /** Wall clock at which to refresh, milliseconds since the Unix epoch [nsm-protocol 4.6]. */
  readonly refreshAtMs: number
}

/** What a request is for: `renew` asks for the same connection, `reselect` for any endpoint [nsm-protocol 4.9]. */
export type Purpose = 'first' | 'refresh' | 'renew' | 'reselect'

/** Where a connection is; each state holds only what is true in it. */
export type State<L extends Lease> =
  | { readonly kind: 'requesting'; readonly attempt: number; readonly lease?: L }
  | Up<L>
  | Healing<L>
  | { readonly kind: 'closed'; readonly why?: NsmError }

/** Usable. */
export interface Up<L extends Lease> {
  readonly kind: 'up'
  readonly lease: L
  /** When it became usable, milliseconds since the Unix epoch. */
  readonly sinceMs: number
  /** How often in a row it healed and was soon lost again. */
  readonly flaps: number
  /** Why the last refresh was not taken over. */
  readonly error?: NsmError
}

/** Was up; asks again until it is. */
export interface Healing<L extends Lease> {
  readonly kind: 'healing'
  readonly lease: L
  readonly attempt: number
  readonly purpose: 'renew' | 'reselect'
  /** Packets still flow: then a refusal is no reason to leave the endpoint. */
  readonly isPathAlive: boolean
  /** The lease is being put in place; what the path of the one before says is no news. */
  readonly isApplying: boolean
  readonly flaps: number
  readonly error?: NsmError
}

/** What can happen to a connection. */
export type Event<L extends Lease> =
  | { readonly kind: 'start' }
  /** The manager answered and the answer is within our bounds. */
  | { readonly kind: 'accepted'; readonly lease: L }
  /** The manager answered, but outside our bounds; `lease` is what must be closed. */
  | { readonly kind: 'out-of-bounds'; readonly lease: L; readonly error: NsmError }
  /** Tunnel, routes and names of a lease are in place. */
  | { readonly kind: 'applied'; readonly lease: L }
  /** They could not be put in place. */
  | { readonly kind: 'not-applied'; readonly lease: L; readonly error: NsmError }
  /** The request failed; `retry` says whether the same request may succeed later. */
  | { readonly kind: 'failed'; readonly error: NsmError; readonly retry: boolean }
  /** The timer ran out. */
  | { readonly kind: 'due' }
  /** The manager's event stream ended; packets may flow on. */
  | { readonly kind: 'control-lost'; readonly error: NsmError }
  /** The endpoint does not answer through the tunnel any more. */
  | { readonly kind: 'path-lost'; readonly error: NsmError }
  /** It answers again. */
  | { readonly kind: 'path-found' }
  /** The tunnel itself died. */
  | { readonly kind: 'tunnel-lost'; readonly error: NsmError }
  /** The manager says that the connection is down or deleted. */
  | { readonly kind: 'down'; readonly error: NsmError }
  /** The machine joined a network that overlaps the lease [security E6]. */
  | { readonly kind: 'conflict'; readonly error: NsmError }
  /** The manager asks for a refresh now. */
  | { readonly kind: 'refresh-asked' }
  | { readonly kind: 'close'; readonly why?: NsmError }

/** What the driver must do. */
export type Effect<L extends Lease> =
  | { readonly kind: 'request'; readonly purpose: Purpose; readonly lease?: L }
  | { readonly kind: 'apply'; readonly lease: L }
  /** Replaces the one timer of the connection. */
  | { readonly kind: 'timer'; readonly delayMs: number }
  /** Watches the manager's events, the tunnel and the path until `unwatch`; replaces the watch before it. */
  | { readonly kind: 'watch'; readonly lease: L }
  | { readonly kind: 'unwatch' }
  /** Takes addresses and routes off the machine; tunnel and names stay. */
  | { readonly kind: 'withdraw' }
  /** Undoes every change to the machine and closes the lease at the manager. */
  | { readonly kind: 'teardown'; readonly lease?: L }
  /** Closes a lease at the manager and nothing else. */
  | { readonly kind: 'release'; readonly lease: L }

/** The next state and what to do. */
export interface Step<L extends Lease> {
  readonly next: State<L>
  readonly effects: readonly Effect<L>[]
}

/** Time and chance of one step. */
export interface Moment {
  /** Wall clock, milliseconds since the Unix epoch. */
  readonly nowMs: number
  /** A random number in [0, 1): spreads the retries of many clients. */
  readonly jitter: number
}

/** Ours: first wait between two tries. */
export const backoffMinMs = 200
/** Ours: longest wait between two tries. */
export const backoffMaxMs = 5_000
/** Ours: a lease that asks for a refresh at once is refreshed at most this often. */
export const refreshMinMs = 1_000
/** Ours: a connection that was up for this long did not flap, and is healed without a wait. */
export const steadyMs = 10_000

/** The state before the first event. */
export function initialState<L extends Lease>(): State<L> {
  return { kind: 'requesting', attempt: 0 }
}

/** Moves a connection by one event. Pure: the driver runs the effects. */
export function step<L extends Lease>(state: State<L>, event: Event<L>, moment: Moment): Step<L> {
  if (state.kind === 'closed') return inClosed(state, event)
  if (event.kind === 'close') return closed(event.why, state.lease)
  if (state.kind === 'requesting') return inRequesting(state, event, moment)
  if (state.kind === 'up') return inUp(state, event, moment)
  return inHealing(state, event, moment)
}

/** Milliseconds before try number `attempt` (0 = the first retry): doubles, capped, between half and the whole. */
export function backoffMs(attempt: number, jitter: number): number {
  const wholeMs = Math.min(backoffMaxMs, 2 * backoffMinMs * 2 ** Math.min(attempt, 10))
  return Math.max(backoffMinMs, wholeMs * (0.5 + jitter / 2))
}

type Of<L extends Lease, K extends State<L>['kind']> = Extract<State<L>, { readonly kind: K }>

function inRequesting<L extends Lease>(state: Of<L, 'requesting'>, event: Event<L>, moment: Moment): Step<L> {
  switch (event.kind) {
    case 'start':
    case 'due':
      return state.lease ? stay(state) : { next: state, effects: [{ kind: 'request', purpose: 'first' }] }
    case 'accepted':
      return { next: { ...state, lease: event.lease }, effects: [{ kind: 'apply', lease: event.lease }] }
    case 'applied':
      return state.lease === event.lease ? up(state.lease, 0, moment) : stay(state)
    case 'failed':
      if (!event.retry) return closed(event.error, state.lease)
      return {
        next: { ...state, attempt: state.attempt + 1 },
        effects: [{ kind: 'timer', delayMs: backoffMs(state.attempt, moment.jitter) }],
      }
    case 'out-of-bounds':
      return closed(event.error, event.lease)
    case 'not-applied':
    case 'tunnel-lost':
    case 'down':
      return closed(event.error, state.lease)
    default:
      return stay(state)
  }
}

function inUp<L extends Lease>(state: Of<L, 'up'>, event: Event<L>, moment: Moment): Step<L> {
  switch (event.kind) {
    case 'due':
    case 'refresh-asked':
      return { next: state, effects: [{ kind: 'request', purpose: 'refresh', lease: state.lease }] }
    case 'accepted':
      return {
        next: { kind: 'up', lease: event.lease, sinceMs: state.sinceMs, flaps: state.flaps },
        effects: [
          { kind: 'apply', lease: event.lease },
          { kind: 'timer', delayMs: refreshDelayOf(event.lease, moment) },
        ],
      }
    // The old lease stays in force: a refresh may not widen what was agreed [security E11].
    case 'out-of-bounds':
      return {
        next: { ...state, error: event.error },
        effects: [{ kind: 'timer', delayMs: Math.max(backoffMaxMs, refreshDelayOf(event.lease, moment)) }],
      }
    case 'failed':
    case 'control-lost':
      return heal(state, { purpose: 'renew', isPathAlive: true, error: event.error }, moment)
    case 'not-applied':
      if (event.lease !== state.lease) return stay(state)
      return heal(state, { purpose: 'renew', isPathAlive: false, error: event.error }, moment)
    case 'tunnel-lost':
      return heal(state, { purpose: 'renew', isPathAlive: false, error: event.error }, moment)
    case 'path-lost':
    case 'down':
      return heal(state, { purpose: 'reselect', isPathAlive: false, error: event.error }, moment)
    case 'conflict':
      return withdrawn(heal(state, { purpose: 'reselect', isPathAlive: false, error: event.error }, moment))
    default:
      return stay(state)
  }
}

function inHealing<L extends Lease>(state: Healing<L>, event: Event<L>, moment: Moment): Step<L> {
  switch (event.kind) {
    case 'due':
      if (state.isApplying) return stay(state)
      return { next: state, effects: [{ kind: 'request', purpose: state.purpose, lease: state.lease }] }
    case 'accepted':
      return {
        next: { ...state, lease: event.lease, isApplying: true },
        effects: [{ kind: 'apply', lease: event.lease }],
      }
    case 'applied':
      return state.isApplying && event.lease === state.lease ? up(state.lease, state.flaps + 1, moment) : stay(state)
    case 'not-applied':
      if (!state.isApplying || event.lease !== state.lease) return stay(state)
      return again(state, { purpose: 'reselect', isPathAlive: false, error: event.error }, moment)
    case 'out-of-bounds':
    case 'failed':
      return again(state, { ...afterRefusal(state, event), error: event.error }, moment)
    case 'tunnel-lost':
      return { next: { ...state, isPathAlive: false, error: event.error }, effects: [] }
    case 'path-lost':
    case 'down':
      return turnTo(state, { purpose: 'reselect', isPathAlive: false, error: event.error })
    case 'conflict':
      if (state.isApplying) return stay(state)
      return withdrawn({
        next: { ...state, purpose: 'reselect', isPathAlive: false, error: event.error },
        effects: [{ kind: 'timer', delayMs: 0 }],
      })
    case 'path-found':
      return state.isApplying ? stay(state) : { next: { ...state, purpose: 'renew', isPathAlive: true }, effects: [] }
    default:
      return stay(state)
  }
}

/** The endpoint that carries our packets is not left because somebody says no: the answer may pass, the path is there. */
function afterRefusal<L extends Lease>(
  state: Healing<L>,
  event: Extract<Event<L>, { readonly kind: 'failed' | 'out-of-bounds' }>,
): Pick<Cure, 'purpose' | 'isPathAlive'> {
  const { isPathAlive } = state
  const mayPass = event.kind === 'failed' && event.retry
  return { purpose: mayPass || isPathAlive ? state.purpose : 'reselect', isPathAlive }
}

/** The machine's own network goes first; signs of life of what is withdrawn say nothing. */
function withdrawn<L extends Lease>({ next, effects }: Step<L>): Step<L> {
  return { next, effects: [{ kind: 'unwatch' }, { kind: 'withdraw' }, ...effects] }
}

/** What was asked for is not worth waiting for any more: another endpoint, at once. */
function turnTo<L extends Lease>(state: Healing<L>, cure: Cure): Step<L> {
  if (state.isApplying || state.purpose === cure.purpose) return stay(state)
  return { next: { ...state, ...cure }, effects: [{ kind: 'timer', delayMs: 0 }] }
}

/** A late answer belongs to nobody: give it back. */
function inClosed<L extends Lease>(state: Of<L, 'closed'>, event: Event<L>): Step<L> {
  const late = event.kind === 'accepted' || event.kind === 'out-of-bounds'
  return { next: state, effects: late ? [{ kind: 'release', lease: event.lease }] : [] }
}

function up<L extends Lease>(lease: L, flaps: number, moment: Moment): Step<L> {
  return {
    next: { kind: 'up', lease, sinceMs: moment.nowMs, flaps },
    effects: [
      { kind: 'watch', lease },
      { kind: 'timer', delayMs: refreshDelayOf(lease, moment) },
    ],
  }
}

/** How a connection is asked for again, and why. */
interface Cure {
  readonly purpose: Healing<Lease>['purpose']
  readonly isPathAlive: boolean
  readonly error: NsmError
}

/** At once for a connection that was steady; with back-off for one that is lost as soon as it is healed. The watch goes on. */
function heal<L extends Lease>(state: Up<L>, cure: Cure, moment: Moment): Step<L> {
  const flaps = moment.nowMs - state.sinceMs >= steadyMs ? 0 : state.flaps
  return {
    next: { kind: 'healing', lease: state.lease, attempt: 0, isApplying: false, flaps, ...cure },
    effects: [{ kind: 'timer', delayMs: flaps === 0 ? 0 : backoffMs(flaps - 1, moment.jitter) }],
  }
}

function again<L extends Lease>(state: Healing<L>, cure: Cure, moment: Moment): Step<L> {
  return {
    next: { ...state, ...cure, isApplying: false, attempt: state.attempt + 1 },
    effects: [{ kind: 'timer', delayMs: backoffMs(state.attempt, moment.jitter) }],
  }
}

function closed<L extends Lease>(why: NsmError | undefined, lease: L | undefined): Step<L> {
  return {
    next: why ? { kind: 'closed', why } : { kind: 'closed' },
    effects: [{ kind: 'unwatch' }, lease ? { kind: 'teardown', lease } : { kind: 'teardown' }],
  }
}

function stay<L extends Lease>(state: State<L>): Step<L> {
  return { next: state, effects: [] }
}

function refreshDelayOf(lease: Lease, moment: Moment): number {
  return Math.max(refreshMinMs, lease.refreshAtMs - moment.nowMs)
}
