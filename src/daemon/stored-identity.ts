import { readdir, rm } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { readPrivateFile, removeUnfinished } from '../base/files.ts'
import type { Settings } from '../base/settings.ts'
import { loadEnrolment } from '../identity/enrolment-file.ts'
import type { Svid } from '../identity/source.ts'
import { enrolmentPath, lastDomainPath, loginPath } from './paths.ts'

/** The trust domain that was joined last; undefined when none was. */
export async function readLastDomain(settings: Settings): Promise<string | undefined> {
  return (await readPrivateFile(lastDomainPath(settings)))?.trim() || undefined
}

/** The identity of the trust domain that was joined last, also an expired one. */
export async function readStoredSvid(settings: Settings): Promise<Svid | undefined> {
  const domain = await readLastDomain(settings)
  return domain === undefined ? undefined : (await loadEnrolment(enrolmentPath(settings, domain)))?.state.svid
}

/** The trust domains that somebody logged in to on this machine. */
export function readLoginDomains(settings: Settings): Promise<readonly string[]> {
  return domainsOf(loginPath(settings, ''))
}

/** The trust domains of which this machine has an identity or a login, however it came by it. */
export async function readStoredDomains(settings: Settings): Promise<readonly string[]> {
  const [joined, loggedIn] = await Promise.all([domainsOf(enrolmentPath(settings, '')), readLoginDomains(settings)])
  return [...new Set([...joined, ...loggedIn])]
}

/** Those that have a file which is named as that of the empty one is, behind its name. */
async function domainsOf(path: string): Promise<readonly string[]> {
  const suffix = basename(path)
  const names = await readdir(dirname(path)).catch(() => [])
  return names.filter((name) => name.endsWith(suffix)).map((name) => name.slice(0, -suffix.length))
}

/** Removes the identities of these trust domains, their keys with them, that one of them was joined last, and what killed writers left. */
export async function forgetStored(settings: Settings, domains: readonly string[]): Promise<void> {
  for (const domain of domains) await rm(enrolmentPath(settings, domain), { force: true })
  const last = await readLastDomain(settings)
  if (last === undefined || domains.includes(last)) await rm(lastDomainPath(settings), { force: true })
  await removeUnfinished(dirname(lastDomainPath(settings)))
}
