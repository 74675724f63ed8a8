import { readJsonObject } from './json.ts'
import { readPart } from './parts.ts'

/** The version of this program. */
export function programVersion(): string {
  const text = new TextDecoder().decode(readPart('package.json', new URL('../../package.json', import.meta.url)))
  const { version = 'unknown' } = readJsonObject(text) ?? {}
  return String(version)
}
