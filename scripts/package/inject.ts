import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

/** What is put together. */
export interface Injection {
  /** Node of the target. */
  readonly node: string
  /** Folder of the parts, and where the blob is written. */
  readonly parts: string
  /** Names of the parts; `boot.cjs` is among them. */
  readonly names: readonly string[]
  readonly nodeFlags: readonly string[]
  readonly output: string
}

/** Writes the executable: the target's Node, stripped, with every part inside [Node single executable applications]. */
export function injectParts({ node, parts, names, nodeFlags, output }: Injection): void {
  // Names without the folder: Node keeps the first in the file, and two builds are to be the same.
  const config = {
    main: 'boot.cjs',
    output: 'nsm.blob',
    disableExperimentalSEAWarning: true,
    useCodeCache: false,
    execArgv: nodeFlags,
    execArgvExtension: 'none',
    assets: Object.fromEntries(names.map((name) => [name, name])),
  }
  writeFileSync(join(parts, 'sea.json'), JSON.stringify(config))
  const runNode = (...args: readonly string[]) =>
    void execFileSync(process.execPath, args, { cwd: parts, stdio: 'pipe' })
  runNode('--experimental-sea-config', 'sea.json')
  copyFileSync(node, output)
  chmodSync(output, 0o755)
  // Before the injection: afterwards it would take the parts' segment for padding.
  execFileSync('strip', [output])
  runNode(postject, output, 'NODE_SEA_BLOB', 'nsm.blob', '--sentinel-fuse', sentinelFuse)
}

/** As a program of its own: as a library it warns about each nameless section of Node. */
const postject = resolve(import.meta.dirname, '../../node_modules/postject/dist/cli.js')

/** Node looks for it to know that a blob is there. */
const sentinelFuse = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2'
