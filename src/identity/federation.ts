import { type Audit, noAudit } from '../base/audit.ts'
import { type Clock, pause } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { createListeners } from '../base/listeners.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import type { BundleDocument } from './bundle-document.ts'
import { fetchBundle, readBundleFile } from './bundle-fetch.ts'
import { type HeldBundle, loadBundles, saveBundles } from './bundle-store.ts'
import { readCertificate } from './certificate.ts'
import type { BundleOrigin, FederatedDomain } from './federated-domain.ts'
import { areSameJwtBundles, type JwtBundles } from './jwt-bundles.ts'
import { plainUrl } from './plain-url.ts'
import { reasonOf, refusal } from './refusal.ts'
import { randomJitter, retryDelayMs } from './renewal.ts'
import { areSameBundles } from './same-bundles.ts'
import type { TrustBundles } from './source.ts'
import { isTrustDomain, parseSpiffeId } from './spiffe-id.ts'

/* For each foreign domain: the bundle of the last run, if it is of the same origin --> fetched, again and again.
 * A bundle that cannot be fetched or read changes nothing: the last good one stays. An empty one counts: it revokes. */

/** The bundles of foreign trust domains, as many as are wanted at the moment. */
export interface Federation {
  /** By trust domain; a domain without any bundle yet is absent. */
  bundles(): TrustBundles
  /** The same for the keys of JWT-SVIDs. */
  jwtBundles(): JwtBundles
  /**
   * Replaces the domains: a new one is fetched, one that is gone is out at once, its stored bundle too. Our own domain may be
   * among them. Throws `USAGE` for domains that cannot be meant, and changes nothing then.
   */
  setDomains(domains: readonly FederatedDomain[]): void
  /** Calls the listener after each change of the bundles; the result ends that. */
  onChange(listener: () => void): () => void
  /** Each wanted foreign domain, in the order of their names. */
  status(): readonly DomainStatus[]
  /** Resolves when every wanted domain was asked once, with or without success. */
  settled(): Promise<void>
  close(): Promise<void>
}

/** How it stands with one domain. */
export interface DomainStatus {
  readonly trustDomain: string
  readonly profile: BundleOrigin['profile']
  readonly roots: number
  /** Why the last attempt failed; absent when it did not. */
  readonly error?: string
}

/** Everything a federation is made from. */
export interface FederationParts {
  readonly trustDomain: string
  /** The own bundle, for an endpoint that shows an SVID of ours. */
  readonly own: () => TrustBundles
  /** Where the last good bundles are kept. */
  readonly path: string
  readonly webRoots?: string | undefined
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
}

/** [SPIFFE Trust Domain and Bundle 4.1.3] When a domain does not say how often it wants to be asked. */
const refreshMs = 300_000
/** Ours: no domain makes us ask more often, and none keeps a revoked root alive for longer than a day. */
const refreshMinMs = 10_000
const refreshMaxMs = 86_400_000
/** Ours: a file costs nothing to look at. */
const rereadMs = 5_000
/** Ours: domains of one policy; a stranger's certificate is held against the roots of each. */
const domainsMax = 64

/** Opens the bundles of the last run; nothing is fetched before `setDomains`. */
export async function openFederation(parts: FederationParts): Promise<Federation> {
  return new Domains(parts, await loadBundles(parts.path))
}

class Domains implements Federation {
  readonly #parts: FederationParts
  readonly #held: Map<string, HeldBundle>
  readonly #followed = new Map<string, Followed>()
  readonly #listeners = createListeners()
  readonly #saves = createTurns()

  constructor(parts: FederationParts, held: Map<string, HeldBundle>) {
    this.#parts = parts
    this.#held = held
  }

  bundles(): TrustBundles {
    return this.#ofWanted(({ roots }) => roots)
  }

  jwtBundles(): JwtBundles {
    return this.#ofWanted(({ jwtKeys }) => jwtKeys)
  }

