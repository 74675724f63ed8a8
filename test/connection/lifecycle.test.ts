import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import {
  backoffMaxMs,
  backoffMinMs,
  backoffMs,
  type Effect,
  type Event,
  initialState,
  type Lease,
  type State,
  step,
} from '../../src/connection/lifecycle.ts'

interface NamedLease extends Lease {
  readonly name: string
}

const moment = { nowMs: 1_000_000, jitter: 0 }
const old: NamedLease = { name: 'old', refreshAtMs: moment.nowMs + 120_000 }
const fresh: NamedLease = { name: 'fresh', refreshAtMs: moment.nowMs + 60_000 }
const error = new NsmError('UNREACHABLE', 'no answer', 'wait')

const healing = { kind: 'healing', lease: old, flaps: 0, isApplying: false, error } as const

const states = {
  requesting: { kind: 'requesting', attempt: 0 },
  applying: { kind: 'requesting', attempt: 1, lease: old },
  up: { kind: 'up', lease: old, sinceMs: moment.nowMs - 60_000, flaps: 3 },
  flapping: { kind: 'up', lease: old, sinceMs: moment.nowMs - 500, flaps: 2 },
  renewing: { ...healing, purpose: 'renew', attempt: 2, isPathAlive: true },
  orphaned: { ...healing, purpose: 'renew', attempt: 1, isPathAlive: false },
  reselecting: { ...healing, purpose: 'reselect', attempt: 0, flaps: 1, isPathAlive: false },
  reviving: { ...healing, purpose: 'reselect', attempt: 1, isPathAlive: false, isApplying: true },
  closed: { kind: 'closed' },
} as const satisfies Record<string, State<NamedLease>>

const events = {
  start: { kind: 'start' },
  accepted: { kind: 'accepted', lease: fresh },
  outOfBounds: { kind: 'out-of-bounds', lease: fresh, error },
  applied: { kind: 'applied', lease: old },
  othersApplied: { kind: 'applied', lease: fresh },
  notApplied: { kind: 'not-applied', lease: old, error },
  othersNotApplied: { kind: 'not-applied', lease: fresh, error },
  failedForNow: { kind: 'failed', error, retry: true },
  failedForGood: { kind: 'failed', error, retry: false },
  due: { kind: 'due' },
  controlLost: { kind: 'control-lost', error },
  pathLost: { kind: 'path-lost', error },
  pathFound: { kind: 'path-found' },
  tunnelLost: { kind: 'tunnel-lost', error },
  down: { kind: 'down', error },
  conflict: { kind: 'conflict', error },
  refreshAsked: { kind: 'refresh-asked' },
  close: { kind: 'close' },
} as const satisfies Record<string, Event<NamedLease>>

