import type { Clock } from '../base/clock.ts'
import { type Claims, fillTemplate, unmatchedClaims } from './oidc-claims.ts'
import { type FetchJson, fetchIssuerJson } from './oidc-fetch.ts'
import type { OidcIssuer } from './oidc-issuers.ts'
import { createIssuerKeys, type IssuerKeys } from './oidc-keys.ts'
import { oidcRefusal } from './oidc-refusal.ts'
import type { OidcSessions } from './oidc-sessions.ts'
import { verifyIdToken } from './oidc-verify.ts'
import { secretHash } from './secret-hash.ts'

/** Who the bearer of a token is, and for how long. */
export interface Admitted {
  /** Path of the SPIFFE ID. */
  readonly path: string
  readonly ttlMs: number
  readonly issuer: string
  readonly rule: string
  readonly sessionEndsMs: number
  /** SHA-256 of `sub` in base64url: tells bearers apart in the log without naming them. */
  readonly subjectHash: string
}

/** Turns ID tokens of known issuers into identities. */
export interface OidcAdmission {
  readonly issuers: readonly OidcIssuer[]
  /** Other issuers and rules take the place of these; the fetched keys of an issuer that stays are kept. */
  setIssuers(issuers: readonly OidcIssuer[]): void
  /** Verifies, matches, and binds the token to the key of the request; throws with an `OidcReason`. */
  admit(token: string, publicKey: Uint8Array): Promise<Admitted>
  /**
   * How long a renewal may live: undefined when no token brought this key, so that nothing of this limits it. The session
   * goes on with the new key. Throws `IDENTITY` (SESSION_ENDED) or `REFUSED` (NO_RULE).
   */
  renew(publicKey: Uint8Array, newKey: Uint8Array): number | undefined
}

/** Ours: tokens that are checked at the same time, each may wait for an issuer; beyond it callers are sent away. */
const checksMax = 64

/** Admission by the rules of the issuers; sessions belong to the caller. */
export function createOidcAdmission(parts: {
  readonly issuers: readonly OidcIssuer[]
  readonly sessions: OidcSessions
  readonly clock: Clock
  readonly fetchJson?: FetchJson
}): OidcAdmission {
  const { sessions, clock, fetchJson = fetchIssuerJson } = parts
  const believe = (issuer: OidcIssuer) => {
    const known = believed.find((one) => one.issuer.url === issuer.url)
    return { issuer, keys: known?.keys ?? createIssuerKeys({ url: issuer.url, fetchJson, clock }) }
  }
  let believed: readonly { readonly issuer: OidcIssuer; readonly keys: IssuerKeys }[] = []
  believed = parts.issuers.map(believe)
  let checks = 0
  return {
    get issuers() {
      return believed.map(({ issuer }) => issuer)
    },
    setIssuers(issuers) {
      believed = issuers.map(believe)
    },
    async admit(token, publicKey) {
      if (checks >= checksMax) throw oidcRefusal('ISSUER_UNREACHABLE', 'too many tokens are being checked: try again')
      checks++
      try {
        const nowMs = clock.wallMs()
        const { issuer, claims, expiresMs } = await verifyIdToken(token, { issuers: believed, nowMs })
        const admitted = applyRules(issuer, claims, nowMs)
        sessions.use(token, { publicKey, expiresMs, nowMs })
        sessions.begin(publicKey, { issuer: issuer.name, rule: admitted.rule, endsMs: admitted.sessionEndsMs })
        return admitted
      } finally {
        checks--
      }
    },
    renew(publicKey, newKey) {
      const nowMs = clock.wallMs()
      const session = sessions.find(publicKey, nowMs)
      if (!session) return undefined
      if (nowMs >= session.endsMs) throw oidcRefusal('SESSION_ENDED', 'the session is over: show a new token')
      const { issuer } = believed.find((one) => one.issuer.name === session.issuer) ?? {}
      const rule = issuer?.rules.find(({ name }) => name === session.rule)
      if (!rule) throw oidcRefusal('NO_RULE', 'the rule that admitted this identity is gone from the server')
      sessions.begin(newKey, session)
      return Math.min(rule.ttlMs, session.endsMs - nowMs)
    },
  }
}

function applyRules(issuer: OidcIssuer, claims: Claims, nowMs: number): Admitted {
  const rule = issuer.rules.find(({ match }) => unmatchedClaims(match, claims).length === 0)
  if (!rule) throw noRule(issuer, claims)
  const filled = fillTemplate(rule.id, claims)
  if ('bad' in filled) throw oidcRefusal('NO_RULE', `the claim ${filled.bad} of the token cannot be part of an ID`)
  return {
    path: filled.path,
    ttlMs: Math.min(rule.ttlMs, rule.sessionMs),
    issuer: issuer.name,
    rule: rule.name,
    sessionEndsMs: nowMs + rule.sessionMs,
    subjectHash: secretHash(String(claims['sub'])),
  }
}

/** Names the claims that the nearest rule wants, never a value: the caller may be anybody of the issuer. */
function noRule({ name, rules }: OidcIssuer, claims: Claims) {
  const missed = rules.map((rule) => unmatchedClaims(rule.match, claims))
  const nearest = missed.reduce((best, next) => (next.length < best.length ? next : best))
  return oidcRefusal('NO_RULE', `no rule of ${name} admits this token; the nearest wants other ${nearest.join(', ')}`)
}
