import { hash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { packagesInside } from '../../scripts/package/contents.ts'
import { crateLicence, ownCrates, readCrates } from '../../scripts/package/crates.ts'
import { notices } from '../../scripts/package/notices.ts'
import { softwareBill } from '../../scripts/package/software-bill.ts'
import { ownTarget } from '../../scripts/package/target.ts'

const root = resolve(import.meta.dirname, '../..')
const dir = mkdtempSync(join(tmpdir(), 'nsm-bill-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
const program = join(dir, 'nsm')
writeFileSync(program, 'a program')
const target = ownTarget()
const modules = [
  join(root, 'src/base/errors.ts'),
  join(root, 'node_modules/@bufbuild/protobuf/dist/esm/index.js'),
  join(root, 'node_modules/@oclif/core/lib/index.js'),
  join(root, 'node_modules/jose/dist/webapi/index.js'),
  join(root, 'node_modules/jose/dist/webapi/key.js'),
]

describe('packagesInside', () => {
  test('are those whose files were bundled and those of the native code, once each, with what the lockfile says', () => {
    const inside = packagesInside(root, modules, target)
    expect(inside.map(({ name }) => name)).toEqual([
      '@bufbuild/protobuf',
      `@koromix/koffi-${target.name}`,
      `@napi-rs/keyring-${target.name}-gnu`,
      '@oclif/core',
      'jose',
    ])
    for (const { integrity, licence } of inside)
      expect([integrity, licence]).toEqual([expect.stringMatching(/^sha512-/), expect.stringMatching(/MIT|Apache/)])
  })
})

describe('the crates of the WebAssembly module', () => {
  const crates = ownCrates(root)

  test('are those of its Cargo.lock and the patched ones', () => {
    const locked = readFileSync(join(root, 'wasm/Cargo.lock'), 'utf8').match(/^checksum = /gm)
    expect(crates.length).toBe((locked?.length ?? 0) + 2)
    for (const { checksum, name, version } of crates)
      expect([name, version, checksum]).toEqual([
        expect.stringMatching(/^[\w-]+$/),
        expect.stringMatching(/^\d/),
        expect.stringMatching(/^[0-9a-f]{64}$/),
      ])
  })

  test('have their licences written down, with the text', () => {
    for (const crate of crates) {
      const { licence, text } = crateLicence(root, crate)
      expect([crate.name, licence]).toEqual([
        crate.name,
        expect.stringMatching(/MIT|Apache|BSD|0BSD|Unlicense|ISC|Zlib/),
      ])
      expect([crate.name, text.length > 500]).toEqual([crate.name, true])
    }
  })

  test('without one written down say which script does it', () => {
    const unknown = { name: 'unheard-of', version: '0.0.0', checksum: '' }
    expect(() => crateLicence(root, unknown)).toThrow('no licence of unheard-of 0.0.0 is written down')
  })

  test('are read from a lockfile without those of the workspace', () => {
    const lock = `version = 4\n\n[[package]]\nname = "a"\nversion = "1.0.0"\nsource = "registry"\nchecksum = "ff"\n
[[package]]\nname = "own"\nversion = "0.1.0"\ndependencies = [\n "a",\n]\n`
    expect(readCrates(lock)).toEqual([{ name: 'a', version: '1.0.0', checksum: 'ff' }])
  })
})

describe('the bill of materials', () => {
  const bill = JSON.parse(softwareBill({ root, modules, target, path: program }))
  const components: readonly Component[] = bill.components

  interface Component {
    readonly type: string
    readonly name: string
    readonly version?: string
    readonly purl?: string
    readonly 'bom-ref': string
    readonly hashes?: readonly { readonly alg: string; readonly content: string }[]
    readonly licenses: readonly { readonly license?: { id?: string; name?: string }; readonly expression?: string }[]
  }

  test('has the fields that CycloneDX 1.6 requires, with the values it allows', () => {
    expect(bill).toMatchObject({ bomFormat: 'CycloneDX', specVersion: '1.6', version: 1 })
    expect(bill.serialNumber).toMatch(/^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/)
    for (const { type, name, hashes = [], licenses, purl } of [bill.metadata.component, ...components]) {
      expect(['application', 'platform', 'library']).toContain(type)
      expect(name).not.toBe('')
      for (const { alg, content } of hashes)
        expect(content).toMatch(alg === 'SHA-512' ? /^[0-9a-f]{128}$/ : /^[0-9a-f]{64}$/)
      expect(licenses).toHaveLength(1)
      for (const { license, expression } of licenses)
        expect(license?.id ?? license?.name ?? expression).toMatch(/^[^/]+$/)
      if (purl !== undefined) expect(purl).toMatch(/^pkg:(npm|cargo|generic)\/(%40)?[^@]+@[^@]+$/)
    }
  })

  test('names each thing once, and points at nothing that it does not name', () => {
    const refs = [bill.metadata.component, ...components].map((component) => component['bom-ref'])
    expect(new Set(refs).size).toBe(refs.length)
    for (const { ref, dependsOn } of bill.dependencies) {
      expect(refs).toEqual(expect.arrayContaining([ref, ...dependsOn]))
    }
  })

  test('names Node, the packages, the native code, the WebAssembly module with its hash, and its crates', () => {
    const version = (name: string) => components.find((component) => component.name === name)?.version
    expect(version('node')).toBe(target.nodeVersion)
    expect(version('jose')).toMatch(/^6\./)
    expect(version('boringtun')).toBe('0.7.1')
    expect(version('smoltcp')).toBe('0.14.0')
    expect(version(`@koromix/koffi-${target.name}`)).toMatch(/^3\./)
    const engine = components.find(({ name }) => name === 'engine.wasm')
    const recorded = readFileSync(join(root, 'src/tunnel/wireguard/engine.wasm.sha256'), 'utf8').split(' ')[0]
    expect(engine?.hashes).toEqual([{ alg: 'SHA-256', content: recorded }])
  })

  test('is of one executable: its hash is in it, and another one has another number', () => {
    expect(bill.metadata.component.hashes).toEqual([{ alg: 'SHA-256', content: hash('sha256', 'a program') }])
    const other = join(dir, 'other')
    writeFileSync(other, 'another program')
    const again = (path: string) => JSON.parse(softwareBill({ root, modules, target, path })).serialNumber
    expect(again(program)).toBe(bill.serialNumber)
    expect(again(other)).not.toBe(bill.serialNumber)
  })
})

describe('the notices', () => {
  const text = notices(root, modules, target)

  test('hold the licence of everything inside, whole', () => {
    expect(text).toContain(`Node.js ${target.nodeVersion} and what it is made of`)
    for (const holder of [
      'Salesforce',
      'Filip Skokan',
      'Cloudflare',
      'Niels Martignène',
      'OpenSSL',
      'N-API for Rust',
      'Copyright 2008 Google Inc.',
    ])
      expect(text).toContain(holder)
    for (const { name, version } of packagesInside(root, modules, target))
      expect(text).toContain(`${name} ${version} (`)
    for (const { name, version } of ownCrates(root)) expect(text).toContain(`${name} ${version} (`)
  })

  test('name no work without a text', () => {
    for (const part of text.split(`${'='.repeat(80)}\n`).filter((_part, index) => index > 0 && index % 2 === 0))
      expect(part.trim().length).toBeGreaterThan(500)
  })
})

test('the setup program for Windows starts nothing by its name alone, which would be looked for among the downloads', () => {
  const script = readFileSync(join(root, 'installers/windows/nsm.nsi'), 'utf8')
  const started = [...script.matchAll(/\bExec(?:Wait|ToLog|ToStack)? "(?:\$\\")?([^\\ ]+)/g)].map(([, path]) => path)
  expect(started).toEqual(['$SYSDIR'])
})