/** [state, event, next state, effects]; `-` = same state, nothing to do. */
const table: readonly (readonly [keyof typeof states, keyof typeof events, string, string])[] = [
  ['requesting', 'start', 'requesting 0', 'request first'],
  ['requesting', 'accepted', 'requesting 0 fresh', 'apply fresh'],
  ['requesting', 'outOfBounds', 'closed UNREACHABLE', 'unwatch, teardown fresh'],
  ['requesting', 'applied', '-', '-'],
  ['requesting', 'othersApplied', '-', '-'],
  ['requesting', 'notApplied', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'othersNotApplied', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'failedForNow', 'requesting 1', 'timer 200'],
  ['requesting', 'failedForGood', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'due', 'requesting 0', 'request first'],
  ['requesting', 'controlLost', '-', '-'],
  ['requesting', 'pathLost', '-', '-'],
  ['requesting', 'pathFound', '-', '-'],
  ['requesting', 'tunnelLost', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'down', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'conflict', '-', '-'],
  ['requesting', 'refreshAsked', '-', '-'],
  ['requesting', 'close', 'closed', 'unwatch, teardown'],
  ['applying', 'start', '-', '-'],
  ['applying', 'accepted', 'requesting 1 fresh', 'apply fresh'],
  ['applying', 'outOfBounds', 'closed UNREACHABLE', 'unwatch, teardown fresh'],
  ['applying', 'applied', 'up old', 'watch old, timer 120000'],
  ['applying', 'othersApplied', '-', '-'],
  ['applying', 'notApplied', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'othersNotApplied', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'failedForNow', 'requesting 2 old', 'timer 400'],
  ['applying', 'failedForGood', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'due', '-', '-'],
  ['applying', 'controlLost', '-', '-'],
  ['applying', 'pathLost', '-', '-'],
  ['applying', 'pathFound', '-', '-'],
  ['applying', 'tunnelLost', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'down', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'conflict', '-', '-'],
  ['applying', 'refreshAsked', '-', '-'],
  ['applying', 'close', 'closed', 'unwatch, teardown old'],
  ['up', 'start', '-', '-'],
  ['up', 'accepted', 'up fresh', 'apply fresh, timer 60000'],
  ['up', 'outOfBounds', 'up old UNREACHABLE', 'timer 60000'],
  ['up', 'applied', '-', '-'],
  ['up', 'othersApplied', '-', '-'],
  ['up', 'notApplied', 'healing renew 0 old, path dead', 'timer 0'],
  ['up', 'othersNotApplied', '-', '-'],
  ['up', 'failedForNow', 'healing renew 0 old, path alive', 'timer 0'],
  ['up', 'failedForGood', 'healing renew 0 old, path alive', 'timer 0'],
  ['up', 'due', 'up old', 'request refresh old'],
  ['up', 'controlLost', 'healing renew 0 old, path alive', 'timer 0'],
  ['up', 'pathLost', 'healing reselect 0 old, path dead', 'timer 0'],
  ['up', 'pathFound', '-', '-'],
  ['up', 'tunnelLost', 'healing renew 0 old, path dead', 'timer 0'],
  ['up', 'down', 'healing reselect 0 old, path dead', 'timer 0'],
  ['up', 'conflict', 'healing reselect 0 old, path dead', 'unwatch, withdraw, timer 0'],
  ['up', 'refreshAsked', 'up old', 'request refresh old'],
  ['up', 'close', 'closed', 'unwatch, teardown old'],
  ['flapping', 'start', '-', '-'],
  ['flapping', 'accepted', 'up fresh', 'apply fresh, timer 60000'],
  ['flapping', 'outOfBounds', 'up old UNREACHABLE', 'timer 60000'],
  ['flapping', 'applied', '-', '-'],
  ['flapping', 'othersApplied', '-', '-'],
  ['flapping', 'notApplied', 'healing renew 0 old, path dead', 'timer 400'],
  ['flapping', 'othersNotApplied', '-', '-'],
  ['flapping', 'failedForNow', 'healing renew 0 old, path alive', 'timer 400'],
  ['flapping', 'failedForGood', 'healing renew 0 old, path alive', 'timer 400'],
  ['flapping', 'due', 'up old', 'request refresh old'],
  ['flapping', 'controlLost', 'healing renew 0 old, path alive', 'timer 400'],
  ['flapping', 'pathLost', 'healing reselect 0 old, path dead', 'timer 400'],
  ['flapping', 'pathFound', '-', '-'],
  ['flapping', 'tunnelLost', 'healing renew 0 old, path dead', 'timer 400'],
  ['flapping', 'down', 'healing reselect 0 old, path dead', 'timer 400'],
  ['flapping', 'conflict', 'healing reselect 0 old, path dead', 'unwatch, withdraw, timer 400'],
  ['flapping', 'refreshAsked', 'up old', 'request refresh old'],
  ['flapping', 'close', 'closed', 'unwatch, teardown old'],
  ['renewing', 'start', '-', '-'],
  ['renewing', 'accepted', 'healing renew 2 fresh, path alive, applying', 'apply fresh'],
  ['renewing', 'outOfBounds', 'healing renew 3 old, path alive', 'timer 800'],
  ['renewing', 'applied', '-', '-'],
  ['renewing', 'othersApplied', '-', '-'],
  ['renewing', 'notApplied', '-', '-'],
  ['renewing', 'othersNotApplied', '-', '-'],
  ['renewing', 'failedForNow', 'healing renew 3 old, path alive', 'timer 800'],
  ['renewing', 'failedForGood', 'healing renew 3 old, path alive', 'timer 800'],
  ['renewing', 'due', 'healing renew 2 old, path alive', 'request renew old'],
  ['renewing', 'controlLost', '-', '-'],
  ['renewing', 'pathLost', 'healing reselect 2 old, path dead', 'timer 0'],
  ['renewing', 'pathFound', '-', '-'],
  ['renewing', 'tunnelLost', 'healing renew 2 old, path dead', '-'],
  ['renewing', 'down', 'healing reselect 2 old, path dead', 'timer 0'],
  ['renewing', 'conflict', 'healing reselect 2 old, path dead', 'unwatch, withdraw, timer 0'],
  ['renewing', 'refreshAsked', '-', '-'],
  ['renewing', 'close', 'closed', 'unwatch, teardown old'],
  ['orphaned', 'start', '-', '-'],
  ['orphaned', 'accepted', 'healing renew 1 fresh, path dead, applying', 'apply fresh'],
  ['orphaned', 'outOfBounds', 'healing reselect 2 old, path dead', 'timer 400'],
  ['orphaned', 'applied', '-', '-'],
  ['orphaned', 'othersApplied', '-', '-'],
  ['orphaned', 'notApplied', '-', '-'],
  ['orphaned', 'othersNotApplied', '-', '-'],
  ['orphaned', 'failedForNow', 'healing renew 2 old, path dead', 'timer 400'],
  ['orphaned', 'failedForGood', 'healing reselect 2 old, path dead', 'timer 400'],
  ['orphaned', 'due', 'healing renew 1 old, path dead', 'request renew old'],
  ['orphaned', 'controlLost', '-', '-'],
  ['orphaned', 'pathLost', 'healing reselect 1 old, path dead', 'timer 0'],
  ['orphaned', 'pathFound', 'healing renew 1 old, path alive', '-'],
  ['orphaned', 'tunnelLost', '-', '-'],
  ['orphaned', 'down', 'healing reselect 1 old, path dead', 'timer 0'],
  ['orphaned', 'conflict', 'healing reselect 1 old, path dead', 'unwatch, withdraw, timer 0'],
  ['orphaned', 'refreshAsked', '-', '-'],
  ['orphaned', 'close', 'closed', 'unwatch, teardown old'],
  ['reselecting', 'start', '-', '-'],
  ['reselecting', 'accepted', 'healing reselect 0 fresh, path dead, applying', 'apply fresh'],
  ['reselecting', 'outOfBounds', 'healing reselect 1 old, path dead', 'timer 200'],
  ['reselecting', 'applied', '-', '-'],
  ['reselecting', 'othersApplied', '-', '-'],
  ['reselecting', 'notApplied', '-', '-'],
  ['reselecting', 'othersNotApplied', '-', '-'],
  ['reselecting', 'failedForNow', 'healing reselect 1 old, path dead', 'timer 200'],
  ['reselecting', 'failedForGood', 'healing reselect 1 old, path dead', 'timer 200'],
  ['reselecting', 'due', 'healing reselect 0 old, path dead', 'request reselect old'],
  ['reselecting', 'controlLost', '-', '-'],
  ['reselecting', 'pathLost', '-', '-'],
  ['reselecting', 'pathFound', 'healing renew 0 old, path alive', '-'],
  ['reselecting', 'tunnelLost', '-', '-'],
  ['reselecting', 'down', '-', '-'],
  ['reselecting', 'conflict', 'healing reselect 0 old, path dead', 'unwatch, withdraw, timer 0'],
  ['reselecting', 'refreshAsked', '-', '-'],
  ['reselecting', 'close', 'closed', 'unwatch, teardown old'],
  ['reviving', 'start', '-', '-'],
  ['reviving', 'accepted', 'healing reselect 1 fresh, path dead, applying', 'apply fresh'],
  ['reviving', 'outOfBounds', 'healing reselect 2 old, path dead', 'timer 400'],
  ['reviving', 'applied', 'up old', 'watch old, timer 120000'],
  ['reviving', 'othersApplied', '-', '-'],
  ['reviving', 'notApplied', 'healing reselect 2 old, path dead', 'timer 400'],
  ['reviving', 'othersNotApplied', '-', '-'],
  ['reviving', 'failedForNow', 'healing reselect 2 old, path dead', 'timer 400'],
  ['reviving', 'failedForGood', 'healing reselect 2 old, path dead', 'timer 400'],
  ['reviving', 'due', '-', '-'],
  ['reviving', 'controlLost', '-', '-'],
  ['reviving', 'pathLost', '-', '-'],
  ['reviving', 'pathFound', '-', '-'],
  ['reviving', 'tunnelLost', '-', '-'],
  ['reviving', 'down', '-', '-'],
  ['reviving', 'conflict', '-', '-'],
  ['reviving', 'refreshAsked', '-', '-'],
  ['reviving', 'close', 'closed', 'unwatch, teardown old'],
  ['closed', 'start', '-', '-'],
  ['closed', 'accepted', 'closed', 'release fresh'],
  ['closed', 'outOfBounds', 'closed', 'release fresh'],
  ['closed', 'applied', '-', '-'],
  ['closed', 'othersApplied', '-', '-'],
  ['closed', 'notApplied', '-', '-'],
  ['closed', 'othersNotApplied', '-', '-'],
  ['closed', 'failedForNow', '-', '-'],
  ['closed', 'failedForGood', '-', '-'],
  ['closed', 'due', '-', '-'],
  ['closed', 'controlLost', '-', '-'],
  ['closed', 'pathLost', '-', '-'],
  ['closed', 'pathFound', '-', '-'],
  ['closed', 'tunnelLost', '-', '-'],
  ['closed', 'down', '-', '-'],
  ['closed', 'conflict', '-', '-'],
  ['closed', 'refreshAsked', '-', '-'],
  ['closed', 'close', '-', '-'],
]

