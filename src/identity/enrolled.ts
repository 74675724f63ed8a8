import type { KeyObject } from 'node:crypto'
import type { Audit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import { createCsr } from './csr.ts'
import { type Enrolment, loadEnrolment, saveEnrolment } from './enrolment-file.ts'
import { createFixedSource, type FixedSource } from './fixed-source.ts'
import { withPin } from './join-string.ts'
import { generateKey } from './keys.ts'
import { refusal } from './refusal.ts'
import { startRenewal } from './renewal.ts'
import type { IdentitySource, IdentityState, IssuedSvid, TrustBundles } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'
import { isOfNewestRoot, pinsOf, restsOnRoot, stateFromIssued } from './svid.ts'

/** An identity that a server gave and renews; `current` throws `IDENTITY` when it is expired or its root was dropped. */
export interface EnrolledSource extends IdentitySource {
  /** The server that gave it, as it was told to `enrol`; a pin in it is that of the newest root. */
  readonly serverUrl: string
  /** True for the pin of a root that this identity believes for its own domain, also when it is expired. */
  isPinned(pin: string): boolean
  /** True when this identity is what the join string would give: with a token, only one that rests on the root of its pin. */
  isFrom(join: { readonly pin: string; readonly token?: string }): boolean
  /** Stores and uses new bundles, as the server announced them; throws `IDENTITY` when they lack the own domain. */
  updateBundles(bundles: TrustBundles): Promise<void>
}

/** Sends a certificate request and gives the answer. */
export type Exchange = (csr: Uint8Array, signal: AbortSignal) => Promise<IssuedSvid>

/**
 * Makes a key, has its request answered by `exchange`, checks the answer and stores the identity. The key never leaves
 * this process. Throws `IDENTITY` when the answer does not fit, and what `exchange` throws.
 */
export async function enrol(
  settings: EnrolSettings & {
    readonly statePath: string
    readonly serverUrl: string
  },
): Promise<IdentityState> {
  const state = await askExpected(settings)
  await saveEnrolment(settings.statePath, { serverUrl: settings.serverUrl, state })
  return state
}

/** What an identity is asked for with. */
interface EnrolSettings {
  readonly clock: Clock
  readonly exchange: Exchange
  /** From the join string: the answer must be of this domain and rest on this root. */
  readonly expect?: { readonly trustDomain: string; readonly pin: string }
  readonly signal?: AbortSignal
}

/** How an identity is kept up. */
interface RenewSettings {
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
  readonly renew: Exchange
  /** True: `renew` may succeed also once the identity is expired. */
  readonly outlives?: () => Promise<boolean>
  /** 0 to 1, for the time of renewal; random by default. */
  readonly jitter?: () => number
}

/**
 * The stored identity, renewed at half life with a new key while the old one serves on; undefined when this machine
 * never enrolled. `current` throws `IDENTITY` once it is expired.
 */
export async function openEnrolled(
  settings: RenewSettings & { readonly statePath: string },
): Promise<EnrolledSource | undefined> {
  const stored = await loadEnrolment(settings.statePath)
  return stored && hold(settings, stored, (next) => saveEnrolment(settings.statePath, next))
}

/** As `enrol` and `openEnrolled`, but neither key nor certificate ever leaves the memory of this process. */
export async function openEphemeral(
  settings: EnrolSettings & RenewSettings & { readonly serverUrl: string },
): Promise<EnrolledSource> {
  const state = await askExpected(settings)
  return hold(settings, { serverUrl: settings.serverUrl, state }, async () => {})
}

function hold(settings: RenewSettings, stored: Enrolment, save: (next: Enrolment) => Promise<void>): EnrolledSource {
  const held = createFixedSource(stored.state, settings.clock)
  const store = createStore(stored, held, save)
  const isPinned = (pin: string) => pinsOf(store.present().state).includes(pin)
  const renewal = startRenewal({
    ...settings,
    svid: stored.state.svid,
    renew: async (signal) => {
      const next = await askFor(settings.renew, settings.clock, signal)
      checkSameId(next, stored.state)
      return (await store.replace(() => next)).svid
    },
  })
  return {
    get serverUrl() {
      return store.present().serverUrl
    },
    isPinned,
    isFrom: ({ pin, token }) => isPinned(pin) && (token === undefined || restsOnRoot(store.present().state, pin)),
    current() {
      const state = held.current()
      if (isRootGone(state)) throw rootGone(state)
      return state
    },
    onChange: held.onChange,
    async updateBundles(bundles) {
      const state = await store.replace((before) => withBundles(before, bundles))
      if (!isOfNewestRoot(state, settings.clock.wallMs())) renewal.hasten()
    },
    async close() {
      await renewal.close()
      await store.settled()
      await held.close()
    },
  }
}

const gone = new WeakMap<IdentityState, boolean>()

/** Asked before each call and costly, so it is remembered. */
function isRootGone(state: IdentityState): boolean {
  const known = gone.get(state) ?? !restsOnRoot(state)
  gone.set(state, known)
  return known
}

function rootGone({ svid }: IdentityState) {
  return refusal('SVID_UNTRUSTED', `the root that ${svid.spiffeId} rests on was dropped before this machine renewed`, {
    next: 'join again: `nsm disconnect`, then `nsm invite` on the server and `nsm connect --join FILE` here',
  })
}

async function askExpected(settings: EnrolSettings): Promise<IdentityState> {
  const state = await askFor(settings.exchange, settings.clock, settings.signal ?? new AbortController().signal)
  if (settings.expect) checkExpected(state, settings.expect)
  return state
}

async function askFor(exchange: Exchange, clock: Clock, signal: AbortSignal): Promise<IdentityState> {
  const privateKey: KeyObject = generateKey()
  const issued = await exchange(createCsr(privateKey), signal)
  return stateFromIssued(issued, privateKey, clock.wallMs())
}

/** One change at a time: to the file first, so that a restart never finds less than what is in use. */
function createStore(first: Enrolment, held: FixedSource, save: (next: Enrolment) => Promise<void>) {
  let present = first
  const turns = createTurns()
  const replace = async (change: (state: IdentityState) => IdentityState) => {
    const state = change(present.state)
    const next = { serverUrl: pinnedAnew(present.serverUrl, state), state }
    await save(next)
    present = next
    held.set(state)
    return state
  }
  return {
    present: () => present,
    replace: (change: (state: IdentityState) => IdentityState) => turns.run('', () => replace(change)),
    settled: turns.settled,
  }
}

/** The server is asked again by the pin of its newest root: the one it was joined by will be gone. */
function pinnedAnew(serverUrl: string, state: IdentityState): string {
  const [newest] = pinsOf(state)
  return newest === undefined ? serverUrl : withPin(serverUrl, newest)
}

function checkExpected(state: IdentityState, expect: { readonly trustDomain: string; readonly pin: string }): void {
  const { trustDomain } = parseSpiffeId(state.svid.spiffeId)
  if (trustDomain === expect.trustDomain && pinsOf(state).includes(expect.pin)) return
  throw refusal('PIN_MISMATCH', `the server answered for ${trustDomain} and another root than the join string names`)
}

function checkSameId(next: IdentityState, first: IdentityState): void {
  if (next.svid.spiffeId === first.svid.spiffeId) return
  throw refusal('SVID_UNEXPECTED', `the renewed identity is ${next.svid.spiffeId}, it was ${first.svid.spiffeId}`)
}

/** An empty bundle of the own domain means that everything of it is revoked; that is not taken from a stream. */
function withBundles(state: IdentityState, bundles: TrustBundles): IdentityState {
  const { trustDomain } = parseSpiffeId(state.svid.spiffeId)
  if (!bundles.get(trustDomain)?.length) {
    throw refusal('SVID_UNKNOWN_DOMAIN', `the new bundles have no root of ${trustDomain}`)
  }
  return { svid: state.svid, bundles }
}
