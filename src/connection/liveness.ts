/* Is the endpoint there? Whatever came out of the tunnel since the last look is a sign of life; in silence the endpoint is
 * asked by ICMP echo, more often the longer it is silent, so that lost packets alone are no death [nsm-protocol 4.9]. */

/** What one look finds. */
export interface Look {
  /** Monotonic milliseconds. */
  readonly nowMs: number
  /** Bytes of inner packets since the tunnel was opened. */
  readonly receivedBytes: number
  readonly rttMs: number | undefined
  /** Undefined before the first handshake. */
  readonly handshakeAgeMs: number | undefined
}

/** What is known of a path. */
export interface Liveness {
  readonly isAlive: boolean
  /** Something came through at least once: only then silence says anything. */
  readonly answers: boolean
  readonly receivedBytes: number
  /** Looks in a row that found nothing. */
  readonly silentLooks: number
  /** Since when an echo is unanswered, monotonic milliseconds. */
  readonly askedAtMs: number
}

/** What a look changes, and how many echo requests to send. */
export interface Verdict {
  readonly next: Liveness
  readonly change: 'lost' | 'found' | 'none'
  readonly echoes: number
  /** Until the next look, milliseconds. */
  readonly delayMs: number
}

/** Ours: with `silenceMs` a death is noticed within 1.5 s of the last packet. */
export const lookMs = 300
/** Ours: an echo that is unanswered for this long, and two further ones, mean death; slow paths get three round trips. */
export const silenceMs = 900
/** Ours: echo requests of one look at most. */
const burstMax = 3
/** Ours: an endpoint that has not answered this many looks never will, and is asked seldom. */
const deafLooks = 30
/** Ours: how often a path is looked at whose endpoint does not answer echo requests. */
const deafLookMs = 5_000
/** [WG 6.1] A session is refused after 180 s; with keepalive a live one is renewed after 120 s. */
const handshakeAgeMaxMs = 195_000

/** A path of which nothing was heard yet. */
export function beginLiveness(receivedBytes: number): Liveness {
  return { isAlive: true, answers: false, receivedBytes, silentLooks: 0, askedAtMs: 0 }
}

/** Judges one look. */
export function judge(before: Liveness, look: Look): Verdict {
  if (look.receivedBytes !== before.receivedBytes) return heard(before, look)
  const silentLooks = before.silentLooks + 1
  const askedAtMs = before.silentLooks === 0 ? look.nowMs : before.askedAtMs
  const isLost = before.isAlive && isDead({ ...before, askedAtMs }, look)
  const next = { ...before, silentLooks, askedAtMs, isAlive: before.isAlive && !isLost }
  const isDeaf = !before.answers && silentLooks > deafLooks
  return {
    next,
    change: isLost ? 'lost' : 'none',
    echoes: next.isAlive && !isDeaf ? Math.min(silentLooks, burstMax) : 1,
    delayMs: isDeaf ? deafLookMs : lookMs,
  }
}

function heard(before: Liveness, look: Look): Verdict {
  const next = { isAlive: true, answers: true, receivedBytes: look.receivedBytes, silentLooks: 0, askedAtMs: 0 }
  return { next, change: before.isAlive ? 'none' : 'found', echoes: 0, delayMs: lookMs }
}

function isDead(path: Liveness, look: Look): boolean {
  if ((look.handshakeAgeMs ?? 0) > handshakeAgeMaxMs) return true
  return path.answers && look.nowMs - path.askedAtMs >= Math.max(silenceMs, 3 * (look.rttMs ?? 0) + lookMs)
}
