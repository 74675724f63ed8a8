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

const states = {
  requesting: { kind: 'requesting', attempt: 0 },
  applying: { kind: 'requesting', attempt: 1, lease: old },
  up: { kind: 'up', lease: old, sinceMs: moment.nowMs - 60_000, flaps: 3 },
  flapping: { kind: 'up', lease: old, sinceMs: moment.nowMs - 500, flaps: 2 },
  renewing: { kind: 'healing', lease: old, attempt: 2, purpose: 'renew', flaps: 0, error },
  reselecting: { kind: 'healing', lease: old, attempt: 0, purpose: 'reselect', flaps: 1, error },
  closed: { kind: 'closed' },
} as const satisfies Record<string, State<NamedLease>>

const events = {
  start: { kind: 'start' },
  accepted: { kind: 'accepted', lease: fresh },
  outOfBounds: { kind: 'out-of-bounds', lease: fresh, error },
  applied: { kind: 'applied' },
  notApplied: { kind: 'not-applied', error },
  failedForNow: { kind: 'failed', error, retry: true },
  failedForGood: { kind: 'failed', error, retry: false },
  due: { kind: 'due' },
  lost: { kind: 'lost', error },
  down: { kind: 'down', error },
  refreshAsked: { kind: 'refresh-asked' },
  close: { kind: 'close' },
} as const satisfies Record<string, Event<NamedLease>>

