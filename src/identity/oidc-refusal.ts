import { type ErrorCode, NsmError } from '../base/errors.ts'

/** Why a token of an issuer gave no identity; stable, the last word of the message. [identity 2.7] */
export type OidcReason =
  | 'TOKEN_INVALID'
  | 'TOKEN_EXPIRED'
  | 'TOKEN_NOT_YET_VALID'
  | 'TOKEN_TOO_OLD'
  | 'TOKEN_AUDIENCE'
  | 'TOKEN_SIGNATURE'
  | 'TOKEN_REUSED'
  | 'ISSUER_UNKNOWN'
  | 'ISSUER_UNREACHABLE'
  | 'NO_RULE'
  | 'SESSION_ENDED'

/**
 * An error whose message says what happened and what to change, and ends in the reason. Only code and message reach the
 * other side, so the advice is in the message. Neither the token nor a value of it is ever part of it.
 */
export function oidcRefusal(reason: OidcReason, why: string, cause?: unknown): NsmError {
  return new NsmError(codes[reason] ?? 'IDENTITY', `${why} (${reason})`, 'see docs/identity.md for what to change', {
    cause,
  })
}

const codes: Partial<Record<OidcReason, ErrorCode>> = {
  ISSUER_UNREACHABLE: 'UNREACHABLE',
  NO_RULE: 'REFUSED',
  TOKEN_REUSED: 'REFUSED',
}
