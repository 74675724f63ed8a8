import { keepingClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { joinLine, parseJoinString } from '../identity/join-string.ts'
import type { DevicePrompt } from '../identity/oidc-device-flow.ts'
import type { LoginIssuer, LoginTokens } from '../identity/oidc-provider.ts'
import { fetchConfiguration } from '../nsm/exchange.ts'
import type { LoginRequest } from './login-protocol.ts'

/** How a person is asked. */
export interface LoginAround {
  readonly method: 'browser' | 'device'
  /** True: the login is to outlast its session. */
  readonly keep: boolean
  /** The page to open; with a code when it may be opened on any device. */
  readonly show: (prompt: Pick<DevicePrompt, 'page'> & Partial<DevicePrompt>) => void
  readonly signal: AbortSignal
}

/** What a login gave, and where. */
export type Obtained = Pick<LoginRequest, 'idToken' | 'issuer' | 'clientId' | 'refreshToken'>

/**
 * Has a person log in at the issuer of the server that a join string names, and gives the tokens. Throws `IDENTITY`,
 * `NOT_FOUND` when the server knows no issuer for people, `UNREACHABLE`.
 */
export async function obtainLogin(joinString: string, around: LoginAround): Promise<Obtained> {
  const issuer = { ...(await findIssuer(joinString, around.signal)), keep: around.keep }
  const { idToken, refreshToken } = await askPerson(issuer, around)
  const { url, clientId } = issuer
  return { idToken, issuer: url, clientId, ...(refreshToken === undefined ? {} : { refreshToken }) }
}

async function findIssuer(joinString: string, signal: AbortSignal): Promise<LoginIssuer> {
  const join = parseJoinString(joinLine(joinString))
  const { issuers } = await fetchConfiguration({ join, clock: keepingClock }, signal)
  const found = issuers.find(({ clientId }) => clientId !== '')
  if (found) return { url: found.issuerUrl, clientId: found.clientId, scopes: found.scopes }
  const next = 'give an issuer of the server a client_id: docs/identity.md'
  throw new NsmError('NOT_FOUND', 'the server has no issuer at which people log in', next)
}

/** Each way is loaded when a person is asked by it: a browser's answer needs an HTTP server, which the start does without. */
async function askPerson(issuer: LoginIssuer, { method, show, signal }: LoginAround): Promise<LoginTokens> {
  if (method === 'device') {
    const { loginByDevice } = await import('../identity/oidc-device-flow.ts')
    return loginByDevice(issuer, { show, clock: keepingClock, signal })
  }
  const { loginByBrowser } = await import('../identity/oidc-code-flow.ts')
  return loginByBrowser(issuer, { show: (page) => show({ page }), signal })
}
