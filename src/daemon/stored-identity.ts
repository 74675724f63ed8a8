import { rm } from 'node:fs/promises'
import { readPrivateFile } from '../base/files.ts'
import type { Settings } from '../base/settings.ts'
import { loadEnrolment } from '../identity/enrolment-file.ts'
import type { Svid } from '../identity/source.ts'
import { enrolmentPath, lastDomainPath } from './paths.ts'

/** The trust domain that was joined last; undefined when none was. */
export async function readLastDomain(settings: Settings): Promise<string | undefined> {
  return (await readPrivateFile(lastDomainPath(settings)))?.trim() || undefined
}

/** The identity of the trust domain that was joined last, also an expired one. */
export async function readStoredSvid(settings: Settings): Promise<Svid | undefined> {
  const domain = await readLastDomain(settings)
  return domain === undefined ? undefined : (await loadEnrolment(enrolmentPath(settings, domain)))?.state.svid
}

/** Removes the identity of the trust domain that was joined last, its key with it. */
export async function forgetStored(settings: Settings): Promise<void> {
  const domain = await readLastDomain(settings)
  if (domain !== undefined) await rm(enrolmentPath(settings, domain), { force: true })
  await rm(lastDomainPath(settings), { force: true })
}
