import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { FloodLimit, resetRate } from '../../../src/nsm/http2/flood-limit.ts'
import { errorCodes, settingIds, settingsPayload } from '../../../src/nsm/http2/frames.ts'
import { PeerSettings } from '../../../src/nsm/http2/peer-settings.ts'

describe('the limit of resets', () => {
  const count = (limit: FloodLimit, times: number, nowMs: number) =>
    Array.from({ length: times }, () => limit.count(nowMs)).filter(Boolean).length

  test('allows 500 at once', () => {
    expect(count(new FloodLimit(resetRate), 600, 1_000)).toBe(500)
  })

  test('allows 50 more each second, up to 500', () => {
    const limit = new FloodLimit(resetRate)
    count(limit, 500, 0)
    expect(count(limit, 100, 1_000)).toBe(50)
    expect(count(new FloodLimit(resetRate), 600, 1e9)).toBe(500)
  })

  test('never allows more than the burst and the rate, whenever they come', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(100), fc.nat(2_000))), (steps) => {
        const limit = new FloodLimit(resetRate)
        let nowMs = 0
        let allowed = 0
        for (const [times, passMs] of steps) {
          nowMs += passMs
          allowed += count(limit, times, nowMs)
        }
        expect(allowed).toBeLessThanOrEqual(500 + nowMs / 20)
      }),
    )
  })
})

describe('the settings of the other side', () => {
  test('are unknown until they are read, also when they are empty', () => {
    const settings = new PeerSettings()
    expect([settings.isKnown, settings.initialWindowBytes]).toEqual([false, 65_535])
    expect(settings.read(Buffer.alloc(0))).toBeUndefined()
    expect(settings.isKnown).toBe(true)
  })

  test('take the last window, and pass over what does not concern us', () => {
    const settings = new PeerSettings()
    const payload = settingsPayload([
      [1, 0],
      [settingIds.initialWindow, 10],
      [0x99, 7],
      [settingIds.maxFrame, 16_384],
      [settingIds.initialWindow, 2 ** 31 - 1],
    ])
    expect(settings.read(payload)).toBeUndefined()
    expect(settings.initialWindowBytes).toBe(2 ** 31 - 1)
  })

  test.each([
    ['a window of 2^31', settingIds.initialWindow, 2 ** 31, errorCodes.flowControl],
    ['frames below 16 KiB', settingIds.maxFrame, 16_383, errorCodes.protocol],
    ['frames of 16 MiB', settingIds.maxFrame, 2 ** 24, errorCodes.protocol],
    ['half a push', settingIds.enablePush, 2, errorCodes.protocol],
  ])('refuse %s and keep what was', (_what, id, value, code) => {
    const settings = new PeerSettings()
    expect(settings.read(settingsPayload([[id, value]]))).toBe(code)
    expect(settings.initialWindowBytes).toBe(65_535)
  })
})
