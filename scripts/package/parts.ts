import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { programVersion } from '../../src/base/program-version.ts'
import { commandTable } from '../../src/commands/command-table.ts'
import { rootHelpText } from '../../src/ui/root-help.ts'
import { versionLine } from '../../src/ui/version-info.ts'
import { packageFolder } from './npm-package.ts'
import type { Target } from './target.ts'

const root = resolve(import.meta.dirname, '../..')

/**
 * Writes into `dir` what is not a chunk: boot script, the native code of the target and of no other, and the two answers
 * that are ready before anything is loaded.
 */
export function writeParts(dir: string, target: Target): void {
  const version = programVersion()
  const { name } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  writeFileSync(join(dir, 'package.json'), JSON.stringify({ name, version }))
  writeFileSync(join(dir, 'help.txt'), `${rootHelpText(commandTable)}\n`)
  const line = versionLine({ version, system: target.system, node: `v${target.nodeVersion}` })
  writeFileSync(join(dir, 'version.txt'), `${line}\n`)
  copyFileSync(join(root, 'scripts/package/boot.cjs'), join(dir, 'boot.cjs'))
  copyFileSync(join(root, 'src/tunnel/wireguard/engine.wasm'), join(dir, 'engine.wasm'))
  for (const addon of target.addons) copyFileSync(join(packageFolder(addon.package), addon.path), join(dir, addon.part))
}
