// Entry: turns on V8's compile cache in a private folder, runs the command line, ends the process with its code.
import { lstatSync, mkdirSync } from 'node:fs'
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'

for (const stream of [process.stdout, process.stderr]) {
  // `nsm --help | head -1`: a reader that left early is no failure.
  stream.on('error', (error) => {
    if (error.code === 'EPIPE') process.exit(process.exitCode ?? 0)
    throw error
  })
}

useCompileCache(join(import.meta.dirname, '..', 'node_modules', '.cache', 'nsm'))
const { main } = await import('../src/commands/main.ts')
process.exitCode = await main(process.argv.slice(2))
// What was written leaves first; a handle that something forgot does not hold the process.
process.stdout.write('', () => process.stderr.write('', () => process.exit()))

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
