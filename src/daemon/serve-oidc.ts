import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { createOidcAdmission, type OidcAdmission } from '../identity/oidc-admission.ts'
import { issuerOfFlags, type OidcIssuer, parseIssuers } from '../identity/oidc-issuers.ts'
import { openOidcSessions } from '../identity/oidc-sessions.ts'
import type { Around } from './serve-home.ts'
import type { ServeSettings } from './serve-settings.ts'

/**
 * The admission by ID tokens of a first site. It is there without issuers too: what an issuer admitted before still ends
 * when its rule is gone. Throws `USAGE` for issuers that cannot be meant.
 */
export function openOidc(
  settings: Pick<ServeSettings, 'stateDir' | 'issuers'>,
  parts: Pick<Around, 'undo'> & { readonly trustDomain: string; readonly clock: Clock },
): OidcAdmission {
  const issuers = issuersOf(settings, parts.trustDomain)
  const sessions = openOidcSessions(join(settings.stateDir, 'oidc.db'))
  parts.undo.push(async () => sessions.close())
  return createOidcAdmission({ issuers, sessions, clock: parts.clock })
}

/** Only the first site of a network admits by ID tokens, since it holds the authority; throws `USAGE`. */
export function refuseIssuers({ issuers }: Pick<ServeSettings, 'issuers'>): void {
  if (issuers === undefined) return
  const next =
    'give --issuer, --allow and --issuers to the first server of the network; this one passes tokens on to it'
  throw new NsmError('USAGE', 'a further site has no issuers of its own', next)
}

function issuersOf({ issuers }: Pick<ServeSettings, 'issuers'>, trustDomain: string): readonly OidcIssuer[] {
  if (issuers === undefined) return []
  return 'fileText' in issuers
    ? parseIssuers(issuers.fileText, trustDomain)
    : [issuerOfFlags(issuers.url, issuers.allowed, trustDomain)]
}
