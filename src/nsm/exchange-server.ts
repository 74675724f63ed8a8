import { type KeyObject, X509Certificate } from 'node:crypto'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { BelievingAuthority } from '../identity/authority-source.ts'
import { serialNumberOf } from '../identity/certificate.ts'
import { verifyCsr } from '../identity/csr.ts'
import { spkiOf } from '../identity/keys.ts'
import type { OidcAdmission } from '../identity/oidc-admission.ts'
import { oidcRefusal } from '../identity/oidc-refusal.ts'
import { reasonOf } from '../identity/refusal.ts'
import type { IssuedSvid } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import { tellBundles } from './bundle-stream.ts'
import { type ExchangeRequest, IdentityService } from './generated/identity_pb.js'
import { type Call, type MethodBinding, openUnary, serverStream, unary } from './grpc.ts'
import type { JoinTokens } from './join-tokens.ts'
import type { JwtIssuer } from './jwt-issuer.ts'
import { ExchangeRate } from './rate-limit.ts'
import { encodeIssued } from './svid-encoding.ts'

/** What turns credentials into identities. */
export interface ExchangeParts {
  readonly authority: BelievingAuthority
  readonly joinTokens: JoinTokens
  /** Takes ID tokens of issuers; without it only join tokens count. */
  readonly oidc?: OidcAdmission | undefined
  /** True: this identity gets no further certificate; it ends with its present one. */
  readonly isDenied?: (spiffeId: string) => boolean
  /** Gives tokens to whoever holds a certificate; without it nobody gets one. */
  readonly issueJwt?: JwtIssuer
  /** True for other sites: they pass on what strangers show, and have counted it by the strangers' addresses. */
  readonly isSite?: (spiffeId: string) => boolean
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
}

/**
 * Ours: life of an SVID, the longest that our authority gives: a laptop that sleeps over night still has an identity in
 * the morning. It is renewed at half life; a denied identity is out after it at the latest.
 */
const svidLifeMs = 24 * 3_600_000
/** Ours: how often clients should look for new roots, in seconds. */
export const bundleRefreshSeconds = 300
/** Ours: a CSR for P-256 has about 300 bytes, a join token 43 characters. */
const csrMaxBytes = 4_096
const tokenMaxCharacters = 16_384

/** The identity service: the only one that answers a caller without a certificate. */
export function identityService(parts: ExchangeParts): MethodBinding[] {
  const { getConfiguration, exchange, renew, watchBundles, fetchJwtSvid } = IdentityService.method
  const { issueJwt } = parts
  const rate = new ExchangeRate()
  const { authority, clock } = parts
  return [
    openUnary(getConfiguration, async () => ({
      trustDomain: authority.trustDomain,
      issuers: (parts.oidc?.issuers ?? []).map(({ name, url, audience, login }) => ({
        ...{ name, issuerUrl: url, audience },
        ...(login ? { ...login, scopes: [...login.scopes], flows: ['code', 'device'] } : { flows: ['ci'] }),
      })),
      x509Authorities: [...(authority.bundles.get(authority.trustDomain) ?? [])],
      bundleRefreshSeconds,
    })),
    openUnary(exchange, (request, call) => {
      const { address, peer } = call
      const work = () => onExchange(parts, request, call)
      const isCounted = peer !== undefined && parts.isSite?.(peer.spiffeId) === true
      return audited(parts, { address }, () => (isCounted ? work() : rate.run(work, { address, clock })))
    }),
    unary(renew, async ({ csr }, { peer }) => renewFor(parts, csr, peer)),
    serverStream(watchBundles, (_request, { signal }) =>
      tellBundles(believedBy(authority, issueJwt !== undefined), signal),
    ),
    ...(issueJwt ? [unary(fetchJwtSvid, async ({ audience }, { peer }) => issueJwt(peer, audience))] : []),
  ]
}

function believedBy(authority: BelievingAuthority, isSigning: boolean) {
  const jwtBundles = () => (isSigning ? authority.jwtBundles : new Map())
  return { bundles: () => authority.bundles, jwtBundles, onChange: authority.onChange }
}

/** Who asked, for the record of a refusal. */
type Asker = { readonly id?: string; readonly address: string }

/** Runs an exchange; a refusal is on record before the caller hears of it. */
async function audited<T>({ audit = noAudit }: Pick<ExchangeParts, 'audit'>, asker: Asker, work: () => Promise<T>) {
  try {
    return await work()
  } catch (error) {
    audit.record({ event: 'exchange.deny', ...asker, reason: reasonOf(error) })
    throw error
  }
}

/** Sizes, then the CSR, then the token: a broken request does not use the token up. */
async function onExchange(parts: ExchangeParts, request: ExchangeRequest, call: Call) {
  const publicKey = keyOfCsr(request.csr)
  const { credential } = request
  if (credential.case === undefined || credential.case === 'jwtSvid') throw noCredential()
  if (credential.value.length > tokenMaxCharacters) throw refused('the token is too long (TOKEN_INVALID)')
  return credential.case === 'idToken'
    ? onIdToken(parts, { request, call, publicKey, token: credential.value })
    : onJoinToken(parts, { request, call, publicKey, token: credential.value })
}

interface Shown {
  readonly request: ExchangeRequest
  readonly call: Call
  readonly publicKey: KeyObject
  readonly token: string
}

