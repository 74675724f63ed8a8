import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { within } from '../../src/base/within.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const late = () => new NsmError('UNREACHABLE', 'too late', 'wait longer')
const untilAborted = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })

describe('within', () => {
  test('within gives what the work gives and leaves no timer behind', async () => {
    const clock = createFakeClock()
    await expect(within({ clock, limitMs: 10, late }, async () => 'done')).resolves.toBe('done')
    expect(clock.waiting).toBe(0)
  })

  test('within ends late work with the error of the limit', async () => {
    const clock = createFakeClock()
    const ended = within({ clock, limitMs: 10, late }, untilAborted).catch((error: unknown) => error)
    await clock.advance(10)
    expect(await ended).toMatchObject({ code: 'UNREACHABLE', message: 'too late' })
  })

  test("within ends with the caller's reason when the caller gives up first", async () => {
    const clock = createFakeClock()
    const caller = new AbortController()
    const ended = within({ clock, limitMs: 10, late, signal: caller.signal }, untilAborted).catch((reason) => reason)
    caller.abort('given up')
    expect(await ended).toBe('given up')
    expect(clock.waiting).toBe(0)
  })
})
