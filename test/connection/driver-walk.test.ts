import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Clock, sleep } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { type Actions, OutOfBounds, startDriver, type Watched } from '../../src/connection/driver.ts'
import { backoffMinMs, type Lease } from '../../src/connection/lifecycle.ts'
import { FakeClock, settle } from './fake-clock.ts'

/* A driver on random walks: a manager that answers, refuses, hangs or answers badly, a machine that is slow or fails, a path
 * that comes and goes. Whatever happens, the machine is changed by one hand at a time and put back once, and the manager gets
 * back what it gave last. */

interface NumberedLease extends Lease {
  readonly number: number
}

type Outcome = 'accepts' | 'is silent' | 'refuses' | 'answers badly' | 'hangs'
type Happening = Watched['kind'] | 'stream-end' | 'time'

interface Act {
  readonly answer: Outcome
  readonly answerMs: number
  readonly isApplied: boolean
  readonly applyMs: number
  readonly happening: Happening
  readonly passMs: number
}

const error = new NsmError('UNREACHABLE', 'no answer', 'wait')
const refusal = new NsmError('REFUSED', 'no', 'ask')
const leaseLifeMs = 20_000

/** The world of one walk. */
class World implements Actions<NumberedLease> {
  readonly clock = new FakeClock()
  /** What is under way at this moment. */
  readonly #busy = new Set<'request' | 'machine'>()
  readonly released: number[] = []
  /** A failed check in an action would be taken for its failure. */
  readonly violations: string[] = []
  requests = 0
  undone = 0
  granted: NumberedLease | undefined
  report: (event: Watched) => void = () => {}
  endWatch: () => void = () => {}
  next: Act

  constructor(first: Act) {
    this.next = first
  }

  async request(_purpose: string, _lease: NumberedLease | undefined, signal: AbortSignal): Promise<NumberedLease> {
    const { answer, answerMs } = this.next
    this.requests += 1
    return this.#alone('request', async () => {
      await (answer === 'hangs' ? forever(signal) : sleep(this.clock, answerMs, signal))
      if (answer === 'is silent') throw error
      if (answer === 'refuses') throw refusal
      const lease = { number: this.requests, refreshAtMs: this.clock.nowMs + leaseLifeMs }
      if (answer === 'answers badly') throw new OutOfBounds(lease, refusal)
      this.granted = lease
      return lease
    })
  }

  apply(_lease: NumberedLease, signal: AbortSignal): Promise<void> {
    if (this.undone > 0) this.violations.push('applied after the undo')
    const { isApplied, applyMs } = this.next
    return this.#alone('machine', async () => {
      await sleep(this.clock, applyMs, signal)
      if (!isApplied) throw error
    })
  }

  watch(_lease: NumberedLease, report: (event: Watched) => void, signal: AbortSignal): Promise<void> {
    if (this.undone > 0) this.violations.push('watched after the undo')
    this.report = report
    return new Promise((resolve, reject) => {
      this.endWatch = () => reject(error)
      signal.addEventListener('abort', () => resolve(), { once: true })
    })
  }

  withdraw(): Promise<void> {
    return this.#alone('machine', () => sleep(this.clock, 1, new AbortController().signal))
  }

  undo(): Promise<void> {
    this.undone += 1
    return this.#alone('machine', async () => {})
  }

  async release(lease: NumberedLease): Promise<void> {
    this.released.push(lease.number)
  }

  happen(happening: Happening): void {
    if (happening === 'stream-end') this.endWatch()
    else if (happening === 'down') this.report({ kind: 'down', isDeleted: true, error })
    else if (happening === 'path-found' || happening === 'refresh-asked') this.report({ kind: happening })
    else if (happening !== 'time') this.report({ kind: happening, error })
  }

  async #alone<T>(what: 'request' | 'machine', work: () => Promise<T>): Promise<T> {
    if (this.#busy.has(what)) this.violations.push(`two at once: ${what}`)
    this.#busy.add(what)
    try {
      return await work()
    } finally {
      this.#busy.delete(what)
    }
  }
}

function forever(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

const act: fc.Arbitrary<Act> = fc.record({
  answer: fc.oneof(
    { weight: 3, arbitrary: fc.constant<Outcome>('accepts') },
    { weight: 2, arbitrary: fc.constantFrom<Outcome>('is silent', 'refuses', 'answers badly', 'hangs') },
  ),
  answerMs: fc.constantFrom(0, 5, 700),
  isApplied: fc.boolean(),
  applyMs: fc.constantFrom(0, 5, 500),
  happening: fc.constantFrom<Happening>(
    'time',
    'control-lost',
    'path-lost',
    'path-found',
    'tunnel-lost',
    'down',
    'conflict',
    'refresh-asked',
    'stream-end',
  ),
  passMs: fc.constantFrom(0, 1, 250, 5_000, leaseLifeMs),
})

/** Runs a walk to its end; `force` is how it is closed. */
async function run(walk: readonly Act[], first: Act, force: boolean) {
  const world = new World(first)
  const clock: Clock = world.clock
  const driver = startDriver<NumberedLease>({ actions: world, clock, log: silentLog, random: () => 0 })
  let passedMs = 0
  for (const one of walk) {
    world.next = one
    world.happen(one.happening)
    await world.clock.advance(one.passMs)
    passedMs += one.passMs
  }
  const last = driver.state()
  const closing = driver.close(undefined, force)
  await world.clock.advance(10_000)
  await closing
  await settle()
  return { world, driver, last, passedMs }
}

test('a walk ends with the machine put back once and the last lease given back, however it went', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(act, { maxLength: 25 }), act, fc.boolean(), async (walk, first, force) => {
      const { world, driver, last } = await run(walk, first, force)
      expect(driver.state().kind).toBe('closed')
      expect(world.violations).toEqual([])
      expect(world.undone).toBe(1)
      const held = 'lease' in last ? last.lease?.number : undefined
      if (held !== undefined) expect(world.released).toContain(held)
      if (world.granted && !force) expect(world.released.at(-1)).toBe(world.granted.number)
      expect(world.clock.nextMs()).toBeUndefined()
    }),
    { numRuns: 150 },
  )
})

test('a walk never asks more often than its back-off and what happened to it allow', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(act, { maxLength: 25 }), act, async (walk, first) => {
      const { world, passedMs } = await run(walk, first, false)
      const happened = walk.filter(({ happening }) => happening !== 'time').length
      expect(world.requests).toBeLessThanOrEqual(2 + 2 * happened + passedMs / backoffMinMs)
    }),
    { numRuns: 100 },
  )
})
