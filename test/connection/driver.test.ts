import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { type Actions, type Driver, OutOfBounds, startDriver, type Watched } from '../../src/connection/driver.ts'
import type { Lease } from '../../src/connection/lifecycle.ts'
import { FakeClock, settle } from './fake-clock.ts'

interface NumberedLease extends Lease {
  readonly number: number
}

const silent = new NsmError('UNREACHABLE', 'no answer', 'wait')
const refused = new NsmError('REFUSED', 'no sufficient privileges', 'ask the owner')

/** A world that writes down what is done to it; each action can be made to fail or to hang. */
class World implements Actions<NumberedLease> {
  readonly clock = new FakeClock()
  readonly done: string[] = []
  readonly requests: (() => Promise<NumberedLease>)[] = []
  applyResult: () => Promise<void> = async () => {}
  withdrawResult: () => Promise<void> = async () => {}
  report: ((event: Watched) => void) | undefined
  endWatch: (() => void) | undefined
  #granted = 0

  grant(): NumberedLease {
    this.#granted += 1
    return { number: this.#granted, refreshAtMs: this.clock.nowMs + 120_000 }
  }

  async request(purpose: string, lease: NumberedLease | undefined, signal: AbortSignal): Promise<NumberedLease> {
    this.done.push(lease ? `${purpose} ${lease.number}` : purpose)
    const scripted = this.requests.shift()
    return scripted ? Promise.race([scripted(), rejectOnAbort(signal)]) : this.grant()
  }

  async apply(lease: NumberedLease): Promise<void> {
    this.done.push(`apply ${lease.number}`)
    await this.applyResult()
  }

  watch(lease: NumberedLease, report: (event: Watched) => void, signal: AbortSignal): Promise<void> {
    this.done.push(`watch ${lease.number}`)
    this.report = report
    signal.addEventListener('abort', () => this.done.push('unwatch'), { once: true })
    return new Promise((_, reject) => {
      this.endWatch = () => reject(silent)
    })
  }

  async withdraw(): Promise<void> {
    this.done.push('withdraw')
    await this.withdrawResult()
  }

  async undo(): Promise<void> {
    this.done.push('undo')
  }

  async release(lease: NumberedLease): Promise<void> {
    this.done.push(`release ${lease.number}`)
  }

  start(): Driver<NumberedLease> {
    return startDriver<NumberedLease>({ actions: this, clock: this.clock, log: silentLog, random: () => 0 })
  }
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
}

describe('startDriver', () => {
  test('asks, applies, and is up; then watches', async () => {
    const world = new World()
    const driver = world.start()
    expect((await driver.settled()).kind).toBe('up')
    expect(world.done).toEqual(['first', 'apply 1', 'watch 1'])
  })

  test('refreshes when the lease says so and applies the new answer', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    await world.clock.advance(120_000)
    expect(world.done).toEqual(['first', 'apply 1', 'watch 1', 'refresh 1', 'apply 2'])
    expect(driver.state().kind).toBe('up')
  })

  test('tries again with back-off while the manager is silent, then gives up only when told to', async () => {
    const world = new World()
    for (let i = 0; i < 3; i++) world.requests.push(() => Promise.reject(silent))
    const driver = world.start()
    await settle()
    expect(world.clock.nextMs()).toBe(200)
    await world.clock.advance(200)
    expect(world.clock.nextMs()).toBe(400)
    await world.clock.advance(400 + 800)
    expect(driver.state().kind).toBe('up')
    expect(world.done.filter((line) => line === 'first').length).toBe(4)
  })

  test('ends with the refusal and undoes what was prepared', async () => {
    const world = new World()
    world.requests.push(() => Promise.reject(refused))
    const state = await world.start().settled()
    expect(state).toEqual({ kind: 'closed', why: refused })
    await settle()
    expect(world.done).toEqual(['first', 'undo'])
  })

  test('gives an answer outside the bounds back to the manager', async () => {
    const world = new World()
    const lease = world.grant()
    world.requests.push(() => Promise.reject(new OutOfBounds(lease, refused)))
    const state = await world.start().settled()
    expect(state.kind === 'closed' && state.why?.code).toBe('REFUSED')
    await settle()
    expect(world.done.toSorted()).toEqual(['first', 'release 1', 'undo'])
  })

  test('undoes and releases when the answer cannot be applied', async () => {
    const world = new World()
    world.applyResult = () => Promise.reject(new NsmError('CONFLICT', 'taken', 'choose another'))
    const state = await world.start().settled()
    expect(state.kind === 'closed' && state.why?.code).toBe('CONFLICT')
    await settle()
    expect(world.done.toSorted()).toEqual(['apply 1', 'first', 'release 1', 'undo'])
  })

  test('heals when the event stream ends: renews, and is up again with a new watch', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    world.requests.push(() => Promise.reject(silent))
    world.endWatch?.()
    await world.clock.advance(0)
    expect(driver.state().kind).toBe('healing')
    await world.clock.advance(10_000)
    expect(driver.state().kind).toBe('up')
    expect(world.done).toEqual(['first', 'apply 1', 'watch 1', 'renew 1', 'renew 1', 'apply 2', 'unwatch', 'watch 2'])
  })

