import { randomInt } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { Svid } from './source.ts'
import { atWallTime } from './wall-timer.ts'

/** A renewal that runs until it is closed. */
export interface Renewal {
  close(): Promise<void>
}

/**
 * Calls `renew` at half life of the SVID, again with growing pauses while it fails, and never once it is expired: then
 * nothing proves who asks. `renew` gives the SVID that follows.
 */
export function startRenewal(settings: {
  readonly svid: Svid
  readonly clock: Clock
  readonly log: Log
  readonly renew: (signal: AbortSignal) => Promise<Svid>
  /** 0 to 1; random by default. */
  readonly jitter?: () => number
}): Renewal {
  const { clock, log } = settings
  const jitter = settings.jitter ?? (() => randomInt(jitterSteps) / (jitterSteps - 1))
  const stop = new AbortController()
  let running = Promise.resolve()
  let cancel = () => {}
  const plan = (svid: Svid, failures: number) => {
    if (stop.signal.aborted) return
    const atMs = failures === 0 ? renewAtMs(svid, jitter()) : clock.wallMs() + retryDelayMs(failures, jitter())
    cancel = atWallTime(clock, atMs, () => {
      running = attempt(svid, failures)
    })
  }
  const attempt = async (svid: Svid, failures: number) => {
    if (clock.wallMs() >= svid.notAfterMs) return log.error('identity expired, renewal ended', { peer: svid.spiffeId })
    try {
      const next = await settings.renew(stop.signal)
      log.info('identity renewed', { peer: next.spiffeId, expires: new Date(next.notAfterMs).toISOString() })
      plan(next, 0)
    } catch (error) {
      if (stop.signal.aborted) return
      log.warn('identity not renewed, trying again', { peer: svid.spiffeId, error: toNsmError(error).message })
      plan(svid, failures + 1)
    }
  }
  plan(settings.svid, 0)
  return {
    async close() {
      stop.abort()
      cancel()
      await running
    },
  }
}

/** Half life, 10 % earlier to 10 % later: machines that enrolled together do not renew together. */
export function renewAtMs(svid: Pick<Svid, 'notBeforeMs' | 'notAfterMs'>, jitter: number): number {
  return svid.notBeforeMs + (svid.notAfterMs - svid.notBeforeMs) * (0.45 + 0.1 * jitter)
}

/** 1 s, doubled with each failure up to 60 s, half of it random. */
export function retryDelayMs(failures: number, jitter: number): number {
  const wholeMs = Math.min(retryMaxMs, retryMinMs * 2 ** (failures - 1))
  return wholeMs * (0.5 + 0.5 * jitter)
}

/** Ours: a leaf lives at least minutes, and half of its life is left at the first attempt. */
const retryMinMs = 1_000
const retryMaxMs = 60_000
const jitterSteps = 10_001
