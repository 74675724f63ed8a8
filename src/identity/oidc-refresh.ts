import { NsmError } from '../base/errors.ts'
import { errorWord, findEndpoints, type LoginIssuer, type LoginTokens, postForm, tokensOf } from './oidc-provider.ts'

/** Fresh tokens, or the issuer's word for never again with this refresh token. */
export type Refreshed = { readonly tokens: LoginTokens } | { readonly refused: string }

/**
 * A fresh ID token for a refresh token [RFC 6749 6] [OIDC Core 12]. Most issuers take a refresh token once [RFC 9700 4.14.2]:
 * what the answer holds counts from then on, so this has no way to be given up. Throws `UNREACHABLE` when asking later helps.
 */
export async function refreshLogin(issuer: LoginIssuer, refreshToken: string): Promise<Refreshed> {
  const { token } = await findEndpoints(issuer)
  const form = { grant_type: 'refresh_token', refresh_token: refreshToken, client_id: issuer.clientId }
  const ask = () => postForm(token, form, new AbortController().signal)
  // The answer that got lost may hold the token that counts. Issuers with a grace for that give it once more, if asked at once
  // [RFC 9700 4.14.2]; one that takes it for theft ends a login that could not be renewed any more anyway.
  const answer = await ask().catch(ask)
  if (typeof answer['id_token'] === 'string') return { tokens: tokensOf(answer) }
  if (typeof answer['access_token'] === 'string') return { refused: 'no_id_token' }
  const word = errorWord(answer['error'])
  if (finalWords.has(word)) return { refused: word }
  throw new NsmError('UNREACHABLE', `${issuer.url} gives no fresh token (${word})`, 'it is asked again')
}

/** Tells the issuer that the login is over [RFC 7009]; one without that service is not told. Throws `UNREACHABLE`. */
export async function revokeLogin(issuer: LoginIssuer, refreshToken: string): Promise<void> {
  const { revocation } = await findEndpoints(issuer)
  if (revocation === undefined) return
  const form = { token: refreshToken, token_type_hint: 'refresh_token', client_id: issuer.clientId }
  await postForm(revocation, form, new AbortController().signal)
}

/** [RFC 6749 5.2] What no second question changes. */
const finalWords: ReadonlySet<string> = new Set([
  'invalid_request',
  'invalid_client',
  'invalid_grant',
  'unauthorized_client',
  'unsupported_grant_type',
  'invalid_scope',
])