const walks = fc.array(fc.constantFrom(...Object.values<Event<NamedLease>>(events)), { maxLength: 80 })

describe('lifecycle', () => {
  test('the table names every state x event once', () => {
    const named = new Set(table.map(([state, event]) => `${state} ${event}`))
    expect(named.size).toBe(Object.keys(states).length * Object.keys(events).length)
    expect(table.length).toBe(named.size)
  })

  test.each(table)('%s + %s: %s; %s', (stateName, eventName, nextText, effectsText) => {
    const before: State<NamedLease> = states[stateName]
    const { next, effects } = step<NamedLease>(before, events[eventName], moment)
    expect(stateText(next)).toBe(nextText === '-' ? stateText(before) : nextText)
    expect(effects.map(effectText).join(', ')).toBe(effectsText === '-' ? '' : effectsText)
  })

  test('a lease that is already due is refreshed after a second, never at once', () => {
    const late: NamedLease = { name: 'late', refreshAtMs: moment.nowMs - 5 }
    const { effects } = step<NamedLease>(
      { kind: 'requesting', attempt: 0, lease: late },
      { kind: 'applied', lease: late },
      moment,
    )
    expect(effects.map(effectText)).toContain('timer 1000')
  })

  test('backoffMs doubles from 200 ms and stays within 200 ms and 5 s for any jitter', () => {
    fc.assert(
      fc.property(fc.nat(1_000), fc.double({ min: 0, max: 0.999_999, noNaN: true }), (attempt, jitter) => {
        const delayMs = backoffMs(attempt, jitter)
        expect(delayMs).toBeGreaterThanOrEqual(backoffMinMs)
        expect(delayMs).toBeLessThanOrEqual(backoffMaxMs)
        expect(backoffMs(attempt + 1, jitter)).toBeGreaterThanOrEqual(delayMs)
      }),
    )
  })

  test('a random walk tears down exactly once, never acts on the machine afterwards, and never loses a lease', () => {
    fc.assert(
      fc.property(walks, (walk) => {
        let state = initialState<NamedLease>()
        const seen: Effect<NamedLease>[] = []
        for (const event of [...walk, events.close]) {
          const { next, effects } = step(state, event, moment)
          if (state.kind === 'closed') {
            expect(next).toBe(state)
            for (const effect of effects) expect(effect.kind).toBe('release')
          }
          expect(effects.filter(({ kind }) => kind === 'timer').length).toBeLessThanOrEqual(1)
          seen.push(...effects)
          state = next
        }
        expect(state.kind).toBe('closed')
        expect(seen.filter(({ kind }) => kind === 'teardown').length).toBe(1)
        const watches = seen.filter(({ kind }) => kind === 'watch' || kind === 'unwatch')
        expect(watches.at(-1)?.kind).toBe('unwatch')
      }),
    )
  })
})

