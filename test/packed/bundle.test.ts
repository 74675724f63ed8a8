import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { bundle, foreignNames } from '../../scripts/package/bundle.ts'
import { shareDefaults } from '../../scripts/package/shared-defaults.ts'

const root = resolve(import.meta.dirname, '../..')

describe('foreignNames', () => {
  test.each([
    ['require("node:fs"),require("fs"),require("./ip.cjs")', []],
    ['let a=require("koffi")', ['koffi']],
    ["require( `../up.cjs` );require('@scope/name/deep')", ['../up.cjs', '@scope/name/deep']],
    ['require("/etc/evil.js")', ['/etc/evil.js']],
    ['required("koffi");r.require(name)', []],
  ])('%s asks for %j outside', (code, expected) => {
    expect(foreignNames(code)).toEqual(expected)
  })
})

describe('shareDefaults', () => {
  const boot = join(root, 'node_modules/@bufbuild/protobuf/dist/esm/codegenv2/boot.js')

  test('leaves the descriptors what they are, with one object of defaults for each kind', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nsm-shared-'))
    onTestFinished(() => rmSync(dir, { recursive: true }))
    const code = readFileSync(boot, 'utf8').replace(/(?<=from ")\.[^"]+/g, (name) => join(dirname(boot), name))
    writeFileSync(join(dir, 'boot.mjs'), shareDefaults(code))
    const [own, shared] = [await import(boot), await import(join(dir, 'boot.mjs'))]
    const init = {
      name: 'a.proto',
      messageType: [{ name: 'A', field: [field('one', 1), field('two', 2)], enumType: [{ name: 'E', value: [] }] }],
      enumType: [{ name: 'F', value: [{ name: 'ZERO', number: 0 }] }],
    }
    const [before, after] = [own.bootFileDescriptorProto(init), shared.bootFileDescriptorProto(init)]
    expect(withDefaults(after)).toEqual(withDefaults(before))
    const [one, two] = after.messageType[0].field.map(Object.getPrototypeOf)
    expect(one).toBe(two)
  })

  test('fails when there is nothing to share, so that another version of the package is looked at', () => {
    expect(() => shareDefaults('export const boot = () => Object.create({ name: "" })')).toThrow('in another way')
  })
})

const field = (name: string, number: number) => ({ name, number, type: 9, options: { packed: true } })

/** With what is inherited, at every depth. */
function withDefaults(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withDefaults)
  if (typeof value !== 'object' || value === null) return value
  const entries = []
  for (const name in value) entries.push([name, withDefaults(Reflect.get(value, name))])
  return { own: Object.keys(value), all: Object.fromEntries(entries) }
}

describe('the bundle', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nsm-bundle-'))
  let names: readonly string[] = []
  let modules: readonly string[] = []
  beforeAll(async () => {
    const bundled = await bundle(root, dir)
    names = bundled.chunks
    modules = bundled.modules
  })
  afterAll(() => rmSync(dir, { recursive: true, force: true }))
  const code = (name: string) => readFileSync(join(dir, name), 'latin1')

  test('has the three chunks that the boot script starts, and one for each heavy package', () => {
    expect(names).toEqual(expect.arrayContaining(['cli.cjs', 'daemon.cjs', 'worker.cjs', 'protobuf.cjs', 'oclif.cjs']))
    expect(readdirSync(dir).sort()).toEqual(names)
  })

  test('is ASCII, asks for nothing outside, and names no folder of this machine', () => {
    for (const name of names) {
      expect(code(name), name).toMatch(/^[\0-\x7f]*$/)
      expect(foreignNames(code(name)), name).toEqual([])
      expect(code(name), name).not.toContain(root)
    }
  })

  test('loads gRPC, native code and oclif only where they are needed', () => {
    const first = reachableAtOnce('main.cjs')
    expect(first.length).toBeGreaterThan(3)
    expect(first.filter((name) => /grpc|oclif|protobuf|native|serve/.test(name))).toEqual([])
  })

  test('starts a server without jose, which is loaded when it is needed', () => {
    const server = reachableAtOnce('serve2.cjs')
    expect(server).toContain('protobuf.cjs')
    expect(server.filter((name) => code(name).includes('ERR_JWS_INVALID'))).toEqual([])
    expect(names.filter((name) => code(name).includes('ERR_JWS_INVALID'))).toHaveLength(1)
  })

  test('has no gRPC but our own, and no HTTP/2 of Node', () => {
    expect(modules.filter((module) => module.includes('/node_modules/@grpc/'))).toEqual([])
    for (const name of names) expect(code(name), name).not.toMatch(/require\("(node:)?http2"\)/)
  })

  test('leaves out what oclif loads and no command uses', () => {
    const inside = (path: string) => modules.some((module) => module.endsWith(path))
    expect(inside('/@oclif/core/lib/parser/parse.js')).toBe(true)
    for (const path of ['config/plugin-loader.js', 'config/ts-path.js', 'help/index.js', 'ux/action/spinner.js'])
      expect(inside(`/@oclif/core/lib/${path}`), path).toBe(false)
    for (const name of ['ejs', 'minimatch', 'tinyglobby', 'typescript', 'wrap-ansi', 'cli-spinners'])
      expect(modules.filter((module) => module.includes(`/node_modules/${name}/`))).toEqual([])
  })

  test('is the same when it is made again', async () => {
    const again = mkdtempSync(join(tmpdir(), 'nsm-bundle-'))
    try {
      expect((await bundle(root, again)).chunks).toEqual(names)
      for (const name of names) expect(readFileSync(join(again, name), 'latin1'), name).toBe(code(name))
    } finally {
      rmSync(again, { recursive: true, force: true })
    }
  })

  /** The chunks that a chunk requires when it is loaded, and theirs; not those of an `import()`. */
  function reachableAtOnce(name: string, seen = new Set<string>()): readonly string[] {
    if (seen.has(name)) return []
    seen.add(name)
    const eager = code(name).replaceAll(/then\(\(?\(?\)?=>\s*require\([^)]*\)/g, '')
    for (const [, next = ''] of eager.matchAll(/require\([`"']\.\/([^`"']+)[`"']\)/g)) reachableAtOnce(next, seen)
    return [...seen]
  }
})
