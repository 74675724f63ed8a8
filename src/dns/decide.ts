import type { Reply, ReplyClass } from './classify.ts'
import type { ScopeMode } from './scope.ts'

/** One upstream's part in a race. `silent` covers what is asked or still to be asked. */
export interface Voice {
  /** True for a server of the scope, false for one of the host's own resolvers. */
  readonly owner: boolean
  readonly state: 'silent' | 'unreachable' | 'spoken'
  readonly reply: (Pick<Reply, 'class' | 'hasSoa'> & Partial<Pick<Reply, 'extendedError'>>) | undefined
}

/** Which clocks of the race have run out. */
export interface Clocks {
  readonly holdOver: boolean
  readonly graceOver: boolean
  readonly deadlineOver: boolean
}

/** What to do: wait on, give one voice's reply, or say that nobody who should know could be asked. */
export type Decision<V> =
  | { readonly kind: 'wait' }
  | { readonly kind: 'answer'; readonly voice: V; readonly partial: boolean }
  | { readonly kind: 'unreachable' }

/** Decides a race: first positive wins, the best "no" when all have spoken, ignorance last. */
export function decide<V extends Voice>(
  voices: readonly V[],
  mode: ScopeMode,
  clocks: Clocks & { readonly ownerNoIsFinal?: boolean },
): Decision<V> {
  const owners = voices.filter((voice) => voice.owner)
  const winner = mode === 'prefer-service' ? preferred(voices, owners, clocks) : firstOf(voices, 'positive')
  if (winner) return { kind: 'answer', voice: winner, partial: false }
  const ownNo = clocks.ownerNoIsFinal ? firstOf(owners, 'nodata') : undefined
  if (ownNo) return { kind: 'answer', voice: ownNo, partial: false }
  const best = bestOf(voices)
  const pending = lacks(voices, (voice) => voice.state === 'silent')
  const knows = best !== undefined && rank(best) > knowsNothing
  if (pending && !clocks.deadlineOver && !(knows && clocks.graceOver)) return wait
  if (!best || (isPlainNo(best) && !best.owner && noneSpoke(owners))) return { kind: 'unreachable' }
  return { kind: 'answer', voice: best, partial: lacks(voices, (voice) => voice.state !== 'spoken') }
}

const wait = { kind: 'wait' } as const

/** The owner's NOERROR wins, also an empty one; the host's positive waits for the owners, but no longer than `hold`. */
function preferred<V extends Voice>(voices: readonly V[], owners: readonly V[], clocks: Clocks): V | undefined {
  const own = firstOf(owners, 'positive')
  if (own) return own
  if (!clocks.holdOver && owners.some((owner) => owner.state === 'silent')) return undefined
  return firstOf(owners, 'nodata') ?? firstOf(voices, 'positive')
}

function firstOf<V extends Voice>(voices: readonly V[], wanted: ReplyClass): V | undefined {
  return voices.find((voice) => voice.reply?.class === wanted)
}

/** True when a voice that counts lacks. The host's resolvers are equal: one that knows speaks for all; owners each count. */
function lacks(voices: readonly Voice[], isMissing: (voice: Voice) => boolean): boolean {
  const defaultKnows = voices.some((voice) => !voice.owner && rank(voice) > knowsNothing)
  return voices.some((voice) => isMissing(voice) && (voice.owner || !defaultKnows))
}

/** The host's resolver is no authority for a scope: its "no" does not count when no owner could be asked. */
function noneSpoke(owners: readonly Voice[]): boolean {
  return owners.length > 0 && owners.every((owner) => owner.state !== 'spoken')
}

function isPlainNo(voice: Voice): boolean {
  return voice.reply?.class === 'nxdomain' || voice.reply?.class === 'nodata'
}

/** The reply worth most; ties: owner before default, then the order of the voices. */
function bestOf<V extends Voice>(voices: readonly V[]): V | undefined {
  let best: V | undefined
  for (const voice of voices) {
    if (voice.reply === undefined) continue
    const better = best === undefined || rank(voice) > rank(best)
    if (better || (best && rank(voice) === rank(best) && voice.owner && !best.owner)) best = voice
  }
  return best
}

/** Ranks from here down are ignorance, not knowledge. */
const knowsNothing = 2.5
const ranks: Readonly<Record<ReplyClass, number>> = {
  positive: 8,
  truncated: 7,
  alias: 6,
  nodata: 4,
  nxdomain: 3,
  failure: 2,
  refused: 1,
}

function rank(voice: Voice): number {
  if (voice.reply === undefined) return 0
  const { class: found, hasSoa, extendedError } = voice.reply
  if (found === 'nodata' && hasSoa) return ranks.nodata + 1
  const tellsWhy = found === 'failure' && extendedError !== undefined && reasons.has(extendedError)
  return ranks[found] + (tellsWhy ? 0.5 : 0)
}

/** Extended errors that say why a resolver will not answer: DNSSEC and policy; worth more than a bare failure. [RFC 8914 4] */
const reasons: ReadonlySet<number> = new Set([1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16, 17, 18])
