import type { JWTPayload } from 'jose'
import { toNsmError } from '../base/errors.ts'
import type { OidcIssuer } from './oidc-issuers.ts'
import type { IssuerKeys } from './oidc-keys.ts'
import { oidcRefusal } from './oidc-refusal.ts'
import { idTokenMaxCharacters } from './oidc-token.ts'

/** An issuer with its keys. */
export interface BelievedIssuer {
  readonly issuer: OidcIssuer
  readonly keys: IssuerKeys
}

/** What a token says, once it is believed. */
export interface VerifiedToken {
  readonly issuer: OidcIssuer
  readonly claims: JWTPayload
  /** Milliseconds since the Unix epoch, the leeway included: from then on it is not taken any more. */
  readonly expiresMs: number
}

/** [security C5] Clocks of issuer and server may differ by so much. */
const leewayMs = 60_000

/**
 * Checks an ID token as [OIDC Core 3.1.3.7] and [RFC 8725] say: `iss` picks one of the known issuers, whose own list of
 * algorithms and keys counts; what the header names beside `alg` and `kid` is ignored. Throws with an `OidcReason`.
 */
export async function verifyIdToken(
  token: string,
  { issuers, nowMs }: { readonly issuers: readonly BelievedIssuer[]; readonly nowMs: number },
): Promise<VerifiedToken> {
  // Loaded with the first token: a server without issuers does without it.
  const jose = await import('jose')
  const { iss, kid, typ } = readUnverified(token, jose)
  const believed = issuers.find(({ issuer }) => issuer.url === iss)
  if (!believed) throw oidcRefusal('ISSUER_UNKNOWN', 'the server takes no tokens of this issuer: nsm serve --issuer')
  if (!/^(JWT|JOSE)$/i.test(typ)) throw oidcRefusal('TOKEN_INVALID', 'this is another kind of token than an ID token')
  const { issuer, keys } = believed
  const keySet = jose.createLocalJWKSet(await keys.keySet(kid))
  try {
    const { payload } = await jose.jwtVerify(token, keySet, {
      issuer: issuer.url,
      audience: issuer.audience,
      algorithms: [...issuer.algorithms],
      clockTolerance: leewayMs / 1000,
      currentDate: new Date(nowMs),
      maxTokenAge: issuer.tokenAgeMaxMs / 1000,
      requiredClaims: ['sub', 'exp', 'iat'],
    })
    checkAuthorizedParty(payload, issuer)
    return { issuer, claims: payload, expiresMs: (payload.exp ?? 0) * 1000 + leewayMs }
  } catch (error) {
    throw explain(error, issuer, jose)
  }
}

type Jose = typeof import('jose')

function readUnverified(
  token: string,
  { decodeProtectedHeader, decodeJwt }: Jose,
): {
  readonly iss: string | undefined
  readonly kid: string | undefined
  readonly typ: string
} {
  try {
    if (token.length > idTokenMaxCharacters) throw new RangeError('too long')
    const { kid, typ = 'JWT' } = decodeProtectedHeader(token)
    return { iss: decodeJwt(token).iss, kid, typ }
  } catch {
    // The cause is dropped: it may quote the token.
    throw oidcRefusal('TOKEN_INVALID', `this is no signed JWT of at most ${idTokenMaxCharacters} characters`)
  }
}

/** [OIDC Core 3.1.3.7 3-5] A token for several is for us only when it was given to us. */
function checkAuthorizedParty({ aud, azp }: JWTPayload, { audience }: OidcIssuer): void {
  if (!Array.isArray(aud) || aud.length < 2 || azp === audience) return
  throw oidcRefusal('TOKEN_AUDIENCE', `the token is for several audiences: ask for one for ${audience} only`)
}

function explain(error: unknown, issuer: OidcIssuer, { errors }: Jose): unknown {
  const { name } = issuer
  if (error instanceof errors.JWTExpired) {
    return error.claim === 'iat'
      ? oidcRefusal('TOKEN_TOO_OLD', `the token is older than ${name} allows: fetch a new one and use it at once`)
      : oidcRefusal('TOKEN_EXPIRED', 'the token is expired: fetch a new one, or set the clock')
  }
  if (error instanceof errors.JWTClaimValidationFailed) return explainClaim(error, issuer)
  if (error instanceof errors.JOSEAlgNotAllowed) {
    return oidcRefusal('TOKEN_SIGNATURE', `the token is not signed with one of ${issuer.algorithms.join(', ')}`)
  }
  if (error instanceof errors.JOSEError) {
    return oidcRefusal('TOKEN_SIGNATURE', `the signature cannot be checked with the keys that ${name} publishes`)
  }
  return toNsmError(error)
}

function explainClaim(
  { claim, reason }: { readonly claim: string; readonly reason: string },
  { audience }: OidcIssuer,
): unknown {
  if (claim === 'aud')
    return oidcRefusal('TOKEN_AUDIENCE', `ask the platform for a token with the audience ${audience}`)
  if (reason === 'check_failed' && (claim === 'nbf' || claim === 'iat')) {
    return oidcRefusal('TOKEN_NOT_YET_VALID', 'the token is of the future: set the clock of the server')
  }
  return oidcRefusal('TOKEN_INVALID', 'the token lacks one of the claims sub, exp, iat, or has it in another form')
}