describe('lifecycle, against a model of the path', () => {
  test('another endpoint is asked for only when the path died since it was last seen', () => {
    fc.assert(
      fc.property(walks, (walk) => {
        let state = initialState<NamedLease>()
        let diedSince = false
        for (const event of walk) {
          const { next, effects } = step(state, event, moment)
          if (['path-lost', 'down', 'conflict', 'tunnel-lost', 'not-applied'].includes(event.kind)) diedSince = true
          if (next.kind === 'up' && state.kind !== 'up') diedSince = false
          if (next.kind === 'healing' && next.isPathAlive) diedSince = false
          for (const effect of effects) {
            if (effect.kind === 'request' && effect.purpose === 'reselect') expect(diedSince).toBe(true)
          }
          state = next
        }
      }),
    )
  })

  test('healing always waits for something: an answer, a change to the machine, or a timer', () => {
    fc.assert(
      fc.property(walks, (walk) => {
        let state = initialState<NamedLease>()
        const waiting = new Set<string>(['timer'])
        for (const event of walk) {
          const waitedFor = waitedForBy[event.kind]
          if (waitedFor && !waiting.delete(waitedFor)) continue
          const { next, effects } = step(state, event, moment)
          for (const { kind } of effects) waiting.add(kind)
          if (next.kind === 'healing') expect([...waiting]).toContainEqual(expect.stringMatching(/timer|request|apply/))
          state = next
        }
      }),
    )
  })
})