  setDomains(domains: readonly FederatedDomain[]): void {
    const before = this.bundles()
    const wanted = foreignDomains(domains, this.#parts.trustDomain)
    for (const [trustDomain, { domain, stop }] of [...this.#followed]) {
      const next = wanted.get(trustDomain)
      if (next && originText(next) === originText(domain)) continue
      stop.abort()
      this.#followed.delete(trustDomain)
    }
    for (const [trustDomain, held] of [...this.#held]) {
      const next = wanted.get(trustDomain)
      if (!next || originText(next) !== held.origin) this.#held.delete(trustDomain)
    }
    for (const domain of wanted.values()) if (!this.#followed.has(domain.trustDomain)) this.#follow(domain)
    if (!areSameBundles(before, this.bundles())) this.#listeners.tell()
    this.#save()
  }

  onChange(listener: () => void): () => void {
    return this.#listeners.add(listener)
  }

  status(): readonly DomainStatus[] {
    const all = [...this.#followed.values()].map(({ domain: { trustDomain, bundle }, error }) => ({
      ...{ trustDomain, profile: bundle.profile },
      roots: this.#held.get(trustDomain)?.document.roots.length ?? 0,
      ...(error === undefined ? {} : { error }),
    }))
    return all.sort((a, b) => (a.trustDomain < b.trustDomain ? -1 : 1))
  }

  async settled(): Promise<void> {
    await Promise.all([...this.#followed.values()].map(({ first }) => first))
    await this.#saves.settled()
  }

  async close(): Promise<void> {
    const all = [...this.#followed.values()]
    for (const { stop } of all) stop.abort()
    this.#listeners.clear()
    await Promise.all(all.map(({ ended }) => ended))
    await this.#saves.settled()
  }

  #ofWanted<T>(partOf: (document: BundleDocument) => T): Map<string, T> {
    const wanted = [...this.#held].filter(([domain]) => this.#followed.has(domain))
    return new Map(wanted.map(([domain, { document }]) => [domain, partOf(document)]))
  }

  #follow(domain: FederatedDomain): void {
    const stop = new AbortController()
    const { promise: first, resolve: asked } = Promise.withResolvers<void>()
    const followed: Followed = { domain, stop, first, ended: Promise.resolve(), error: undefined }
    this.#followed.set(domain.trustDomain, followed)
    followed.ended = this.#run(followed, asked).finally(asked)
  }

  async #run(followed: Followed, asked: () => void): Promise<void> {
    const { domain, stop } = followed
    const { clock } = this.#parts
    for (let failures = 0; !stop.signal.aborted; ) {
      const isDone = await this.#refresh(followed)
      failures = isDone ? 0 : failures + 1
      asked()
      await pause(clock, this.#pauseMs(domain, failures), stop.signal)
    }
  }

  #pauseMs({ trustDomain, bundle }: FederatedDomain, failures: number): number {
    if (bundle.profile === 'file') return rereadMs
    const hintMs = this.#held.get(trustDomain)?.document.refreshHintMs ?? refreshMs
    const wholeMs = Math.min(Math.max(hintMs, refreshMinMs), refreshMaxMs)
    const jitter = randomJitter()
    return failures === 0 ? wholeMs * (0.9 + 0.2 * jitter) : Math.min(wholeMs, retryDelayMs(failures, jitter))
  }

  /** True when the domain's bundle is known as it is by now. */
  async #refresh(followed: Followed): Promise<boolean> {
    const { domain, stop } = followed
    const { log, audit = noAudit } = this.#parts
    const { trustDomain } = domain
    try {
      await this.#refreshNow(domain, stop.signal)
      if (followed.error !== undefined) log.info('the bundle of another domain is there again', { domain: trustDomain })
      followed.error = undefined
      return true
    } catch (error) {
      if (stop.signal.aborted) return false
      const { message } = toNsmError(error)
      if (followed.error !== message) {
        log.warn('no new bundle of another domain, the last one stays', { domain: trustDomain, error: message })
        audit.record({ event: 'bundle.error', id: `spiffe://${trustDomain}`, reason: reasonOf(error) })
      }
      followed.error = message
      return false
    }
  }

  async #refreshNow(domain: FederatedDomain, signal: AbortSignal): Promise<void> {
    const { trustDomain, bundle } = domain
    if (bundle.profile === 'own') return
    if ('path' in bundle && bundle.path !== undefined) await this.#takeFile(domain, bundle.path, signal)
    if (bundle.profile === 'file') return
    const { own, webRoots, clock } = this.#parts
    const bundles = new Map([...own(), ...this.bundles()])
    const document = await fetchBundle(bundle, { bundles, webRoots, clock, signal })
    const held = this.#held.get(trustDomain)
    const last = held?.document.sequence
    if (last !== undefined && document.sequence !== undefined && document.sequence < last) {
      throw refusal('BUNDLE_OLD', `the bundle of ${trustDomain} has the sequence ${document.sequence} after ${last}`, {
        next: 'if the domain began anew, take it out of the policy file and put it in again',
      })
    }
    this.#take(domain, { document, fileHash: held?.fileHash, signal })
  }

  /** What the administrator gives counts once, each time it changes; a file that is gone counts no more than before. */
  async #takeFile(domain: FederatedDomain, path: string, signal: AbortSignal): Promise<void> {
    const held = this.#held.get(domain.trustDomain)
    try {
      const { document, hash } = await readBundleFile(path)
      if (hash !== held?.fileHash) this.#take(domain, { document, fileHash: hash, signal })
    } catch (error) {
      if (!held || domain.bundle.profile === 'file') throw error
    }
  }

