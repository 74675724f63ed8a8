import { NsmError, toNsmError } from '../base/errors.ts'

/** Why an identity, certificate, request or token was refused; stable, sent to peers and written to the audit log. */
export type RefusalReason =
  | 'DER_INVALID'
  | 'ID_INVALID'
  | 'CERTIFICATE_INVALID'
  | 'CSR_INVALID'
  | 'KEY_MISMATCH'
  | 'SVID_NO_ID'
  | 'SVID_IS_CA'
  | 'SVID_UNKNOWN_DOMAIN'
  | 'SVID_WRONG_DOMAIN'
  | 'SVID_UNTRUSTED'
  | 'SVID_EXPIRED'
  | 'CLOCK_SKEW'
  | 'SVID_UNEXPECTED'
  | 'PIN_MISMATCH'
  | 'BUNDLE_INVALID'
  | 'BUNDLE_OLD'
  | 'TOKEN_INVALID'
  | 'STATE_INVALID'

/** An `IDENTITY` error that carries a stable reason; the message never holds a token or a key. */
export function refusal(
  reason: RefusalReason,
  message: string,
  options: { readonly next?: string; readonly cause?: unknown } = {},
): NsmError {
  const next = options.next ?? defaultNext
  return new NsmError('IDENTITY', message, next, { cause: new Refusal(reason, options.cause) })
}

/** The stable reason of an `IDENTITY` error made here; undefined for every other value. */
export function refusalReason(error: unknown): RefusalReason | undefined {
  return error instanceof NsmError && error.cause instanceof Refusal ? error.cause.reason : undefined
}

/**
 * The stable reason of any failure, for an auditor: that of a refusal, the one in brackets at the end of a text of the
 * exchange, else the code of the error.
 */
export function reasonOf(error: unknown): string {
  const { code, message } = toNsmError(error)
  return refusalReason(error) ?? /\(([A-Z][A-Z_]{2,40})\)$/.exec(message)?.[1] ?? code
}

const defaultNext = 'check that both sides belong to the same trust domain; `nsm status` shows the identity in use'

class Refusal {
  readonly reason: RefusalReason
  readonly cause: unknown

  constructor(reason: RefusalReason, cause: unknown) {
    this.reason = reason
    this.cause = cause
  }
}
