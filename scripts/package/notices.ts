import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { licenceFiles, packagesInside } from './contents.ts'
import { crateLicence, ownCrates } from './crates.ts'
import { packageFolder } from './npm-package.ts'
import { builderPackage, type Target } from './target.ts'

/** The licences of everything inside an executable, whole; packages of the same text share one. */
export function notices(root: string, modules: readonly string[], target: Target): string {
  const apache = readFileSync(join(root, 'LICENSE'), 'utf8').trim()
  const byText = new Map<string, string[]>()
  const note = (name: string, text: string) => {
    if (text === '') throw new NsmError('BUG', `there is no licence text of ${name}`, 'find it, or leave the work out')
    byText.set(text, [...(byText.get(text) ?? []), name])
  }
  // That of the same version for this machine: the package for Windows brings none.
  const node = packageFolder(builderPackage(target))
  note(`Node.js ${target.nodeVersion} and what it is made of`, licenceFiles(node))
  for (const { name, version, licence, folder } of packagesInside(root, modules, target)) {
    // A package may name its licence and leave the text out; an add-on's text is in the package that it belongs to.
    const parent = parentOf(name)
    const own = [licenceFiles(folder), parent ? licenceFiles(join(root, 'node_modules', parent)) : '']
    const named = licence.includes('Apache-2.0') ? [apache, licenceInCode(name, folder)] : []
    note(`${name} ${version} (${licence})`, own.join('\n\n').trim() || named.join('\n\n').trim())
  }
  for (const crate of ownCrates(root)) {
    const { licence, text } = crateLicence(root, crate)
    note(`${crate.name} ${crate.version} (${licence}), in the WebAssembly module`, text.trim())
  }
  const parts = [...byText].map(([text, names]) => [rule, ...names, rule, '', text, ''].join('\n'))
  return `nsm is under the Apache License 2.0; see LICENSE. Inside it are the works below.\n\n${parts.join('\n')}`
}

/** What stands at the head of one of its files only: the part of it that is Google's. */
function licenceInCode(name: string, folder: string): string {
  if (name !== '@bufbuild/protobuf') return ''
  const lines = readFileSync(join(folder, 'dist/esm/wire/varint.js'), 'utf8').split('\n')
  const head = lines.slice(
    0,
    lines.findIndex((line) => !line.startsWith('//')),
  )
  return head.map((line) => line.replace(/^\/\/ ?/, '')).join('\n')
}

const rule = '='.repeat(80)

function parentOf(name: string): string | undefined {
  if (name.startsWith('@koromix/')) return 'koffi'
  return name.startsWith('@napi-rs/keyring-') ? '@napi-rs/keyring' : undefined
}
