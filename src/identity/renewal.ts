import { randomInt } from 'node:crypto'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { reasonOf } from './refusal.ts'
import type { Svid } from './source.ts'
import { atWallTime } from './wall-timer.ts'

/** A renewal that runs until it is closed. */
export interface Renewal {
  /** Renews within half a minute, whatever is left of the life: the authority has a new root. */
  hasten(): void
  close(): Promise<void>
}

/**
 * Calls `renew` at half life of the SVID, again with growing pauses while it fails, and not once it is expired: then
 * nothing proves who asks, unless the identity `outlives` it. `renew` gives the SVID that follows.
 */
export function startRenewal(settings: {
  readonly svid: Svid
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
  readonly renew: (signal: AbortSignal) => Promise<Svid>
  /** True: something beside the SVID proves who asks, and goes on doing so. */
  readonly outlives?: () => Promise<boolean>
  /** 0 to 1; random by default. */
  readonly jitter?: () => number
}): Renewal {
  const { clock, log, audit = noAudit, outlives = async () => false } = settings
  const { jitter = randomJitter } = settings
  const stop = new AbortController()
  let running = Promise.resolve()
  let cancel = () => {}
  let isRunning = false
  let isHastened = false
  let svid = settings.svid
  const planAt = (atMs: number, failures: number) => {
    cancel()
    if (stop.signal.aborted) return
    cancel = atWallTime(clock, atMs, () => {
      isRunning = true
      isHastened = false
      running = attempt(failures).finally(() => {
        isRunning = false
      })
    })
  }
  const plan = (failures: number) =>
    planAt(failures === 0 ? renewAtMs(svid, jitter()) : clock.wallMs() + retryDelayMs(failures, jitter()), failures)
  const planSoon = () => planAt(clock.wallMs() + hastenMaxMs * jitter(), 0)
  const attempt = async (failures: number) => {
    try {
      if (clock.wallMs() >= svid.notAfterMs && !(await outlives())) {
        audit.record({ event: 'svid.expired', id: svid.spiffeId })
        return log.error('identity expired, renewal ended', { peer: svid.spiffeId })
      }
      svid = await settings.renew(stop.signal)
      const expires = new Date(svid.notAfterMs).toISOString()
      log.info('identity renewed', { peer: svid.spiffeId, expires })
      audit.record({ event: 'svid.rotated', id: svid.spiffeId, expires })
      // What was under way may be of the root before.
      if (isHastened) return planSoon()
      planAt(Math.max(renewAtMs(svid, jitter()), clock.wallMs() + pauseMs(svid, clock.wallMs())), 0)
    } catch (error) {
      if (stop.signal.aborted) return
      log.warn('identity not renewed, trying again', { peer: svid.spiffeId, error: toNsmError(error).message })
      if (isExpiring(svid, clock.wallMs())) {
        audit.record({ event: 'svid.expiring', id: svid.spiffeId, reason: reasonOf(error) })
      }
      plan(failures + 1)
    }
  }
  plan(0)
  return {
    hasten() {
      isHastened = true
      if (!isRunning) planSoon()
    },
    async close() {
      stop.abort()
      cancel()
      await running
    },
  }
}

/** [identity 1.7] Less than a third of the life is left. */
function isExpiring({ notBeforeMs, notAfterMs }: Svid, nowMs: number): boolean {
  return notAfterMs - nowMs < (notAfterMs - notBeforeMs) / 3
}

/** Half life, 10 % earlier to 10 % later: machines that enrolled together do not renew together. */
export function renewAtMs(svid: Pick<Svid, 'notBeforeMs' | 'notAfterMs'>, jitter: number): number {
  return svid.notBeforeMs + (svid.notAfterMs - svid.notBeforeMs) * (0.45 + 0.1 * jitter)
}

/**
 * The least between two renewals: a third of what is left, a second at least. An authority that ends a session gives less
 * and less, and the half of a short life is over when it begins, for a certificate is dated back.
 */
function pauseMs({ notAfterMs }: Svid, nowMs: number): number {
  return Math.max(retryMinMs, (notAfterMs - nowMs) / 3)
}

/** 1 s, doubled with each failure up to 60 s, half of it random. */
export function retryDelayMs(failures: number, jitter: number): number {
  const wholeMs = Math.min(retryMaxMs, retryMinMs * 2 ** (failures - 1))
  return wholeMs * (0.5 + 0.5 * jitter)
}

/** 0 to 1, both included. */
export function randomJitter(): number {
  return randomInt(jitterSteps) / (jitterSteps - 1)
}

/** Ours: members of one server do not all renew at the same moment. */
const hastenMaxMs = 30_000
/** Ours: a leaf lives at least minutes, and half of its life is left at the first attempt. */
const retryMinMs = 1_000
const retryMaxMs = 60_000
const jitterSteps = 10_001
