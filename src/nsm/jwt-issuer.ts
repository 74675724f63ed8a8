import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { BelievingAuthority } from '../identity/authority-source.ts'
import { readCertificate } from '../identity/certificate.ts'
import { reasonOf, refusal } from '../identity/refusal.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import type { Admission } from './admission.ts'
import { policyRefusal } from './grpc-errors.ts'
import { RateLimit } from './rate-limit.ts'

/** What turns certificates into tokens. */
export interface JwtIssuerParts {
  readonly authority: Pick<BelievingAuthority, 'trustDomain' | 'issueJwt'>
  readonly admission: Pick<Admission, 'isExcluded' | 'isAdmitted'>
  readonly clock: Clock
  readonly audit?: Audit
}

/** Who proved to hold a certificate of ours, and asks for a token. */
export interface JwtAsker {
  readonly spiffeId: string
  readonly certificate: Uint8Array
  readonly address: string
}

/**
 * Gives JWT-SVIDs to whoever holds a certificate of the own domain, for its own SPIFFE ID only, and never beyond the end of that
 * certificate. Throws `USAGE` for audiences that are none, `REFUSED` and `IDENTITY` for who may have none, `CONFLICT` for too many.
 */
export type JwtIssuer = ReturnType<typeof createJwtIssuer>

/** Ours: an application that talks to dozens of services; no more than 0.3 % of a core for one identity. */
const perIdentity = { perSecond: 20, burst: 200 }
/** Ours: a token is for one service, or a few. */
const audiencesMax = 16
/** Ours: all of one token together; a SPIFFE ID has at most 2048. */
const audienceMaxBytes = 4_096

/** The issuer of one server. */
export function createJwtIssuer(parts: JwtIssuerParts) {
  const { authority, admission, clock, audit = noAudit } = parts
  const rate = new RateLimit(perIdentity)
  const issue = ({ spiffeId, certificate }: JwtAsker, asked: readonly string[]) => {
    rate.take(spiffeId, clock.monotonicMs())
    const audience = checkedAudience(asked)
    if (parseSpiffeId(spiffeId).trustDomain !== authority.trustDomain) {
      throw refusal('ID_INVALID', `${spiffeId} is not of ${authority.trustDomain}`)
    }
    if (admission.isExcluded(spiffeId)) throw policyRefusal('DENIED')
    if (!admission.isAdmitted(spiffeId)) throw policyRefusal('NOT_GRANTED')
    return { ...authority.issueJwt({ spiffeId, audience, untilMs: readCertificate(certificate).notAfterMs }), audience }
  }
  return (asker: JwtAsker, asked: readonly string[]) => {
    const { spiffeId: id, address } = asker
    try {
      const { spiffeId, token, issuedMs, expiresMs, audience } = issue(asker, asked)
      const expires = new Date(expiresMs).toISOString()
      audit.record({ event: 'jwt.ok', id, address, audience: audience.join(' '), expires })
      return { spiffeId, svid: token, issued: timestampFromMs(issuedMs), expires: timestampFromMs(expiresMs) }
    } catch (error) {
      audit.record({ event: 'jwt.deny', id, address, reason: reasonOf(error) })
      throw error
    }
  }
}

/** Each once. */
function checkedAudience(asked: readonly string[]): readonly string[] {
  const audience = [...new Set(asked)]
  const bytes = audience.reduce((sum, one) => sum + Buffer.byteLength(one), 0)
  if (audience.length > 0 && audience.length <= audiencesMax && bytes <= audienceMaxBytes && !audience.includes('')) {
    return audience
  }
  const what = `a JWT-SVID is for 1 to ${audiencesMax} audiences of ${audienceMaxBytes} bytes in all, none of them empty`
  throw new NsmError('USAGE', what, 'name whom the token is for')
}
