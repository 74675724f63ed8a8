import { NsmError } from '../base/errors.ts'
import { readJsonObject } from '../base/json.ts'
import { fetchDocument } from './fetch-document.ts'
import { checkedEndpoint, fetchIssuerJson } from './oidc-fetch.ts'
import { recordOf } from './oidc-keys.ts'

/** Where a person logs in, and as which client. */
export interface LoginIssuer {
  readonly url: string
  readonly clientId: string
  readonly scopes: readonly string[]
  /** True: a refresh token is asked for where the issuer offers one. */
  readonly keep?: boolean
}

/** What a login gives. */
export interface LoginTokens {
  readonly idToken: string
  /** Gives a fresh ID token once, and then the refresh token that follows it. */
  readonly refreshToken: string | undefined
}

/** The endpoints of an issuer that a login uses; an issuer need not have each of them. */
export interface LoginEndpoints {
  readonly authorization: string | undefined
  readonly token: string
  readonly device: string | undefined
  readonly revocation: string | undefined
  /** The scope parameter of a login. */
  readonly scope: string
  /** [OIDC Core 11] True when the scope asks for a refresh token: a page then has to ask the person for consent. */
  readonly isOffline: boolean
}

/** Reads them from the issuer's discovery document [OIDC Discovery 4]; throws `UNREACHABLE`. */
export async function findEndpoints({ url, scopes, keep = false }: LoginIssuer): Promise<LoginEndpoints> {
  const found = recordOf(await fetchIssuerJson(`${url.replace(/\/$/, '')}/.well-known/openid-configuration`))
  if (found['issuer'] !== url) throw loginFailed(`${url} calls itself another issuer`)
  const optional = (name: string) => (found[name] === undefined ? undefined : checkedEndpoint(found[name], url))
  const offered = found['scopes_supported']
  const isOffered = keep && Array.isArray(offered) && offered.includes(offlineScope)
  const asked = [...new Set([...scopes, ...(isOffered ? [offlineScope] : [])])]
  return {
    authorization: optional('authorization_endpoint'),
    token: checkedEndpoint(found['token_endpoint'], url),
    device: optional('device_authorization_endpoint'),
    revocation: optional('revocation_endpoint'),
    scope: asked.join(' '),
    isOffline: asked.includes(offlineScope),
  }
}

/** [OIDC Core 11] */
const offlineScope = 'offline_access'

/** Sends a form and gives the JSON answer, an error document [RFC 6749 5.2] too; throws `UNREACHABLE`. */
export async function postForm(
  url: string,
  form: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<Readonly<Record<string, unknown>>> {
  const answer = await fetchDocument(url, { form, signal, next: 'check the network' }).catch((error: unknown) => {
    signal.throwIfAborted()
    throw error
  })
  return readJsonObject(answer.toString('utf8')) ?? {}
}

/** The tokens of an answer; the ID token's signature is the server's to check, this machine only passes it on. */
export function tokensOf(answer: Readonly<Record<string, unknown>>): LoginTokens {
  const { id_token: idToken, refresh_token: refreshToken, error } = answer
  if (typeof idToken !== 'string') throw loginFailed(`the issuer gave no ID token (${errorWord(error)})`)
  return { idToken, refreshToken: typeof refreshToken === 'string' ? refreshToken : undefined }
}

/** [RFC 6749 5.2] The issuer's own word, when it is one. */
export function errorWord(error: unknown): string {
  return typeof error === 'string' && /^[a-z_]{1,64}$/.test(error) ? error : 'no reason given'
}

/** A login that did not come about; nothing of the issuer's answer but its word is in the message. */
export function loginFailed(why: string): NsmError {
  return new NsmError('IDENTITY', why, 'run `nsm login` again')
}