/** [state, event, next state, effects]; `-` = same state, nothing to do. */
const table: readonly (readonly [keyof typeof states, keyof typeof events, string, string])[] = [
  ['requesting', 'start', 'requesting 0', 'request first'],
  ['requesting', 'accepted', 'requesting 0 fresh', 'apply fresh'],
  ['requesting', 'outOfBounds', 'closed UNREACHABLE', 'unwatch, teardown fresh'],
  ['requesting', 'applied', '-', '-'],
  ['requesting', 'notApplied', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'failedForNow', 'requesting 1', 'timer 200'],
  ['requesting', 'failedForGood', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'due', 'requesting 0', 'request first'],
  ['requesting', 'lost', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'down', 'closed UNREACHABLE', 'unwatch, teardown'],
  ['requesting', 'refreshAsked', '-', '-'],
  ['requesting', 'close', 'closed', 'unwatch, teardown'],
  ['applying', 'start', '-', '-'],
  ['applying', 'accepted', 'requesting 1 fresh', 'apply fresh'],
  ['applying', 'outOfBounds', 'closed UNREACHABLE', 'unwatch, teardown fresh'],
  ['applying', 'applied', 'up old', 'watch old, timer 120000'],
  ['applying', 'notApplied', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'failedForNow', 'requesting 2 old', 'timer 400'],
  ['applying', 'failedForGood', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'due', '-', '-'],
  ['applying', 'lost', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'down', 'closed UNREACHABLE', 'unwatch, teardown old'],
  ['applying', 'refreshAsked', '-', '-'],
  ['applying', 'close', 'closed', 'unwatch, teardown old'],
  ['up', 'start', '-', '-'],
  ['up', 'accepted', 'up fresh', 'apply fresh, timer 60000'],
  ['up', 'outOfBounds', 'up old UNREACHABLE', 'timer 60000'],
  ['up', 'applied', '-', '-'],
  ['up', 'notApplied', 'healing renew 0 old', 'unwatch, timer 0'],
  ['up', 'failedForNow', 'healing renew 0 old', 'unwatch, timer 0'],
  ['up', 'failedForGood', 'healing reselect 0 old', 'unwatch, timer 0'],
  ['up', 'due', 'up old', 'request refresh old'],
  ['up', 'lost', 'healing renew 0 old', 'unwatch, timer 0'],
  ['up', 'down', 'healing reselect 0 old', 'unwatch, timer 0'],
  ['up', 'refreshAsked', 'up old', 'request refresh old'],
  ['up', 'close', 'closed', 'unwatch, teardown old'],
  ['flapping', 'start', '-', '-'],
  ['flapping', 'accepted', 'up fresh', 'apply fresh, timer 60000'],
  ['flapping', 'outOfBounds', 'up old UNREACHABLE', 'timer 60000'],
  ['flapping', 'applied', '-', '-'],
  ['flapping', 'notApplied', 'healing renew 0 old', 'unwatch, timer 400'],
  ['flapping', 'failedForNow', 'healing renew 0 old', 'unwatch, timer 400'],
  ['flapping', 'failedForGood', 'healing reselect 0 old', 'unwatch, timer 400'],
  ['flapping', 'due', 'up old', 'request refresh old'],
  ['flapping', 'lost', 'healing renew 0 old', 'unwatch, timer 400'],
  ['flapping', 'down', 'healing reselect 0 old', 'unwatch, timer 400'],
  ['flapping', 'refreshAsked', 'up old', 'request refresh old'],
  ['flapping', 'close', 'closed', 'unwatch, teardown old'],
  ['renewing', 'start', '-', '-'],
  ['renewing', 'accepted', 'healing renew 2 fresh', 'apply fresh'],
  ['renewing', 'outOfBounds', 'healing reselect 3 old', 'timer 800'],
  ['renewing', 'applied', 'up old', 'watch old, timer 120000'],
  ['renewing', 'notApplied', 'healing renew 3 old', 'timer 800'],
  ['renewing', 'failedForNow', 'healing renew 3 old', 'timer 800'],
  ['renewing', 'failedForGood', 'healing reselect 3 old', 'timer 800'],
  ['renewing', 'due', 'healing renew 2 old', 'request renew old'],
  ['renewing', 'lost', '-', '-'],
  ['renewing', 'down', '-', '-'],
  ['renewing', 'refreshAsked', '-', '-'],
  ['renewing', 'close', 'closed', 'unwatch, teardown old'],
  ['reselecting', 'start', '-', '-'],
  ['reselecting', 'accepted', 'healing reselect 0 fresh', 'apply fresh'],
  ['reselecting', 'outOfBounds', 'healing reselect 1 old', 'timer 200'],
  ['reselecting', 'applied', 'up old', 'watch old, timer 120000'],
  ['reselecting', 'notApplied', 'healing reselect 1 old', 'timer 200'],
  ['reselecting', 'failedForNow', 'healing reselect 1 old', 'timer 200'],
  ['reselecting', 'failedForGood', 'healing reselect 1 old', 'timer 200'],
  ['reselecting', 'due', 'healing reselect 0 old', 'request reselect old'],
  ['reselecting', 'lost', '-', '-'],
  ['reselecting', 'down', '-', '-'],
  ['reselecting', 'refreshAsked', '-', '-'],
  ['reselecting', 'close', 'closed', 'unwatch, teardown old'],
  ['closed', 'start', '-', '-'],
  ['closed', 'accepted', 'closed', 'release fresh'],
  ['closed', 'outOfBounds', 'closed', 'release fresh'],
  ['closed', 'applied', '-', '-'],
  ['closed', 'notApplied', '-', '-'],
  ['closed', 'failedForNow', '-', '-'],
  ['closed', 'failedForGood', '-', '-'],
  ['closed', 'due', '-', '-'],
  ['closed', 'lost', '-', '-'],
  ['closed', 'down', '-', '-'],
  ['closed', 'refreshAsked', '-', '-'],
  ['closed', 'close', '-', '-'],
]

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
    const { effects } = step<NamedLease>({ kind: 'requesting', attempt: 0, lease: late }, { kind: 'applied' }, moment)
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
      fc.property(fc.array(fc.constantFrom(...Object.values<Event<NamedLease>>(events)), { maxLength: 60 }), (walk) => {
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

function stateText(state: State<NamedLease>): string {
  switch (state.kind) {
    case 'requesting':
      return ['requesting', state.attempt, state.lease?.name].filter((part) => part !== undefined).join(' ')
    case 'up':
      return ['up', state.lease.name, state.error?.code].filter((part) => part !== undefined).join(' ')
    case 'healing':
      return `healing ${state.purpose} ${state.attempt} ${state.lease.name}`
    case 'closed':
      return state.why ? `closed ${state.why.code}` : 'closed'
  }
}

function effectText(effect: Effect<NamedLease>): string {
  if (effect.kind === 'request') return ['request', effect.purpose, effect.lease?.name].filter(Boolean).join(' ')
  if (effect.kind === 'timer') return `timer ${effect.delayMs}`
  if (effect.kind === 'unwatch') return 'unwatch'
  return [effect.kind, effect.lease?.name].filter(Boolean).join(' ')
}