  #take(
    domain: FederatedDomain,
    taken: Pick<HeldBundle, 'fileHash'> & { readonly document: BundleDocument; readonly signal: AbortSignal },
  ): void {
    const { trustDomain } = domain
    const { document, fileHash, signal } = taken
    signal.throwIfAborted()
    checkRoots(document, trustDomain)
    const before = { roots: this.bundles(), keys: this.jwtBundles() }
    this.#held.set(trustDomain, { origin: originText(domain), document, fileHash })
    this.#save()
    if (areSameBundles(before.roots, this.bundles()) && areSameJwtBundles(before.keys, this.jwtBundles())) return
    const { log, audit = noAudit } = this.#parts
    log.info('a new bundle of another domain', { domain: trustDomain, roots: document.roots.length })
    audit.record({ event: 'bundle.update', id: `spiffe://${trustDomain}`, roots: document.roots.length })
    this.#listeners.tell()
  }

  #save(): void {
    const { path, log } = this.#parts
    this.#saves
      .run('', () => saveBundles(path, this.#held))
      .catch((error: unknown) => log.warn('bundles are not stored', { error: toNsmError(error).message }))
  }
}

interface Followed {
  readonly domain: FederatedDomain
  readonly stop: AbortController
  /** Resolves after the first attempt. */
  readonly first: Promise<void>
  ended: Promise<void>
  error: string | undefined
}

/** The domains without our own; throws `USAGE`. */
function foreignDomains(domains: readonly FederatedDomain[], own: string): Map<string, FederatedDomain> {
  const wanted = new Map<string, FederatedDomain>()
  const seen = new Set<string>()
  if (domains.length > domainsMax) throw wrong(`more than ${domainsMax} domains`)
  for (const domain of domains) {
    const { trustDomain, bundle } = domain
    if (!isTrustDomain(trustDomain)) throw wrong(`${JSON.stringify(trustDomain.slice(0, 80))} is not a trust domain`)
    if (seen.has(trustDomain)) throw wrong(`${trustDomain} stands there twice`)
    seen.add(trustDomain)
    if ((trustDomain === own) !== (bundle.profile === 'own')) {
      throw wrong(`${trustDomain} is ${trustDomain === own ? 'our own: its bundle is "own"' : 'not our own'}`)
    }
    if ('url' in bundle) checkUrl(trustDomain, bundle.url)
    if (bundle.profile === 'https_spiffe') checkEndpointId(trustDomain, bundle)
    if (bundle.profile !== 'own') wanted.set(trustDomain, domain)
  }
  return wanted
}

/** [SPIFFE Federation 5.2.1] https without user; what stands there literally may be any host. */
function checkUrl(trustDomain: string, text: string): void {
  if (plainUrl(text)?.protocol === 'https:') return
  throw wrong(`the url of ${trustDomain} is not an https url`)
}

function checkEndpointId(trustDomain: string, { endpointId }: { readonly endpointId: string }): void {
  try {
    if (parseSpiffeId(endpointId).path !== '') return
  } catch {
    // Said below.
  }
  throw wrong(`the endpoint_id of ${trustDomain} is not the SPIFFE ID of a workload`)
}

/** [SPIFFE X509-SVID 4.1] A root that names a domain names this one: else a wrong file or url was configured. */
function checkRoots({ roots }: BundleDocument, trustDomain: string): void {
  const named = roots.flatMap((der) => readCertificate(der).uris.filter((uri) => uri.startsWith('spiffe://')))
  const other = named.find((uri) => uri !== `spiffe://${trustDomain}`)
  if (other === undefined) return
  throw refusal('BUNDLE_INVALID', `the bundle for ${trustDomain} holds a root of ${other}`, {
    next: 'check the url or file of this domain in the policy file',
  })
}

function originText({ bundle }: FederatedDomain): string {
  return JSON.stringify(Object.entries(bundle).sort(([a], [b]) => (a < b ? -1 : 1)))
}

function wrong(what: string): NsmError {
  return new NsmError(
    'USAGE',
    `these domains cannot be federated with: ${what}`,
    'correct "domains" in the policy file',
  )
}
