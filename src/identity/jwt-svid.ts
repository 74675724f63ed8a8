import { createPublicKey, sign } from 'node:crypto'
import { type JsonObject, readJsonObject } from '../base/json.ts'
import type { JwtBundles } from './jwt-bundles.ts'
import type { JwtSigner } from './jwt-key.ts'
import { refusal } from './refusal.ts'
import { parseSpiffeId } from './spiffe-id.ts'

/** A token that says who somebody is to an audience. [SPIFFE JWT-SVID] */
export interface JwtSvid {
  readonly spiffeId: string
  /** In compact form. */
  readonly token: string
  /** Wall milliseconds. */
  readonly issuedMs: number
  readonly expiresMs: number
}

/** As SPIRE has it: whoever takes a token has nothing to revoke it by. */
export const jwtSvidLifeMs = 300_000

/** Signs a JWT-SVID that ends at `untilMs`, or five minutes from now when that is sooner. */
export function signJwtSvid(wanted: {
  readonly signer: JwtSigner
  readonly spiffeId: string
  readonly audience: readonly string[]
  readonly nowMs: number
  readonly untilMs: number
}): JwtSvid {
  const { signer, spiffeId, audience, nowMs, untilMs } = wanted
  const { kid } = signer.published
  const [iat, exp] = [nowMs, Math.min(nowMs + jwtSvidLifeMs, untilMs)].map((ms) => Math.floor(ms / 1_000))
  const parts = [
    { alg: 'ES256', kid, typ: 'JWT' },
    { aud: audience, exp, iat, sub: spiffeId },
  ]
  const body = parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  const signature = sign('sha256', Buffer.from(body), { key: signer.privateKey, dsaEncoding: 'ieee-p1363' })
  const token = `${body}.${signature.toString('base64url')}`
  return { spiffeId, token, issuedMs: (iat ?? 0) * 1_000, expiresMs: (exp ?? 0) * 1_000 }
}

/** [SPIFFE JWT-SVID 2.1] */
const algorithms = ['RS256', 'RS384', 'RS512', 'ES256', 'ES384', 'ES512', 'PS256', 'PS384', 'PS512']
const types = [undefined, 'JWT', 'JOSE']
/** [SPIFFE JWT-SVID 2] There is no other header. */
const headers = ['alg', 'kid', 'typ']
/** [security C5] Clocks of two machines may differ by so much. */
const leewayMs = 60_000
/** Ours: ten times a token with the longest SPIFFE ID. */
const tokenMaxCharacters = 16_384

/**
 * Whom a JWT-SVID names, and all it says, once it is believed: signed with a key of its own domain's bundle, for this audience,
 * not expired. Throws `IDENTITY` (`TOKEN_INVALID`, `SVID_UNKNOWN_DOMAIN`, `SVID_EXPIRED`), never quoting the token.
 */
export async function verifyJwtSvid(
  token: string,
  expected: { readonly audience: string; readonly bundles: JwtBundles; readonly nowMs: number },
): Promise<{ readonly spiffeId: string; readonly claims: JsonObject }> {
  const { audience, bundles, nowMs } = expected
  const { header, claims } = readUnverified(token)
  const { kid, alg, typ } = header
  const other = Object.keys(header).find((name) => !headers.includes(name))
  if (other !== undefined) throw invalid(`it has a header ${JSON.stringify(other.slice(0, 20))}`)
  if (!types.some((one) => one === typ)) throw invalid('it is of another type')
  if (!algorithms.some((one) => one === alg)) throw invalid('its algorithm is none of JWT-SVIDs')
  if (typeof kid !== 'string' || kid === '') throw invalid('it names no key')
  const spiffeId = subjectOf(claims)
  const key = keyOf(spiffeId, kid, bundles)
  // Loaded with the first token: most processes check none.
  const { jwtVerify, errors } = await import('jose')
  const wanted = { algorithms, audience, requiredClaims: ['exp'], clockTolerance: leewayMs / 1_000 }
  await jwtVerify(token, key, { ...wanted, currentDate: new Date(nowMs) }).catch((error: unknown) => {
    // The cause is dropped: it may quote the token.
    if (error instanceof errors.JWTExpired) throw refusal('SVID_EXPIRED', 'the JWT-SVID is expired', { next: refetch })
    const claim = error instanceof errors.JWTClaimValidationFailed ? error.claim : undefined
    if (claim === 'aud') throw invalid('it is for another audience')
    throw invalid(claim === undefined ? 'its signature is not of the key it names' : `"${claim}" is missing or wrong`)
  })
  return { spiffeId, claims }
}

const refetch = 'ask the workload for a fresh one, for the audience that this service expects'

function readUnverified(token: string): { readonly header: JsonObject; readonly claims: JsonObject } {
  const parts = token.length <= tokenMaxCharacters ? token.split('.') : []
  if (parts.length !== 3) throw invalid('it is no signed JWT in compact form')
  const [header, claims] = parts.map(readPart)
  if (!header || !claims) throw invalid('it is no signed JWT in compact form')
  return { header, claims }
}

function readPart(part: string): JsonObject | undefined {
  return readJsonObject(Buffer.from(part, 'base64url').toString())
}

function subjectOf({ sub }: JsonObject): string {
  try {
    if (typeof sub === 'string' && parseSpiffeId(sub).path !== '') return sub
  } catch {
    // Said below.
  }
  throw invalid('its subject is no SPIFFE ID of a workload')
}

/** Of the domain of the subject only: no domain vouches for another one's workloads. */
function keyOf(spiffeId: string, kid: string, bundles: JwtBundles) {
  const { trustDomain } = parseSpiffeId(spiffeId)
  const keys = bundles.get(trustDomain)
  if (!keys) throw refusal('SVID_UNKNOWN_DOMAIN', `there is no bundle of ${trustDomain}`)
  const found = keys.find((key) => key.kid === kid)
  if (found) return createPublicKey({ key: found.jwk, format: 'jwk' })
  throw invalid(`it is signed with a key that ${trustDomain} does not publish`)
}

function invalid(why: string) {
  return refusal('TOKEN_INVALID', `the JWT-SVID is refused: ${why}`, { next: refetch })
}
