import { hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { programVersion } from '../../src/base/program-version.ts'
import { packagesInside } from './contents.ts'
import { crateLicence, ownCrates } from './crates.ts'
import type { NpmPackage } from './npm-package.ts'
import type { Target } from './target.ts'

/** One executable, for its bill. */
export interface Billed {
  readonly root: string
  /** Paths of the files that were bundled. */
  readonly modules: readonly string[]
  readonly target: Target
  /** The finished executable. */
  readonly path: string
}

/** The bill of materials as JSON [CycloneDX 1.6]: Node, npm packages, native add-ons, the WebAssembly module, its crates. */
export function softwareBill({ root, modules, target, path }: Billed): string {
  const node = nodeComponent(target)
  const packages = packagesInside(root, modules, target).map(packageComponent)
  const crates = ownCrates(root).map((crate) => crateComponent(crate, crateLicence(root, crate).licence))
  const engine = engineComponent(root)
  const program = programComponent(target, path)
  const direct = [node, ...packages, engine].map((component) => component['bom-ref'])
  const bill = {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    serialNumber: `urn:uuid:${uuidOf(program.hashes[0].content)}`,
    version: 1,
    metadata: { component: program },
    components: [node, ...packages, engine, ...crates],
    dependencies: [
      { ref: program['bom-ref'], dependsOn: direct },
      { ref: engine['bom-ref'], dependsOn: crates.map((crate) => crate['bom-ref']) },
    ],
  }
  return `${JSON.stringify(bill, undefined, 2)}\n`
}

function programComponent(target: Target, path: string) {
  return {
    type: 'application',
    'bom-ref': `nsm@${programVersion()}-${target.name}`,
    name: 'nsm',
    version: programVersion(),
    licenses: [{ license: { id: 'Apache-2.0' } }],
    hashes: [sha256Of(path)] as const,
    properties: [{ name: 'nsm:platform', value: target.name }],
  }
}

/** Node is what the npm package holds, and that package is what was compared with a hash. */
function nodeComponent({ node, nodeVersion }: Target) {
  return {
    type: 'platform',
    ...named('generic', 'node', nodeVersion),
    licenses: [{ license: { name: 'Node.js licence and those of its parts' } }],
    cpe: `cpe:2.3:a:nodejs:node.js:${nodeVersion}:*:*:*:*:*:*:*`,
    externalReferences: [{ type: 'distribution', url: purl('npm', node), hashes: [integrityHash(node.integrity)] }],
  }
}

function packageComponent({ name, version, licence, integrity }: NpmPackage & { readonly licence: string }) {
  const hashes = [integrityHash(integrity)]
  return { type: 'library', ...named('npm', name, version), licenses: licenses(licence), hashes }
}

function engineComponent(root: string) {
  const path = join(root, 'src/tunnel/wireguard/engine.wasm')
  const licenses = [{ license: { id: 'Apache-2.0' } }]
  return { type: 'library', 'bom-ref': 'engine.wasm', name: 'engine.wasm', licenses, hashes: [sha256Of(path)] }
}

function crateComponent({ name, version, checksum }: ReturnType<typeof ownCrates>[number], licence: string) {
  const hashes = [{ alg: 'SHA-256', content: checksum }]
  return { type: 'library', ...named('cargo', name, version), licenses: licenses(licence), hashes }
}

function named(kind: string, name: string, version: string) {
  const ref = purl(kind, { name, version })
  return { 'bom-ref': ref, name, version, purl: ref }
}

/** [package-url]: an @ of a scope is escaped. */
function purl(kind: string, { name, version }: Pick<NpmPackage, 'name' | 'version'>): string {
  return `pkg:${kind}/${name.replace('@', '%40')}@${version}`
}

/** One licence by its identifier, more of them as an expression; crates of old write a stroke for "or". */
function licenses(spdx: string) {
  const expression = spdx.replaceAll('/', ' OR ')
  return / (AND|OR|WITH) /.test(expression) ? [{ expression }] : [{ license: { id: expression } }]
}

function integrityHash(integrity: string) {
  return { alg: 'SHA-512', content: Buffer.from(integrity.slice('sha512-'.length), 'base64').toString('hex') }
}

function sha256Of(path: string) {
  return { alg: 'SHA-256', content: hash('sha256', readFileSync(path)) }
}

/** Of the content: the same executable has the same number [RFC 9562 5.8]. */
function uuidOf(sha256: string): string {
  const [a, b, c, d, e] = [
    sha256.slice(0, 8),
    sha256.slice(8, 12),
    sha256.slice(13, 16),
    sha256.slice(17, 20),
    sha256.slice(20, 32),
  ]
  return `${a}-${b}-8${c}-8${d}-${e}`
}