  test('reselects when the manager has closed it and when a renewal is refused after the tunnel died', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    world.requests.push(() => Promise.reject(refused))
    world.report?.({ kind: 'tunnel-lost', error: silent })
    await world.clock.advance(10_000)
    world.report?.({ kind: 'down', isDeleted: true, error: silent })
    await world.clock.advance(10_000)
    expect(world.done.filter((line) => /renew|reselect/.test(line))).toEqual(['renew 1', 'reselect 1', 'reselect 2'])
    expect(driver.state().kind).toBe('up')
  })

  test('keeps asking for the same connection while its packets flow, whatever the manager answers', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    for (let i = 0; i < 5; i++) world.requests.push(() => Promise.reject(refused))
    world.endWatch?.()
    await world.clock.advance(60_000)
    expect(driver.state().kind).toBe('up')
    expect(new Set(world.done.filter((line) => /renew|reselect/.test(line)))).toEqual(new Set(['renew 1']))
  })

  test('a dead path ends a renewal that hangs and asks for another endpoint at once', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    world.requests.push(() => new Promise(() => {}))
    world.endWatch?.()
    await world.clock.advance(100)
    world.report?.({ kind: 'path-lost', error: silent })
    await world.clock.advance(0)
    expect(driver.state().kind).toBe('up')
    expect(world.done.filter((line) => /renew|reselect/.test(line))).toEqual(['renew 1', 'reselect 1'])
  })

  test('a path that comes back turns a reselect into a renewal', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    world.requests.push(() => Promise.reject(silent))
    world.report?.({ kind: 'path-lost', error: silent })
    await world.clock.advance(100)
    world.report?.({ kind: 'path-found' })
    await world.clock.advance(10_000)
    expect(world.done.filter((line) => /renew|reselect/.test(line))).toEqual(['reselect 1', 'renew 1'])
    expect(driver.state().kind).toBe('up')
  })

  test('a network that is joined and overlaps: the lease is withdrawn first, then another one is asked for', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    world.done.length = 0
    world.report?.({ kind: 'conflict', error: refused })
    await world.clock.advance(10)
    expect(world.done).toEqual(['unwatch', 'withdraw', 'reselect 1', 'apply 2', 'watch 2'])
  })

  test('a withdrawal that fails is said, and the healing goes on', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    world.withdrawResult = () => Promise.reject(silent)
    world.report?.({ kind: 'conflict', error: refused })
    await world.clock.advance(10)
    expect(driver.state()).toMatchObject({ kind: 'up', lease: { number: 2 } })
  })

  test('never asks more often than the back-off allows while healing', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    for (let i = 0; i < 100; i++) world.requests.push(() => Promise.reject(silent))
    world.endWatch?.()
    await world.clock.advance(60_000)
    expect(driver.state().kind).toBe('healing')
    expect(world.done.filter((line) => line === 'renew 1').length).toBeLessThanOrEqual(30)
  })

  test('closes: stops watching, undoes, releases the last accepted lease, and only once', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    await world.clock.advance(120_000)
    await Promise.all([driver.close(), driver.close()])
    await driver.close()
    expect(world.done.slice(-3).toSorted()).toEqual(['release 2', 'undo', 'unwatch'])
    expect(world.clock.nextMs()).toBeUndefined()
  })

  test('closing during the first request waits for a late answer and gives it back', async () => {
    const world = new World()
    const answer = Promise.withResolvers<NumberedLease>()
    world.requests.push(() => answer.promise)
    const driver = world.start()
    const closed = driver.close()
    answer.resolve(world.grant())
    await closed
    expect(world.done).toEqual(['first', 'undo', 'release 1'])
  })

  test('closing during the first request cancels it when no answer comes', async () => {
    const world = new World()
    world.requests.push(() => new Promise(() => {}))
    const driver = world.start()
    const closed = driver.close(silent)
    await world.clock.advance(500)
    await closed
    expect(driver.state()).toEqual({ kind: 'closed', why: silent })
    expect(world.done).toEqual(['first', 'undo'])
  })

  test('a forced close does not wait for a manager that hangs', async () => {
    const world = new World()
    const driver = world.start()
    await driver.settled()
    world.release = () => new Promise(() => {})
    await driver.close(undefined, true)
    expect(world.done).toContain('undo')
  })
})
