import { lstatSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Where V8 keeps compiled code: beside the packages when only our user can write there, else in the state directory. */
export function compileCacheDir(stateDir: string): string {
  const shared = fileURLToPath(new URL('../../node_modules/.cache/nsm', import.meta.url))
  return isPrivate(shared) ? shared : join(stateDir, 'compile-cache')
}

/** Code is loaded from there: nobody else may have put it [security L8]. */
function isPrivate(dir: string): boolean {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    const found = lstatSync(dir)
    return found.isDirectory() && found.uid === process.getuid?.() && (found.mode & 0o022) === 0
  } catch {
    return false
  }
}
