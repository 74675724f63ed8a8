// Entry of a checkout: turns on V8's compile cache in a private folder, then runs the command line.
import { lstatSync, mkdirSync } from 'node:fs'
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'

useCompileCache(join(import.meta.dirname, '..', 'node_modules', '.cache', 'nsm'))
const { run } = await import('./run.js')
await run()

// Code is loaded from the cache: it is used only when nobody else can write there.
function useCompileCache(dir) {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    const found = lstatSync(dir)
    if (found.isDirectory() && found.uid === process.getuid?.() && (found.mode & 0o022) === 0) enableCompileCache(dir)
  } catch {
    // A read-only installation runs without the cache.
  }
}
