import { readPart } from './parts.ts'

/** The version of this program. */
export function programVersion(): string {
  const text = new TextDecoder().decode(readPart('package.json', new URL('../../package.json', import.meta.url)))
  const manifest: unknown = JSON.parse(text)
  const named = typeof manifest === 'object' && manifest !== null && 'version' in manifest
  return named ? String(manifest.version) : 'unknown'
}
