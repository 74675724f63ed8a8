import type { Socket } from 'node:net'
import type { Clock } from '../base/clock.ts'
import type { ServerSession } from './http2/server-session.ts'
import { keepAlive } from './keepalive.ts'

/* open --30 min, or three quarters of the life that the caller's certificate has left--> leaving (no new calls, please) --5 s--> closing (no new calls) --30 s--> closed
 * Every 2 min a ping, and without its answer after 20 s: closed.
 * Every 30 s a look at the answers that wait: what has not moved since the last one ends. */

/** Ours: connections are renewed, so that a rotated or withdrawn certificate is not in use for longer. */
const ageMaxMs = 1_800_000
/**
 * Ours: of what is left of a certificate when its connection begins. Who renews at half life comes again with the next one
 * before the first ends, and with it every call that is under way.
 */
const lifeShare = 0.75
/** Ours: one whose certificate is not renewed comes again no more often. */
const ageMinMs = 1_000
/** Ours: a call that was sent before the caller could know is taken for this long; refused, it would fail. */
const leavingMs = 5_000
/** Ours: what is left to calls of a connection that is renewed. */
const graceMs = 30_000
/** Ours: a machine that went away without a word frees its place after both, so that its identity does not use up its own. */
const keepaliveMs = 120_000
const keepaliveTimeoutMs = 20_000

/** Ours: a client that takes nothing of an answer for as long, and at most twice as long, has given it up. */
const stallCheckMs = 30_000

/** A connection and the time it lives in. */
interface Aging {
  readonly session: ServerSession
  readonly socket: Socket
  readonly clock: Clock
  /** True: nothing that a certificate said can grow old on it, so it is not renewed. */
  readonly isLocal: boolean
  /** Wall milliseconds at which the caller's certificate ends; undefined for a caller without one. */
  readonly certificateEndMs: number | undefined
}

/** Renews an old connection and ends a dead one; the result ends that. */
export function watchAge(aging: Aging): () => void {
  const endAge = aging.isLocal ? () => {} : renewInTime(aging)
  const endPings = keepAlive(aging, { everyMs: keepaliveMs, timeoutMs: keepaliveTimeoutMs })
  const endLooks = lookForStalled(aging)
  return () => {
    endAge()
    endPings()
    endLooks()
  }
}

function renewInTime({ session, socket, clock, certificateEndMs = Number.POSITIVE_INFINITY }: Aging): () => void {
  const lifeMs = (certificateEndMs - clock.wallMs()) * lifeShare
  let cancel = clock.after(Math.max(Math.min(ageMaxMs, lifeMs), ageMinMs), () => {
    session.leave()
    cancel = clock.after(leavingMs, () => {
      session.close()
      cancel = clock.after(graceMs, () => socket.destroy())
    })
  })
  return () => cancel()
}

function lookForStalled({ session, clock }: Aging): () => void {
  let cancel = () => {}
  const lookLater = () => {
    cancel = clock.after(stallCheckMs, () => {
      session.endStalled()
      lookLater()
    })
  }
  lookLater()
  return () => cancel()
}
