import { execFileSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { programVersion } from '../../src/base/program-version.ts'
import { commandTable } from '../../src/commands/command-table.ts'
import { describe } from '../../src/commands/main.ts'
import { buildExecutable, type Ingredients } from './build-executable.ts'
import { bundle } from './bundle.ts'
import { completions } from './completions.ts'
import { buildInstallers } from './installers.ts'
import { manPage } from './man-page.ts'
import { notices } from './notices.ts'
import type { Beside, Program } from './program.ts'
import { runTool } from './run-tool.ts'
import { softwareBill } from './software-bill.ts'
import { ownTarget, type Target, targets } from './target.ts'

/**
 * `npm run package [-- FLAG ...]`: one executable for this machine's platform, `dist/nsm`, with completions, manual page,
 * bill of materials, licences and sums.
 *   --all         for every platform
 *   --installers  also the packages of each; --deb: the Debian package of this machine's platform alone
 *   --quick       larger packages, in seconds
 *   --sign        with the keys that installers/sign.sh asks for
 *   --no-caches   without V8's code caches: two builds of the same sources are then the same to the byte
 *   --caches-of=DIST  with those of an earlier build, for the same reason
 */
const root = resolve(import.meta.dirname, '../..')
const dist = join(root, 'dist')
const known = ['--all', '--installers', '--deb', '--quick', '--sign', '--no-caches'] as const
const has = (flag: (typeof known)[number]) => process.argv.includes(flag)
const earlier = process.argv.find((word) => word.startsWith('--caches-of='))?.slice('--caches-of='.length)
const isKnown = (word: string) => word.startsWith('--caches-of=') || known.some((flag) => flag === word)
const unknown = process.argv.slice(2).find((word) => !isKnown(word))
if (unknown !== undefined) throw new NsmError('USAGE', `there is no flag ${unknown}`, known.join(' '))

if (earlier !== undefined && resolve(earlier) === dist)
  throw new NsmError('USAGE', 'dist is made anew', 'move the earlier build elsewhere')

const startedMs = performance.now()
rmSync(dist, { recursive: true, force: true })
mkdirSync(dist)
const programs = await buildPrograms(has('--all') ? targets : [ownTarget()])
const beside = await writeBeside()
const formats = has('--installers') ? 'all' : has('--deb') ? 'deb' : 'none'
const packages = buildInstallers({ programs, beside, formats, isQuick: has('--quick'), dir: dist })
sign(...packages)
writeSums()
sign(join(dist, 'SHA256SUMS'))
for (const path of packages) report(path)
const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1)
const said = execFileSync(join(dist, 'nsm'), ['version'], { encoding: 'utf8' }).trim()
for (const { path } of programs) report(path)
process.stdout.write(`${seconds} s  ${said}\n`)

/** This machine's is `dist/nsm`; another's lies in a folder of its own. */
async function buildPrograms(wanted: readonly Target[]): Promise<readonly Program[]> {
  const chunks = mkdtempSync(join(tmpdir(), 'nsm-chunks-'))
  try {
    const { modules } = await bundle(root, chunks)
    return wanted.map((target) => {
      const folder = target.name === ownTarget().name ? dist : join(dist, target.name)
      const path = join(folder, target.program)
      buildExecutable(target, { chunks, caches: cachesFor(path), output: path })
      sign(path)
      const texts = notices(root, modules, target)
      writeFileSync(join(folder, 'THIRD-PARTY-NOTICES.txt'), texts)
      writeFileSync(join(folder, 'nsm.cdx.json'), softwareBill({ root, modules, target, path }))
      return { target, path, version: programVersion(), notices: texts }
    })
  } finally {
    rmSync(chunks, { recursive: true, force: true })
  }
}

function cachesFor(path: string): Ingredients['caches'] {
  if (earlier !== undefined) return { of: join(resolve(earlier), relative(dist, path)) }
  return has('--no-caches') ? 'none' : 'made'
}

/** Completions and manual page, from the same table as the help. */
async function writeBeside(): Promise<Beside> {
  const commands = await Promise.all(commandTable.map(describe))
  const completionFiles = completions(commands)
  const page = manPage(commands, programVersion())
  writeFileSync(join(dist, 'nsm.1'), page)
  for (const [name, text] of completionFiles) writeFileSync(join(dist, name), text)
  return { completions: completionFiles, manPage: page, licence: readFileSync(join(root, 'LICENSE'), 'utf8') }
}

/** A program is signed before it goes into packages, packages before their sums. */
function sign(...paths: readonly string[]): void {
  if (has('--sign') && paths.length > 0) runTool('sh', [join(root, 'installers/sign.sh'), ...paths])
}

/** As sha256sum writes and checks them. */
function writeSums(): void {
  const names = readdirSync(dist, { withFileTypes: true }).flatMap((entry) => (entry.isFile() ? [entry.name] : []))
  const lines = names.sort().map((name) => `${hash('sha256', readFileSync(join(dist, name)))}  ${name}\n`)
  writeFileSync(join(dist, 'SHA256SUMS'), lines.join(''))
}

function report(path: string): void {
  process.stdout.write(`${relative(root, path)}  ${(statSync(path).size / 1e6).toFixed(1)} MB\n`)
}
