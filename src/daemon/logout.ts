import { NsmError } from '../base/errors.ts'
import { writeFileAtomic } from '../base/files.ts'
import type { Settings } from '../base/settings.ts'
import { loadEnrolment } from '../identity/enrolment-file.ts'
import type { LogoutRequest, LogoutResult } from './login-protocol.ts'
import type { Logins } from './logins.ts'
import { enrolmentPath, lastDomainPath } from './paths.ts'
import { forgetStored, readLastDomain, readLoginDomains, readStoredDomains } from './stored-identity.ts'

/** An identity that rests on this machine. */
interface Stored {
  readonly trustDomain: string
  /** Where a person logged in for it. */
  readonly issuer: string | undefined
  readonly spiffeId: string | undefined
}

/** Where identities and logins rest. */
interface Place {
  readonly settings: Settings
  readonly logins: Logins
}

/** What a logout is about: of the identities it looked at, those it forgets. */
export interface Leaving {
  readonly stored: readonly Stored[]
  readonly chosen: readonly Stored[]
}

/** Finds those that are meant, and changes nothing. Throws `USAGE` when several could be meant, `NOT_FOUND` for a name of none. */
export async function findLeaving(place: Place, request: LogoutRequest): Promise<Leaving> {
  const stored = await storedIdentities(place, request)
  return { stored, chosen: chooseStored(stored, request) }
}

/**
 * Forgets identities with their keys, and takes their logins back at their issuers. When one other remains, it is the one
 * that is used from then on.
 */
export async function logOut({ settings, logins }: Place, { stored, chosen }: Leaving): Promise<LogoutResult> {
  const warnings: string[] = []
  for (const { trustDomain } of chosen) warnings.push(...(await logins.of(trustDomain).forget()))
  const last = await readLastDomain(settings)
  await forgetStored(
    settings,
    chosen.map(({ trustDomain }) => trustDomain),
  )
  const [next, ...others] = stored.filter((one) => !chosen.includes(one))
  const isLastGone = chosen.some(({ trustDomain }) => trustDomain === last)
  if (isLastGone && next && others.length === 0) {
    await writeFileAtomic(lastDomainPath(settings), `${next.trustDomain}\n`)
    warnings.push(`from now on this machine is ${nameOf(next)}`)
  }
  return { apiVersion: 'nsm/logout/v1', forgotten: chosen.map(nameOf), ...(warnings.length > 0 && { warnings }) }
}

/** All that rest where a name or all are wanted; else the one that was joined last, and those that somebody logged in to. */
async function storedIdentities(
  { settings, logins }: Place,
  { whose, all }: LogoutRequest,
): Promise<readonly Stored[]> {
  const last = await readLastDomain(settings)
  const others = all || whose !== undefined ? await readStoredDomains(settings) : await readLoginDomains(settings)
  const domains = new Set([...(last === undefined ? [] : [last]), ...others])
  const stored: Stored[] = []
  for (const trustDomain of domains) {
    const record = await logins.of(trustDomain).find()
    // One that cannot be read is forgotten too.
    const enrolment = await loadEnrolment(enrolmentPath(settings, trustDomain)).catch(() => undefined)
    stored.push({ trustDomain, issuer: record?.issuer, spiffeId: enrolment?.state.svid.spiffeId ?? record?.account })
  }
  return stored
}

function chooseStored(stored: readonly Stored[], { whose, all }: LogoutRequest): readonly Stored[] {
  if (all) return stored
  const known = stored.map(({ trustDomain, issuer }) => (issuer ? `${trustDomain} (${issuer})` : trustDomain))
  if (whose === undefined) {
    if (stored.length <= 1) return stored
    const next = 'name one, nsm logout NAME, or forget all: nsm logout --all'
    throw new NsmError('USAGE', `this machine has more than one identity: ${known.join(', ')}`, next)
  }
  const chosen = stored.filter(({ trustDomain, issuer }) => trustDomain === whose || isSameUrl(issuer, whose))
  if (chosen.length > 0) return chosen
  const next = known.length > 0 ? `this machine has: ${known.join(', ')}` : 'nobody is logged in on this machine'
  throw new NsmError('NOT_FOUND', `this machine has no identity of ${whose.slice(0, 200)}`, next)
}

/** Issuers are written with and without a slash at the end. */
function isSameUrl(issuer: string | undefined, text: string): boolean {
  return issuer?.replace(/\/$/, '') === text.replace(/\/$/, '')
}

function nameOf({ spiffeId, trustDomain }: Stored): string {
  return spiffeId ?? trustDomain
}
