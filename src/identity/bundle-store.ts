import { dirname } from 'node:path'
import { makePrivateDir, readPrivateFile, writeFileAtomic } from '../base/files.ts'
import { isJsonObject, readJsonObject } from '../base/json.ts'
import { type BundleDocument, formatBundle, parseBundle } from './bundle-document.ts'

/** The last good bundle of a domain, and what it is from. */
export interface HeldBundle {
  /** The origin as text: a bundle of another origin does not count. */
  readonly origin: string
  readonly document: BundleDocument
  /** Of the file that the administrator gave, as it was when it last counted. */
  readonly fileHash: string | undefined
}

/** The bundles of a file by trust domain; what cannot be read is fetched again, so it counts as absent. */
export async function loadBundles(path: string): Promise<Map<string, HeldBundle>> {
  const stored = readJsonObject((await readPrivateFile(path)) ?? '') ?? {}
  return new Map(
    Object.entries(stored).flatMap(([trustDomain, value]) => {
      const held = heldOf(value)
      return held ? [[trustDomain, held]] : []
    }),
  )
}

/** Replaces the file. */
export async function saveBundles(path: string, bundles: ReadonlyMap<string, HeldBundle>): Promise<void> {
  const entries = [...bundles].map(([trustDomain, { origin, document, fileHash }]) => [
    trustDomain,
    { origin, fileHash, bundle: formatBundle(document) },
  ])
  await makePrivateDir(dirname(path))
  await writeFileAtomic(path, `${JSON.stringify(Object.fromEntries(entries), undefined, 2)}\n`)
}

function heldOf(value: unknown): HeldBundle | undefined {
  const { origin, bundle, fileHash } = isJsonObject(value) ? value : {}
  if (typeof origin !== 'string' || typeof bundle !== 'string') return undefined
  try {
    return { origin, document: parseBundle(bundle), fileHash: typeof fileHash === 'string' ? fileHash : undefined }
  } catch {
    return undefined
  }
}