/** Which effect an event ends. */
const waitedForBy: Readonly<Record<string, string>> = {
  due: 'timer',
  accepted: 'request',
  failed: 'request',
  'out-of-bounds': 'request',
  applied: 'apply',
  'not-applied': 'apply',
}

function stateText(state: State<NamedLease>): string {
  switch (state.kind) {
    case 'requesting':
      return ['requesting', state.attempt, state.lease?.name].filter((part) => part !== undefined).join(' ')
    case 'up':
      return ['up', state.lease.name, state.error?.code].filter((part) => part !== undefined).join(' ')
    case 'healing':
      return `healing ${state.purpose} ${state.attempt} ${state.lease.name}, path ${state.isPathAlive ? 'alive' : 'dead'}${state.isApplying ? ', applying' : ''}`
    case 'closed':
      return state.why ? `closed ${state.why.code}` : 'closed'
  }
}

function effectText(effect: Effect<NamedLease>): string {
  if (effect.kind === 'request') return ['request', effect.purpose, effect.lease?.name].filter(Boolean).join(' ')
  if (effect.kind === 'timer') return `timer ${effect.delayMs}`
  if (effect.kind === 'unwatch' || effect.kind === 'withdraw') return effect.kind
  return [effect.kind, effect.lease?.name].filter(Boolean).join(' ')
}
