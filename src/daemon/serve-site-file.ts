import { join } from 'node:path'
import { NsmError } from '../base/errors.ts'
import { readPrivateFile, writeFileAtomic } from '../base/files.ts'
import { isJsonObject, isTexts, readJsonObject } from '../base/json.ts'
import type { Network } from './serve-home.ts'

/** What a further site remembers, so that it starts while the first one is away. */
export interface SiteFile {
  /** Join string of the first site, without token. */
  readonly server: string
  readonly network: Network
  /** What of the prefixes is this site's. */
  readonly parts: readonly string[]
}

/** Reads the file of a state directory; undefined when it is no further site's. Throws `USAGE` for a broken one. */
export async function readSiteFile(stateDir: string): Promise<SiteFile | undefined> {
  const text = await readPrivateFile(pathIn(stateDir))
  if (text === undefined) return undefined
  const { server, network, parts } = readJsonObject(text) ?? {}
  const { service, prefixes, dnsDomain } = isJsonObject(network) ? network : {}
  if (typeof server !== 'string' || typeof service !== 'string' || typeof dnsDomain !== 'string') throw broken(stateDir)
  if (!isTexts(prefixes) || !isTexts(parts)) throw broken(stateDir)
  return { server, network: { service, prefixes, dnsDomain }, parts }
}

/** Replaces the file as a whole. */
export async function writeSiteFile(stateDir: string, file: SiteFile): Promise<void> {
  await writeFileAtomic(pathIn(stateDir), `${JSON.stringify(file, undefined, 2)}\n`)
}

function pathIn(stateDir: string): string {
  return join(stateDir, 'site.json')
}

function broken(stateDir: string): NsmError {
  return new NsmError('USAGE', `${pathIn(stateDir)} cannot be read`, 'remove it and join again: nsm serve --join FILE')
}
