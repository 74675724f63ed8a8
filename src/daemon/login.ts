import { keepingClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { joinLine, parseJoinString } from '../identity/join-string.ts'
import { loginByBrowser } from '../identity/oidc-code-flow.ts'
import { type DevicePrompt, loginByDevice } from '../identity/oidc-device-flow.ts'
import type { LoginIssuer } from '../identity/oidc-provider.ts'
import { fetchConfiguration } from '../nsm/exchange.ts'

/** How a person is asked. */
export interface LoginAround {
  readonly method: 'browser' | 'device'
  /** The page to open; with a code when it may be opened on any device. */
  readonly show: (prompt: Pick<DevicePrompt, 'page'> & Partial<DevicePrompt>) => void
  readonly signal: AbortSignal
}

/**
 * Has a person log in at the issuer of the server that a join string names, and gives the ID token. Throws `IDENTITY`,
 * `NOT_FOUND` when the server knows no issuer for people, `UNREACHABLE`.
 */
export async function obtainIdToken(joinString: string, { method, show, signal }: LoginAround): Promise<string> {
  const clock = keepingClock
  const issuer = await findIssuer(joinString, signal)
  return method === 'device'
    ? loginByDevice(issuer, { show, clock, signal })
    : loginByBrowser(issuer, { show: (page) => show({ page }), signal })
}

async function findIssuer(joinString: string, signal: AbortSignal): Promise<LoginIssuer> {
  const join = parseJoinString(joinLine(joinString))
  const { issuers } = await fetchConfiguration({ join, clock: keepingClock }, signal)
  const found = issuers.find(({ clientId }) => clientId !== '')
  if (found) return { url: found.issuerUrl, clientId: found.clientId, scopes: found.scopes }
  const next = 'give an issuer of the server a client_id: docs/identity.md'
  throw new NsmError('NOT_FOUND', 'the server has no issuer at which people log in', next)
}
