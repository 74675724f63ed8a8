import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { writeCodeCaches } from './code-caches.ts'
import { injectParts } from './inject.ts'
import { packageFolder } from './npm-package.ts'
import { packChunks } from './pack-chunks.ts'
import { writeParts } from './parts.ts'
import { copyCodeCaches } from './released-caches.ts'
import { builderPackage, type Target } from './target.ts'

/** What an executable is made of. */
export interface Ingredients {
  /** Folder of the chunks, which are the same for all. */
  readonly chunks: string
  /** V8's code caches: made by running the program, none, or those of a finished executable. */
  readonly caches: 'made' | 'none' | { readonly of: string }
  readonly output: string
}

/** Builds the executable of one platform. */
export function buildExecutable(target: Target, { chunks, caches, output }: Ingredients): void {
  const parts = mkdtempSync(join(tmpdir(), 'nsm-package-'))
  try {
    const chunkNames = readdirSync(chunks)
    cpSync(chunks, parts, { recursive: true })
    writeParts(parts, target)
    packChunks(parts, chunkNames)
    const node = join(packageFolder(target.node), target.nodePath)
    const nodeFlags = flagsOf(target)
    if (caches === 'made') writeCodeCaches(parts, target, { node, nodeFlags })
    else if (caches !== 'none') copyCodeCaches(caches.of, parts)
    packChunks(parts, chunkNames)
    mkdirSync(dirname(output), { recursive: true })
    const builder = join(packageFolder(builderPackage(target)), 'bin/node')
    const names = readdirSync(parts).filter((name) => !chunkNames.includes(name.replace(/\.cache$/, '')))
    injectParts({ target, node, builder, parts, names: names.sort(), nodeFlags, output })
  } finally {
    rmSync(parts, { recursive: true, force: true })
  }
}

/**
 * A small young generation as bin/nsm has it, and that small from the start, for growing costs collections; no debugger by a
 * signal [security L7]; no configuration of OpenSSL from anywhere, for it can name libraries to load; no word about the code
 * cache that is there to be refused (inject.ts).
 */
function flagsOf({ format }: Target): readonly string[] {
  return [
    '--min-semi-space-size=2',
    '--max-semi-space-size=2',
    '--v8-pool-size=1',
    '--disable-sigusr1',
    '--disable-warning=ExperimentalWarning',
    '--disable-warning=Warning',
    `--openssl-config=${format === 'pe' ? 'NUL' : '/dev/null'}`,
  ]
}
