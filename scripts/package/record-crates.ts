import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { type CrateLicence, patchedCrates } from './crates.ts'

/**
 * `sh scripts/run.sh scripts/package/record-crates.ts`: writes wasm/crate-licences.json, the licences of the crates in
 * wasm/Cargo.lock and of those that its recipe patches, so that a package can be built without Rust. To be run when
 * Cargo.lock changes, after `npm run wasm`; needs cargo.
 */
const root = resolve(import.meta.dirname, '../..')
const wasm = join(root, 'wasm')
const patched = patchedCrates(root).map(({ name }) => name)
const arguments_ = ['metadata', '--locked', '--format-version', '1', '--manifest-path', join(wasm, 'Cargo.toml')]
const { packages } = JSON.parse(execFileSync('cargo', arguments_, { maxBuffer: 64 * 1024 * 1024 }).toString())
const crates: Record<string, CrateLicence> = {}
for (const { name, version, license, manifest_path: manifest, source } of packages) {
  if (source !== null || patched.includes(name))
    crates[`${name} ${version}`] = { licence: license, text: licenceText(dirname(manifest)) }
}
const sorted = Object.fromEntries(Object.entries(crates).sort(([a], [b]) => (a < b ? -1 : 1)))
writeFileSync(join(wasm, 'crate-licences.json'), `${JSON.stringify(sorted, undefined, 1)}\n`)
process.stdout.write(`wasm/crate-licences.json  ${Object.keys(sorted).length} crates\n`)

/** Where a crate may be had under MIT or Apache, it is had under MIT: that text names the holders. */
function licenceText(folder: string): string {
  const files = readdirSync(folder).filter((name) => /^(licen[cs]e|copying)/i.test(name))
  const named = files.filter((name) => /mit/i.test(name))
  const taken = named.length > 0 ? named : files
  return taken.map((name) => readFileSync(join(folder, name), 'utf8').trim()).join('\n\n')
}
