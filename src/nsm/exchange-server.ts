import { X509Certificate } from 'node:crypto'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { untilAborted } from '../base/until-aborted.ts'
import type { Authority } from '../identity/ca.ts'
import { verifyCsr } from '../identity/csr.ts'
import { spkiOf } from '../identity/keys.ts'
import type { OidcAdmission } from '../identity/oidc-admission.ts'
import { oidcRefusal } from '../identity/oidc-refusal.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import { type ExchangeRequest, IdentityService } from './generated/identity_pb.js'
import { type Call, type MethodBinding, openUnary, type PeerCall, serverStream, unary } from './grpc.ts'
import type { JoinTokens } from './join-tokens.ts'
import { RateLimit } from './rate-limit.ts'
import { encodeBundles, encodeIssued } from './svid-encoding.ts'

/** What turns credentials into identities. */
export interface ExchangeParts {
  readonly authority: Pick<Authority, 'trustDomain' | 'rootDer' | 'bundles' | 'issue'>
  readonly joinTokens: JoinTokens
  /** Takes ID tokens of issuers; without it only join tokens count. */
  readonly oidc?: OidcAdmission | undefined
  /** True: this identity gets no further certificate; it ends with its present one. */
  readonly isDenied?: (spiffeId: string) => boolean
  readonly clock: Clock
  readonly log: Log
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
  const { getConfiguration, exchange, renew, watchBundles } = IdentityService.method
  const attempts = new RateLimit()
  return [
    openUnary(getConfiguration, async () => ({
      trustDomain: parts.authority.trustDomain,
      issuers: (parts.oidc?.issuers ?? []).map(({ name, url, audience, login }) => ({
        ...{ name, issuerUrl: url, audience },
        ...(login ? { ...login, scopes: [...login.scopes], flows: ['code', 'device'] } : { flows: ['ci'] }),
      })),
      x509Authorities: [parts.authority.rootDer],
      bundleRefreshSeconds,
    })),
    openUnary(exchange, async (request, call) => {
      attempts.count(call.address, parts.clock.monotonicMs())
      return onExchange(parts, request, call)
    }),
    unary(renew, async ({ csr }, call) => onRenew(parts, csr, call)),
    serverStream(watchBundles, async function* (_request, call) {
      yield { bundles: encodeBundles(parts.authority.bundles) }
      await untilAborted(call.signal)
    }),
  ]
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
  readonly publicKey: Uint8Array
  readonly token: string
}

function onJoinToken(parts: ExchangeParts, { request, call, publicKey, token }: Shown) {
  const { authority, clock, log } = parts
  const spiffeId = parts.joinTokens.redeem(token, { publicKey, nowMs: clock.wallMs() })
  checkMayHave(parts, request, spiffeId)
  const issued = authority.issue({ csr: request.csr, spiffeId, ttlMs: lifeOf(request, svidLifeMs) })
  log.info('identity issued for a join token', { peer: spiffeId, address: call.address })
  return encodeIssued(issued, authority.trustDomain)
}

async function onIdToken(parts: ExchangeParts, { request, call, publicKey, token }: Shown) {
  const { authority, oidc, log } = parts
  if (!oidc) throw oidcRefusal('ISSUER_UNKNOWN', 'this server takes join tokens only: start it with --issuer')
  const { address } = call
  try {
    const { path, ttlMs, sessionEndsMs, ...why } = await oidc.admit(token, publicKey)
    const spiffeId = `spiffe://${authority.trustDomain}${path}`
    checkMayHave(parts, request, spiffeId)
    const issued = authority.issue({ csr: request.csr, spiffeId, ttlMs: lifeOf(request, ttlMs) })
    const serial = new X509Certificate(issued.chain[0] ?? new Uint8Array()).serialNumber
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

function onRenew(parts: ExchangeParts, csr: Uint8Array, call: PeerCall) {
  return renewFor(parts, csr, call.peer)
}

/** A new certificate for whoever proved to hold the present one; throws `IDENTITY`. */
export function renewFor(
  parts: Omit<ExchangeParts, 'joinTokens'>,
  csr: Uint8Array,
  holder: { readonly spiffeId: string; readonly certificate: Uint8Array; readonly address: string },
) {
  const { authority, log } = parts
  const { spiffeId, certificate, address } = holder
  const publicKey = keyOfCsr(csr)
  if (parseSpiffeId(spiffeId).trustDomain !== authority.trustDomain) {
    throw refused(`${spiffeId} is not of ${authority.trustDomain} (NO_RULE)`)
  }
  checkNotDenied(parts, spiffeId)
  const heldKey = spkiOf(new X509Certificate(certificate).publicKey)
  if (Buffer.from(heldKey).equals(publicKey)) throw refused('a renewal needs a new key (CSR_INVALID)')
  const ttlMs = parts.oidc?.renew(heldKey, publicKey) ?? svidLifeMs
  const issued = authority.issue({ csr, spiffeId, ttlMs })
  log.info('identity renewed', { peer: spiffeId, address })
  return encodeIssued(issued, authority.trustDomain)
}

function keyOfCsr(csr: Uint8Array): Uint8Array {
  if (csr.length > csrMaxBytes) throw refused(`the certificate request has ${csr.length} bytes (CSR_INVALID)`)
  return spkiOf(verifyCsr(csr).publicKey)
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
