import { NsmError } from '../base/errors.ts'
import { checkedEndpoint, fetchIssuerJson } from './oidc-fetch.ts'
import { recordOf } from './oidc-keys.ts'

/** Where a person logs in, and as which client. */
export interface LoginIssuer {
  readonly url: string
  readonly clientId: string
  readonly scopes: readonly string[]
}

/** The endpoints of an issuer that a login uses; an issuer need not have each of them. */
export interface LoginEndpoints {
  readonly authorization: string | undefined
  readonly token: string
  readonly device: string | undefined
}

/** Reads them from the issuer's discovery document [OIDC Discovery 4]; throws `UNREACHABLE`. */
export async function findEndpoints({ url }: LoginIssuer): Promise<LoginEndpoints> {
  const found = recordOf(await fetchIssuerJson(`${url.replace(/\/$/, '')}/.well-known/openid-configuration`))
  if (found['issuer'] !== url) throw loginFailed(`${url} calls itself another issuer`)
  const optional = (name: string) => (found[name] === undefined ? undefined : checkedEndpoint(found[name], url))
  return {
    authorization: optional('authorization_endpoint'),
    token: checkedEndpoint(found['token_endpoint'], url),
    device: optional('device_authorization_endpoint'),
  }
}

/** Ours: a person waits for it. */
const postTimeoutMs = 10_000

/** Sends a form and gives the JSON answer, an error document [RFC 6749 5.2] too; throws `UNREACHABLE`. */
export async function postForm(
  url: string,
  form: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<Readonly<Record<string, unknown>>> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(postTimeoutMs)])
  const sent = { method: 'POST', body: new URLSearchParams(form), redirect: 'error', signal: limit } as const
  const response = await fetch(url, sent).catch((cause: unknown) => {
    signal.throwIfAborted()
    throw new NsmError('UNREACHABLE', `${new URL(url).host} does not answer`, 'check the network', { cause })
  })
  return recordOf(await response.json().catch(() => undefined))
}

/** The ID token of a token answer; its signature is the server's to check, this machine only passes it on. */
export function idTokenOf(answer: Readonly<Record<string, unknown>>): string {
  const { id_token: idToken, error } = answer
  if (typeof idToken === 'string') return idToken
  throw loginFailed(`the issuer gave no ID token (${errorWord(error)})`)
}

/** [RFC 6749 5.2] The issuer's own word, when it is one. */
export function errorWord(error: unknown): string {
  return typeof error === 'string' && /^[a-z_]{1,64}$/.test(error) ? error : 'no reason given'
}

/** A login that did not come about; nothing of the issuer's answer but its word is in the message. */
export function loginFailed(why: string): NsmError {
  return new NsmError('IDENTITY', why, 'run `nsm login` again')
}
