import type { KeyObject } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import { readCertificate } from './certificate.ts'
import { createCsr } from './csr.ts'
import { type Enrolment, loadEnrolment, saveEnrolment } from './enrolment-file.ts'
import { createFixedSource, type FixedSource } from './fixed-source.ts'
import { generateKey, spkiPin } from './keys.ts'
import { refusal } from './refusal.ts'
import { startRenewal } from './renewal.ts'
import type { IdentitySource, IdentityState, IssuedSvid, TrustBundles } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'
import { stateFromIssued } from './svid.ts'

/** An identity that a server gave and renews. */
export interface EnrolledSource extends IdentitySource {
  /** The server that gave it, as it was told to `enrol`. */
  readonly serverUrl: string
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
  readonly renew: Exchange
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
    serverUrl: stored.serverUrl,
    current: held.current,
    onChange: held.onChange,
    async updateBundles(bundles) {
      await store.replace((state) => withBundles(state, bundles))
    },
    async close() {
      await renewal.close()
      await store.settled()
      await held.close()
    },
  }
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
  let state = first.state
  let last: Promise<unknown> = Promise.resolve()
  const replace = async (change: (state: IdentityState) => IdentityState) => {
    const next = change(state)
    await save({ serverUrl: first.serverUrl, state: next })
    state = next
    held.set(next)
    return next
  }
  return {
    replace(change: (state: IdentityState) => IdentityState): Promise<IdentityState> {
      const mine = last.then(() => replace(change))
      last = mine.catch(() => undefined)
      return mine
    },
    async settled() {
      await last
    },
  }
}

function checkExpected(state: IdentityState, expect: { readonly trustDomain: string; readonly pin: string }): void {
  const { trustDomain } = parseSpiffeId(state.svid.spiffeId)
  const roots = state.bundles.get(trustDomain) ?? []
  const isPinned = roots.some((root) => spkiPin(readCertificate(root).spki) === expect.pin)
  if (trustDomain === expect.trustDomain && isPinned) return
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
