import { hash } from 'node:crypto'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { buildArchive } from './archive.ts'
import { buildDeb } from './deb.ts'
import type { Packing } from './packing.ts'
import type { Program } from './program.ts'
import { buildRpm } from './rpm.ts'
import { ownTarget } from './target.ts'
import { template } from './unix-tree.ts'
import { buildMsi, buildSetup } from './windows.ts'

/** Writes the packages of each program into `dir`, and gives their paths. */
export function buildInstallers(wanted: WantedInstallers): readonly string[] {
  const { formats, programs } = wanted
  if (formats === 'none') return []
  const own = programs.filter(({ target }) => target.name === ownTarget().name)
  if (formats === 'deb') return own.map((program) => buildDeb(program, wanted))
  const packages = programs.flatMap((program) => buildersOf(program).map((build) => build(program, wanted)))
  for (const program of programs) {
    const bill = `nsm-${program.version}-${program.target.name}.cdx.json`
    copyFileSync(join(dirname(program.path), 'nsm.cdx.json'), join(wanted.dir, bill))
  }
  return [...packages, ...writeScripts(packages, wanted)]
}

/** Which packages are made of what. */
export interface WantedInstallers extends Packing {
  readonly programs: readonly Program[]
  readonly formats: 'none' | 'deb' | 'all'
}

function buildersOf({ target }: Program): readonly ((program: Program, packing: Packing) => string)[] {
  if (target.format === 'elf') return [buildArchive, buildDeb, buildRpm]
  return target.format === 'pe' ? [buildArchive, buildMsi, buildSetup] : [buildArchive]
}

/** What fetches an archive: the install script, and the Homebrew formula with the sums of this release. */
function writeScripts(packages: readonly string[], { dir, programs }: WantedInstallers): readonly string[] {
  const script = join(dir, 'install.sh')
  copyFileSync(join(resolve(import.meta.dirname, '../../installers'), 'install.sh'), script)
  const sums = packages
    .filter((path) => path.endsWith('.tar.xz'))
    .map((path) => [sumField(path), hash('sha256', readFileSync(path))])
  const fields = Object.fromEntries([['VERSION', programs[0]?.version ?? ''], ...sums])
  const formula = template('homebrew/nsm.rb', fields)
  if (formula.includes('@')) return [script]
  writeFileSync(join(dir, 'nsm.rb'), formula)
  return [script, join(dir, 'nsm.rb')]
}

/** As the formula calls it: SHA256_LINUX_X64. */
function sumField(path: string): string {
  const [, os = '', arch = ''] = /-([a-z]+)-([a-z0-9]+)\.tar\.xz$/.exec(basename(path)) ?? []
  return `SHA256_${os}_${arch}`.toUpperCase()
}