function onJoinToken(parts: ExchangeParts, { request, call, publicKey, token }: Shown) {
  const { authority, clock, log } = parts
  const spiffeId = parts.joinTokens.redeem(token, { publicKey: spkiOf(publicKey), nowMs: clock.wallMs() })
  checkMayHave(parts, request, spiffeId)
  const issued = authority.issueForKey({ publicKey, spiffeId, ttlMs: lifeOf(request, svidLifeMs) })
  log.info('identity issued for a join token', { peer: spiffeId, address: call.address })
  recordIssue(parts, issued, { address: call.address, rule: 'join-token' })
  return encodeIssued(issued, authority.trustDomain)
}

async function onIdToken(parts: ExchangeParts, { request, call, publicKey, token }: Shown) {
  const { authority, oidc, log } = parts
  if (!oidc) throw oidcRefusal('ISSUER_UNKNOWN', 'this server takes join tokens only: start it with --issuer')
  const { address } = call
  try {
    const { path, ttlMs, sessionEndsMs, ...why } = await oidc.admit(token, spkiOf(publicKey))
    const spiffeId = `spiffe://${authority.trustDomain}${path}`
    checkMayHave(parts, request, spiffeId)
    const issued = authority.issueForKey({ publicKey, spiffeId, ttlMs: lifeOf(request, ttlMs) })
    const serial = recordIssue(parts, issued, { address, ...why })
    log.info('identity issued for an ID token', { peer: spiffeId, address, serial, ...why })
    const answer = encodeIssued(issued, authority.trustDomain)
    return { ...answer, sessionEnds: timestampFromMs(sessionEndsMs), rule: why.rule }
  } catch (error) {
    log.warn('an ID token gave no identity', { address, error: toNsmError(error).message })
    throw error
  }
}

function checkMayHave(parts: ExchangeParts, { requestedId }: ExchangeRequest, spiffeId: string): void {
  if (requestedId !== '' && requestedId !== spiffeId) {
    throw refused(`this token is for ${spiffeId}, not for ${requestedId} (NO_RULE)`)
  }
  checkNotDenied(parts, spiffeId)
}

/** Every certificate is on record [security C10]; gives its serial number. */
function recordIssue(
  { audit = noAudit }: Pick<ExchangeParts, 'audit'>,
  { spiffeId, chain, notAfterMs }: IssuedSvid,
  why: { readonly address: string; readonly rule: string; readonly issuer?: string; readonly subjectHash?: string },
): string {
  const serial = serialNumberOf(chain[0] ?? new Uint8Array())
  audit.record({ event: 'exchange.ok', id: spiffeId, ...why, serial, expires: new Date(notAfterMs).toISOString() })
  return serial
}

/** Who proved to hold a certificate. */
interface Holder {
  readonly spiffeId: string
  readonly certificate: Uint8Array
  readonly address: string
}

/** A new certificate for whoever proved to hold the present one; throws `IDENTITY`. */
export function renewFor(parts: Omit<ExchangeParts, 'joinTokens'>, csr: Uint8Array, holder: Holder) {
  const { spiffeId: id, address } = holder
  return audited(parts, { id, address }, async () => renewNow(parts, csr, holder))
}

function renewNow(parts: Omit<ExchangeParts, 'joinTokens'>, csr: Uint8Array, holder: Holder) {
  const { authority, log } = parts
  const { spiffeId, certificate, address } = holder
  const publicKey = keyOfCsr(csr)
  if (parseSpiffeId(spiffeId).trustDomain !== authority.trustDomain) {
    throw refused(`${spiffeId} is not of ${authority.trustDomain} (NO_RULE)`)
  }
  checkNotDenied(parts, spiffeId)
  const heldKey = spkiOf(new X509Certificate(certificate).publicKey)
  const spki = spkiOf(publicKey)
  if (Buffer.from(heldKey).equals(spki)) throw refused('a renewal needs a new key (CSR_INVALID)')
  const ttlMs = parts.oidc?.renew(heldKey, spki) ?? svidLifeMs
  const issued = authority.issueForKey({ publicKey, spiffeId, ttlMs })
  log.info('identity renewed', { peer: spiffeId, address })
  recordIssue(parts, issued, { address, rule: 'renewal' })
  return encodeIssued(issued, authority.trustDomain)
}

function keyOfCsr(csr: Uint8Array): KeyObject {
  if (csr.length > csrMaxBytes) throw refused(`the certificate request has ${csr.length} bytes (CSR_INVALID)`)
  return verifyCsr(csr).publicKey
}

function noCredential(): NsmError {
  return refused('a join token or an ID token of an issuer is wanted (NO_RULE)')
}

function lifeOf({ requestedTtl }: ExchangeRequest, maxMs: number): number {
  const askedMs = Number(requestedTtl?.seconds ?? 0n) * 1_000
  return askedMs > 0 ? Math.min(askedMs, maxMs) : maxMs
}

function checkNotDenied(parts: Pick<ExchangeParts, 'isDenied'>, spiffeId: string): void {
  if (parts.isDenied?.(spiffeId)) throw refused(`${spiffeId} is denied (DENIED)`)
}

function refused(why: string): NsmError {
  return new NsmError('IDENTITY', why, 'ask for a new join string: `nsm invite` on the server')
}
