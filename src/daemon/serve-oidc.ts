import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { readSettingsFile } from '../base/settings-file.ts'
import { createOidcAdmission, type OidcAdmission } from '../identity/oidc-admission.ts'
import { issuerOfFlags, type OidcIssuer } from '../identity/oidc-issuers.ts'
import { openOidcSessions } from '../identity/oidc-sessions.ts'
import { fileState, followFile } from './followed-file.ts'
import type { Around } from './serve-home.ts'
import type { ServeSettings } from './serve-settings.ts'

/**
 * The admission by ID tokens of a first site. It is there without issuers too: what an issuer admitted before still ends
 * when its rule is gone, and the policy may name some. A file of issuers is followed; a bad one changes nothing. Throws
 * `USAGE` for issuers that cannot be meant.
 */
export async function openOidc(
  settings: Pick<ServeSettings, 'stateDir' | 'issuers'>,
  parts: Around & { readonly trustDomain: string; readonly clock: Clock },
): Promise<{ readonly oidc: OidcAdmission; reload(): Promise<void> }> {
  const { trustDomain, clock, undo } = parts
  const path = settings.issuers && 'path' in settings.issuers ? settings.issuers.path : undefined
  const since = path === undefined ? '' : await fileState(path)
  const issuers = await issuersOf(settings, trustDomain)
  const sessions = openOidcSessions(join(settings.stateDir, 'oidc.db'))
  undo.push(async () => sessions.close())
  const oidc = createOidcAdmission({ issuers, sessions, clock })
  if (path === undefined) return { oidc, reload: async () => {} }
  const followed = followFile(path, { since, clock, load: () => readAgain(settings, oidc, parts) })
  undo.push(async () => followed.close())
  return { oidc, reload: followed.reload }
}

async function readAgain(
  settings: Pick<ServeSettings, 'issuers'>,
  oidc: OidcAdmission,
  { trustDomain, log, audit }: Around & { readonly trustDomain: string },
): Promise<void> {
  try {
    oidc.setIssuers(await issuersOf(settings, trustDomain))
    log.info('the issuers were read again', { issuers: oidc.issuers.length })
    audit.record({ event: 'policy.reload', issuers: oidc.issuers.length })
  } catch (error) {
    const { message } = toNsmError(error)
    log.error('the issuers cannot be used, those before stay', { error: message })
    audit.record({ event: 'policy.error', reason: message })
  }
}

/** Only the first site of a network admits by ID tokens, since it holds the authority, and its policy is that of all; throws `USAGE`. */
export function refuseIssuers({ issuers, policyPath }: Pick<ServeSettings, 'issuers' | 'policyPath'>): void {
  if (policyPath !== undefined) {
    throw new NsmError(
      'USAGE',
      'a further site has the policy of the first one',
      'give --policy to the first server of the network',
    )
  }
  if (issuers === undefined) return
  const next =
    'give --issuer, --allow and --issuers to the first server of the network; this one passes tokens on to it'
  throw new NsmError('USAGE', 'a further site has no issuers of its own', next)
}

async function issuersOf(
  { issuers }: Pick<ServeSettings, 'issuers'>,
  trustDomain: string,
): Promise<readonly OidcIssuer[]> {
  if (issuers === undefined) return []
  if (!('path' in issuers)) return [issuerOfFlags(issuers.url, issuers.allowed, trustDomain)]
  const text = await readSettingsFile(issuers.path)
  // With the first file: a server without one starts 25 ms sooner without YAML.
  const { parseIssuers } = await import('../identity/issuers-file.ts')
  return parseIssuers(text, issuers.path, trustDomain)
}
