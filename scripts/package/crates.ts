import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'

/** A crate of the WebAssembly module, as wasm/Cargo.lock has it. */
export interface Crate {
  readonly name: string
  readonly version: string
  /** SHA-256 of its archive in hexadecimal. */
  readonly checksum: string
}

/** What wasm/crate-licences.json keeps of a crate. */
export interface CrateLicence {
  /** An SPDX expression. */
  readonly licence: string
  readonly text: string
}

/** Every crate of the Rust registry in a Cargo.lock; not those whose source is in this repository. */
export function readCrates(lock: string): readonly Crate[] {
  const field = (part: string, name: string) => new RegExp(`^${name} = "(.*)"$`, 'm').exec(part)?.[1] ?? ''
  return lock
    .split('[[package]]')
    .filter((part) => part.includes('\nchecksum = '))
    .map((part) => ({ name: field(part, 'name'), version: field(part, 'version'), checksum: field(part, 'checksum') }))
}

/** The crates of this repository's module: those that its recipe unpacks and patches, and those of Cargo.lock. */
export function ownCrates(root: string): readonly Crate[] {
  return [...patchedCrates(root), ...readCrates(read(root, 'wasm/Cargo.lock'))]
}

/** The crates that wasm/tools/build.sh unpacks and patches; it has the checksum of each. */
export function patchedCrates(root: string): readonly Crate[] {
  const lines = read(root, 'wasm/tools/build.sh').matchAll(/^crate (\S+) (\S+) ([0-9a-f]{64})$/gm)
  return [...lines].map(([, name = '', version = '', checksum = '']) => ({ name, version, checksum }))
}

/** The licence of a crate: as record-crates.ts has written it; throws `BUG` when it has not. */
export function crateLicence(root: string, { name, version }: Crate): CrateLicence {
  // Its archive has no licence file, only the licence's name.
  if (name === 'boringtun') return { licence: 'BSD-3-Clause', text: read(import.meta.dirname, 'boringtun-licence.txt') }
  const found = JSON.parse(read(root, 'wasm/crate-licences.json'))[`${name} ${version}`]
  if (found !== undefined) return found
  throw new NsmError('BUG', `no licence of ${name} ${version} is written down`, 'run scripts/package/record-crates.ts')
}

function read(folder: string, path: string): string {
  return readFileSync(join(folder, path), 'utf8')
}
