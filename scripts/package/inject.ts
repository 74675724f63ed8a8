import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { signAdHoc } from './mach-o-signature.ts'
import { withoutChecksum, withoutSignature } from './portable-executable.ts'
import { runTool } from './run-tool.ts'
import { ownTarget, type Target } from './target.ts'
import { withoutVariables } from './unread-variables.ts'

/** What is put together. */
export interface Injection {
  readonly target: Target
  /** Node of the target. */
  readonly node: string
  /** Node of the same version that runs on this machine. */
  readonly builder: string
  /** Folder of the parts, and where the blob is written. */
  readonly parts: string
  /** Names of the parts; `boot.cjs` is among them. */
  readonly names: readonly string[]
  readonly nodeFlags: readonly string[]
  readonly output: string
}

/** Writes the executable: the target's Node, stripped, with every part inside [Node single executable applications]. */
export function injectParts(injection: Injection): void {
  const { node, output, target } = injection
  writeFileSync(output, withoutVariables(readFileSync(node)))
  chmodSync(output, 0o755)
  if (target.format === 'elf') injectElf(injection)
  else if (target.format === 'pe') injectPe(injection)
  else injectMachO(injection)
}

/** Stripped before the injection: afterwards it would take the parts' segment for padding. LLVM's knows every processor. */
function injectElf(injection: Injection): void {
  runTool(injection.target.name === ownTarget().name ? 'strip' : 'llvm-strip', [injection.output])
  writeBlob(injection)
  runNode(injection, postject, injection.output, 'NODE_SEA_BLOB', 'nsm.blob', '--sentinel-fuse', sentinelFuse)
}

function injectPe(injection: Injection): void {
  writeFileSync(injection.output, withoutSignature(readFileSync(injection.output)))
  writeBlob(injection)
  runNode(injection, postject, injection.output, 'NODE_SEA_BLOB', 'nsm.blob', '--sentinel-fuse', sentinelFuse)
  writeFileSync(injection.output, withoutChecksum(readFileSync(injection.output)))
}

/** Node 26 injects by itself. Apple silicon starts no program whose pages have no hash. */
function injectMachO(injection: Injection): void {
  const { parts, output } = injection
  const bare = join(parts, 'node')
  copyFileSync(output, bare)
  runTool('llvm-strip', [bare])
  writeConfig(injection, { executable: bare, output })
  runNode(injection, '--build-sea', 'sea.json')
  writeFileSync(output, signAdHoc(readFileSync(output), 'nsm'))
}

function writeBlob(injection: Injection): void {
  writeConfig(injection, { output: 'nsm.blob' })
  runNode(injection, '--experimental-sea-config', 'sea.json')
}

/**
 * Names without the folder: Node keeps the first in the file, and two builds are to be the same. A code cache of the boot
 * script is there to be refused, and the script to be compiled from its source: without one Node takes compiled code from
 * where NODE_COMPILE_CACHE says, and it need not be code of this script [security L6].
 */
function writeConfig({ parts, names, nodeFlags }: Injection, where: Readonly<Record<string, string>>): void {
  const config = {
    main: 'boot.cjs',
    ...where,
    disableExperimentalSEAWarning: true,
    useCodeCache: true,
    execArgv: nodeFlags,
    execArgvExtension: 'none',
    assets: Object.fromEntries(names.map((name) => [name, name])),
  }
  writeFileSync(join(parts, 'sea.json'), JSON.stringify(config))
}

function runNode({ builder, parts }: Injection, ...args: readonly string[]): void {
  runTool(builder, [refusedCache, ...args], parts)
}

/**
 * V8 refuses what was compiled with another seed, on every platform, before it looks at the code; with a fixed one the cache
 * is the same twice.
 */
const refusedCache = '--hash-seed=1'

/** As a program of its own: as a library it warns about each nameless section of Node. */
const postject = resolve(import.meta.dirname, '../../node_modules/postject/dist/cli.js')

/** Node looks for it to know that a blob is there. */
const sentinelFuse = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2'
