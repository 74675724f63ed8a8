import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { createListeners } from '../base/listeners.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import type { JwtKey } from './bundle-document.ts'
import { backdateMs, certifyNewWithOld, newRoot, type Root } from './ca-root.ts'
import type { RotationState, RotationStore } from './ca-rotation-file.ts'
import { jwtSignerOf } from './jwt-key.ts'
import { jwtSvidLifeMs } from './jwt-svid.ts'
import { atWallTime } from './wall-timer.ts'

/* steady --begin--> published --20 min--> issuing --25 h, or finish--> steady
 *   old signs         old signs             new signs                    new signs
 *   old believed      both believed         both believed                new believed
 *                                           (5 min at the least)
 *
 * While the new root signs, its certificate by the old one goes along: who slept through the first phase still finds the way. */

/** The roots of an authority at one moment. */
export interface Roots {
  readonly signing: Root
  /** DER of all that are to be believed, the signing one first. */
  readonly believed: readonly Uint8Array[]
  /** For JWT-SVIDs, one of each root that is believed, in the same order. */
  readonly jwtKeys: readonly JwtKey[]
  /** The signing root by the old one. */
  readonly newWithOld: Uint8Array | undefined
}

/** What is told of a change of the root. */
export interface RotationView {
  readonly phase: 'steady' | RotationState['phase']
  /** Wall milliseconds at which the next phase begins by itself; absent when nothing is under way. */
  readonly nextMs?: number
  /** Wall milliseconds from which on the old root may be dropped by `finish`. */
  readonly finishMs?: number
}

/** The change of an authority's root, with the times of its phases. */
export interface Rotation {
  roots(): Roots
  view(): RotationView
  /** Makes a new root, which signs after `publishMs`; throws `CONFLICT` while a change is under way. */
  begin(publishMs?: number): Promise<RotationView>
  /** Drops the old root at once; throws `CONFLICT` before the new one signs, and until everybody had the time to renew. */
  finish(): Promise<RotationView>
  onChange(listener: () => void): () => void
  close(): void
}

/** [SPIFFE Trust Domain and Bundle 4.1.3] Members and other domains ask as often. */
export const bundleRefreshMs = 300_000
/** [security C10] 3 to 5 hints, so that everybody who is awake knows the new root before it signs. */
export const publishMsDefault = 4 * bundleRefreshMs
/** Ours: the longest life of a leaf, 24 h, and an hour. */
const believeOldMs = 25 * 3_600_000
/**
 * Ours: until the last JWT-SVID of the old root's key is expired. A member has a certificate of the root that signs long
 * before: a minute is the longest pause of one that lost its server, and within half a minute more it renews.
 */
const renewedMs = jwtSvidLifeMs

/** Rotation of the root `current`, going on with the change that was under way. */
export function createRotation(parts: {
  readonly current: Root
  readonly underWay: RotationState | undefined
  readonly store: RotationStore
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
}): Rotation {
  const { clock, log, audit = noAudit, store } = parts
  const listeners = createListeners()
  const turns = createTurns()
  let { current, underWay } = parts
  let roots = rootsOf(current, underWay)
  /** Members did not hear of anything while the server was away. */
  const openedMs = clock.wallMs()
  let cancel = () => {}
  let isClosed = false
  const view = () => viewOf(underWay, openedMs)
  const set = (next: { readonly current: Root; readonly underWay: RotationState | undefined }) => {
    ;({ current, underWay } = next)
    roots = rootsOf(current, underWay)
    plan()
    const { phase } = view()
    log.info('the root is changed', { domain: current.trustDomain, phase })
    audit.record({ event: 'ca.rotate', id: `spiffe://${current.trustDomain}`, phase })
    listeners.tell()
  }
  const advance = async () => {
    if (!underWay) return
    if (underWay.phase === 'published') {
      const issuing: RotationState = { ...underWay, phase: 'issuing', nextMs: clock.wallMs() + believeOldMs }
      await store.save(issuing)
      set({ current, underWay: issuing })
    } else {
      await store.finish(underWay)
      set({ current: underWay.next, underWay: undefined })
    }
  }
  const onTime = () => {
    turns.run('', advance).catch((error: unknown) => {
      log.error('the root cannot be changed, trying again', { error: toNsmError(error).message })
      if (!isClosed) cancel = clock.after(retryMs, onTime)
    })
  }
  const plan = () => {
    cancel()
    const { nextMs } = view()
    if (nextMs !== undefined && !isClosed) cancel = atWallTime(clock, nextMs, onTime)
  }
  plan()
  return {
    roots: () => roots,
    view,
    begin: (publishMs = publishMsDefault) =>
      turns.run('', async () => {
        if (underWay) throw notNow(view())
        const nowMs = clock.wallMs()
        const state: RotationState = { phase: 'published', nextMs: nowMs + publishMs, next: rootAfter(current, nowMs) }
        await store.save(state)
        set({ current, underWay: state })
        return view()
      }),
    finish: () =>
      turns.run('', async () => {
        const { phase, finishMs = 0 } = view()
        if (phase !== 'issuing') throw notYet(view())
        if (clock.wallMs() < finishMs) throw notRenewed(finishMs)
        await advance()
        return view()
      }),
    onChange: listeners.add,
    close() {
      isClosed = true
      cancel()
      listeners.clear()
    },
  }
}

/** Begins a second after the old one at the least: the sequence of the bundle is made from these times. */
function rootAfter({ trustDomain, certificate }: Root, nowMs: number): Root {
  return newRoot(trustDomain, Math.max(nowMs, certificate.notBeforeMs + backdateMs + 1_000))
}

/** Ours: a disk that is full may have room soon. */
const retryMs = 60_000

function rootsOf(current: Root, underWay: RotationState | undefined): Roots {
  if (!underWay) return rootsInOrder([current])
  const { next, phase } = underWay
  if (phase === 'published') return rootsInOrder([current, next])
  return { ...rootsInOrder([next, current]), newWithOld: certifyNewWithOld(next, current) }
}

function rootsInOrder(all: readonly [signing: Root, ...others: Root[]]): Roots {
  const [signing] = all
  const believed = all.map(({ certificate }) => certificate.der)
  const jwtKeys = all.map(({ privateKey }) => jwtSignerOf(privateKey).published)
  return { signing, believed, jwtKeys, newWithOld: undefined }
}

function viewOf(underWay: RotationState | undefined, openedMs: number): RotationView {
  if (!underWay) return { phase: 'steady' }
  const { phase, nextMs } = underWay
  const signsMs = phase === 'published' ? nextMs : nextMs - believeOldMs
  return { phase, nextMs, finishMs: Math.max(openedMs, signsMs) + renewedMs }
}

function notNow({ phase, nextMs = 0 }: RotationView): NsmError {
  const what = phase === 'published' ? 'a new root is published and signs from' : 'the old root is believed until'
  const next = phase === 'published' ? 'wait until then' : 'wait until then, or end it now: `nsm ca rotate --finish`'
  return new NsmError('CONFLICT', `the root is being changed: ${what} ${isoTime(nextMs)}`, next)
}

function notYet(view: RotationView): NsmError {
  if (view.phase === 'published') return notNow(view)
  return new NsmError('CONFLICT', 'no change of the root is under way', 'begin one: `nsm ca rotate`')
}

function notRenewed(renewedAtMs: number): NsmError {
  const message = `members are renewing by the new root: the old one may be dropped from ${isoTime(renewedAtMs)}`
  return new NsmError('CONFLICT', message, 'wait until then: who has not renewed by then would have to join again')
}

function isoTime(wallMs: number): string {
  return new Date(wallMs).toISOString()
}
