/* Is the endpoint there? Whatever came out of the tunnel since the last look is a sign of life; in silence the endpoint is
 * asked by ICMP echo, more often the longer it is silent, so that lost packets alone are no death [nsm-protocol 4.9]. */

/** What one look finds. */
export interface Look {
  /** Monotonic milliseconds. */
  readonly nowMs: number
  /** Another number when inner packets came in. */
  readonly heard: number
  readonly rttMs: number | undefined
  /** Undefined before the first handshake. */
  readonly handshakeAgeMs: number | undefined
}

/** What is known of a path. */
export interface Liveness {
  readonly isAlive: boolean
  /** Something came through at least once: only then silence says anything. */
  readonly answers: boolean
  readonly heard: number
  /** Looks in a row that found nothing. */
  readonly silentLooks: number
  /** When it was looked at last, monotonic milliseconds; undefined before the first look. */
  readonly lookedAtMs: number | undefined
  /** For how long an echo is unanswered, milliseconds; time in which nobody looked counts little. */
  readonly silentMs: number
  /** Its session was older than any may be. */
  readonly isOverdue: boolean
}

/** How often is looked, and how long a silence is a death. */
export interface Pace {
  readonly lookMs: number
  readonly silenceMs: number
}

/** What a look changes, and how many echo requests to send. */
export interface Verdict {
  readonly next: Liveness
  readonly change: 'lost' | 'found' | 'none'
  readonly echoes: number
  /** Until the next look, milliseconds. */
  readonly delayMs: number
}

/**
 * Ours: a death is noticed within 1.05 s of the last packet. Nine echo requests are unanswered then, six of them for two
 * thirds of a second: at 200 ms and 5 % loss each way that happens by chance once in weeks. Slow paths get three round trips.
 */
export const usualPace: Pace = { lookMs: 200, silenceMs: 800 }
/** Ours: who asks for quicker looks gets no quicker ones than these. */
const lookMinMs = 50
/** Ours: echo requests of one look at most. */
const burstMax = 3
/** Ours: an endpoint that has not answered this many looks never will, and is asked seldom. */
const deafLooks = 45
/** Ours: a late look says that this machine is busy, not that the other one is silent. */
const lateFactor = 1.5
/** Ours: how often a path is looked at whose endpoint does not answer echo requests. */
const deafLookMs = 5_000
/** [WG 6.1] A session is refused after 180 s; with keepalive a live one is renewed after 120 s. */
const handshakeAgeMaxMs = 195_000

/** A path of which nothing was heard yet. */
export function beginLiveness(heard: number): Liveness {
  return { isAlive: true, answers: false, heard, silentLooks: 0, lookedAtMs: undefined, silentMs: 0, isOverdue: false }
}

/** The pace that NSM's settings ask for; what they leave out is ours. */
export function paceOf(wanted: { readonly livenessIntervalMs?: number; readonly livenessTimeoutMs?: number }): Pace {
  const lookMs = Math.max(lookMinMs, wanted.livenessIntervalMs ?? usualPace.lookMs)
  return { lookMs, silenceMs: Math.max(2 * lookMs, wanted.livenessTimeoutMs ?? usualPace.silenceMs) }
}

/** Judges one look. */
export function judge(before: Liveness, look: Look, pace: Pace): Verdict {
  if (look.heard !== before.heard) return heard(before, look, pace)
  const silentLooks = before.silentLooks + 1
  const sinceMs = before.lookedAtMs === undefined ? 0 : look.nowMs - before.lookedAtMs
  const silentMs = silentLooks === 1 ? 0 : before.silentMs + Math.min(sinceMs, pace.lookMs * lateFactor)
  const isLost = before.isAlive && isDead({ ...before, silentMs }, look, pace)
  const isAlive = before.isAlive && !isLost
  const isDeaf = !before.answers && silentLooks > deafLooks
  return {
    next: { ...before, silentLooks, silentMs, lookedAtMs: look.nowMs, isAlive, isOverdue: isOverdue(look) },
    change: isLost ? 'lost' : 'none',
    echoes: isAlive && !isDeaf ? Math.min(silentLooks, burstMax) : 1,
    delayMs: isDeaf ? deafLookMs : pace.lookMs,
  }
}

function heard(before: Liveness, { heard, nowMs }: Look, pace: Pace): Verdict {
  const next = { ...beginLiveness(heard), answers: true, lookedAtMs: nowMs }
  return { next, change: before.isAlive ? 'none' : 'found', echoes: 0, delayMs: pace.lookMs }
}

function isDead(path: Liveness, look: Look, pace: Pace): boolean {
  // A machine that slept finds its session overdue, and needs a moment to renew it.
  if (!path.answers) return path.isOverdue && isOverdue(look)
  // A timer may fire a little early.
  const neededMs = Math.max(pace.silenceMs, 3 * (look.rttMs ?? 0) + pace.lookMs) - pace.lookMs / 4
  return path.silentMs >= neededMs
}

function isOverdue({ handshakeAgeMs }: Look): boolean {
  return (handshakeAgeMs ?? 0) > handshakeAgeMaxMs
}
