import { hash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { runTool } from './run-tool.ts'

/** A package of the npm registry, and what its archive must be [Subresource Integrity]. */
export interface NpmPackage {
  readonly name: string
  readonly version: string
  readonly integrity: string
}

const root = resolve(import.meta.dirname, '../..')
const cache = join(root, 'node_modules/.cache/nsm-package')

/** The folder of a package: the installed one, the one fetched earlier, or fetched by npm and compared with its hash. */
export function packageFolder(wanted: NpmPackage): string {
  const installed = join(root, 'node_modules', wanted.name)
  if (installedVersion(wanted.name) === wanted.version && existsSync(installed)) return installed
  const folder = join(cache, `${wanted.name.replaceAll('/', '+')}-${wanted.version}`)
  if (!existsSync(folder)) fetchTo(folder, wanted)
  return folder
}

/** What `npm ci` has put there, by its own record: it has compared the hash of package-lock.json. */
function installedVersion(name: string): string | undefined {
  const { packages } = JSON.parse(readFileSync(join(root, 'node_modules/.package-lock.json'), 'utf8'))
  return packages[`node_modules/${name}`]?.version
}

function fetchTo(folder: string, wanted: NpmPackage): void {
  mkdirSync(cache, { recursive: true })
  const scratch = mkdtempSync(join(cache, 'fetch-'))
  try {
    const args = ['pack', `${wanted.name}@${wanted.version}`, '--silent', '--pack-destination', scratch]
    runTool('npm', args, scratch)
    const archive = join(scratch, readdirSync(scratch)[0] ?? '')
    requireIntegrity(readFileSync(archive), wanted)
    const unpacked = join(scratch, 'package')
    mkdirSync(unpacked)
    runTool('tar', ['-xzf', archive, '-C', unpacked, '--strip-components=1', '--exclude=*/include'])
    renameSync(unpacked, folder)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** Throws `REFUSED` when the archive is another than the one that was written down. */
export function requireIntegrity(archive: Uint8Array, { name, version, integrity }: NpmPackage): void {
  const found = `sha512-${hash('sha512', archive, 'base64')}`
  if (found === integrity) return
  throw new NsmError('REFUSED', `${name}@${version} is not the package that was written down: ${found}`, 'ask why')
}
