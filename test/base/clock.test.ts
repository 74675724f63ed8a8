import { describe, expect, test } from 'vitest'
import { pause, sleep, systemClock } from '../../src/base/clock.ts'
import { createFakeClock } from '../support/fake-clock.ts'

describe('sleep', () => {
  test('sleep ends when its time has come', async () => {
    const clock = createFakeClock()
    let woke = false
    const done = sleep(clock, 100).then(() => {
      woke = true
    })
    await clock.advance(99)
    expect(woke).toBe(false)
    await clock.advance(1)
    await done
    expect(woke).toBe(true)
  })

  test('sleep ends at once when its signal is aborted, before or while it waits', async () => {
    const clock = createFakeClock()
    const aborted = AbortSignal.abort('early')
    await expect(sleep(clock, 100, aborted)).rejects.toBe('early')
    const controller = new AbortController()
    const waiting = sleep(clock, 100, controller.signal)
    controller.abort('late')
    await expect(waiting).rejects.toBe('late')
  })

  test('pause ends when its time has come, and when its signal is aborted, without an error', async () => {
    const clock = createFakeClock()
    const controller = new AbortController()
    const done = pause(clock, 100, controller.signal)
    await clock.advance(100)
    await done
    const waiting = pause(clock, 100, controller.signal)
    controller.abort('late')
    await waiting
    await pause(clock, 100, controller.signal)
  })

  test('the system clock never goes back', () => {
    expect(systemClock.monotonicMs()).toBeLessThanOrEqual(systemClock.monotonicMs())
  })
})
