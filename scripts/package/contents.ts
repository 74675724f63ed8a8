import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageFolder } from './npm-package.ts'
import type { Target } from './target.ts'

/** A package of the npm registry that is inside the executable. */
export interface PackageInside {
  readonly name: string
  readonly version: string
  /** An SPDX expression. */
  readonly licence: string
  /** Subresource integrity of its archive. */
  readonly integrity: string
  readonly folder: string
}

/** The packages whose code was bundled, and those of the native add-ons, by name. */
export function packagesInside(root: string, modules: readonly string[], target: Target): readonly PackageInside[] {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
  const addons = new Map(target.addons.map((addon) => [addon.package.name, addon.package]))
  const names = new Set([...modules.flatMap(packageOf), ...addons.keys()])
  return [...names].sort().map((name) => {
    const { version, license, integrity } = packages[`node_modules/${name}`]
    const addon = addons.get(name)
    const folder = addon ? packageFolder(addon) : join(root, 'node_modules', name)
    return { name, version, licence: license, integrity, folder }
  })
}

function packageOf(module: string): readonly string[] {
  const [, name] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(module) ?? []
  return name === undefined ? [] : [name]
}

/** The licence and notice files of a package's folder, as one text; empty where it has none. */
export function licenceFiles(folder: string): string {
  const names = readdirSync(folder).filter((name) => /^(licen[cs]e|notice|copying)/i.test(name))
  return names
    .sort()
    .map((name) => readFileSync(join(folder, name), 'utf8').trim())
    .join('\n\n')
}
