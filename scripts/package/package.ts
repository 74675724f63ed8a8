import { execFileSync, spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { programVersion } from '../../src/base/program-version.ts'
import { commandTable } from '../../src/commands/command-table.ts'
import { describe } from '../../src/commands/main.ts'
import { rootHelpText } from '../../src/ui/root-help.ts'
import { versionLine } from '../../src/ui/version-info.ts'
import { bundle } from './bundle.ts'
import { completions } from './completions.ts'
import { buildDeb } from './deb.ts'
import { injectParts } from './inject.ts'
import { manPage } from './man-page.ts'

/**
 * `npm run package [-- --no-caches] [--deb [--quick]]`: one executable for this machine's platform, `dist/nsm`, with
 * completions, manual page and sums, and with `--deb` the Debian package (`--quick`: larger, in a second). Without V8's code
 * caches two builds of the same sources are the same to the byte.
 */
const root = resolve(import.meta.dirname, '../..')
const dist = join(root, 'dist')
const output = join(dist, 'nsm')

/**
 * A small young generation as bin/nsm has it; no debugger by a signal [security L7]; no configuration of OpenSSL from
 * anywhere, for it can name libraries to load.
 */
const nodeFlags = [
  '--max-semi-space-size=2',
  '--v8-pool-size=1',
  '--disable-sigusr1',
  '--disable-warning=ExperimentalWarning',
  '--openssl-config=/dev/null',
]

const startedMs = performance.now()
const parts = mkdtempSync(join(tmpdir(), 'nsm-package-'))
try {
  await bundle(root, parts)
  writeParts(parts)
  if (!process.argv.includes('--no-caches')) warm(parts)
  rmSync(dist, { recursive: true, force: true })
  mkdirSync(dist)
  injectParts({ node: process.execPath, parts, names: readdirSync(parts).sort(), nodeFlags, output })
} finally {
  rmSync(parts, { recursive: true, force: true })
}
const said = execFileSync(output, ['version'], { encoding: 'utf8' }).trim()
const { completionFiles, page } = await writeBeside()
if (process.argv.includes('--deb')) {
  const compression = process.argv.includes('--quick') ? ['-Zgzip', '-z1'] : ['-Zxz']
  const content = {
    program: output,
    version: programVersion(),
    completions: completionFiles,
    manPage: page,
    compression,
  }
  report(buildDeb(content, dist))
}
writeSums()
const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1)
report(output, `${seconds} s  ${said}`)

function report(path: string, more = ''): void {
  process.stdout.write(`${relative(root, path)}  ${(statSync(path).size / 1e6).toFixed(1)} MB  ${more}\n`)
}

/** Completions and manual page, from the same table as the help. */
async function writeBeside() {
  const commands = await Promise.all(commandTable.map(describe))
  const completionFiles = completions(commands)
  const page = manPage(commands, programVersion())
  writeFileSync(join(dist, 'nsm.1'), page)
  for (const [name, text] of completionFiles) writeFileSync(join(dist, name), text)
  return { completionFiles, page }
}

/** As sha256sum writes and checks them. */
function writeSums(): void {
  const names = readdirSync(dist).filter((name) => name !== 'SHA256SUMS')
  const lines = names.sort().map((name) => `${hash('sha256', readFileSync(join(dist, name)))}  ${name}\n`)
  writeFileSync(join(dist, 'SHA256SUMS'), lines.join(''))
}

/**
 * In namespaces of its own: interface, routes and names of the build stay there, and no service of this machine is asked.
 * Where a user may not make any, the caches are left out; the file starts slower and does the same.
 */
function warm(dir: string): void {
  const unshare = ['--user', '--map-root-user', '--net', '--mount', '--pid', '--fork', '--kill-child']
  const ownFolders = 'for dir in /run /etc; do mount -t tmpfs none $dir || exit; done; mount -t proc none /proc'
  const prepare = `${ownFolders} && echo nameserver 127.0.0.1 > /etc/resolv.conf && ip link set lo up && exec "$@"`
  const words = [process.execPath, join(import.meta.dirname, 'warm.ts'), dir, ...nodeFlags]
  const { status, stderr } = spawnSync('unshare', [...unshare, 'sh', '-c', prepare, 'sh', ...words], {
    encoding: 'utf8',
  })
  if (status !== 0) process.stderr.write(`no code caches inside: ${stderr ?? 'there is no unshare'}\n`)
}

/** What is not a chunk: boot script, native code, and the two answers that are ready before anything is loaded. */
function writeParts(dir: string): void {
  const { name, version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  writeFileSync(join(dir, 'package.json'), JSON.stringify({ name, version }))
  writeFileSync(join(dir, 'help.txt'), `${rootHelpText(commandTable)}\n`)
  writeFileSync(join(dir, 'version.txt'), `${versionLine()}\n`)
  copyFileSync(join(root, 'scripts/package/boot.cjs'), join(dir, 'boot.cjs'))
  copyFileSync(join(root, 'src/tunnel/wireguard/engine.wasm'), join(dir, 'engine.wasm'))
  copyFileSync(join(root, 'node_modules/@koromix/koffi-linux-x64/linux_x64/koffi.node'), join(dir, 'koffi.node'))
}
