import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bundle, foreignNames } from '../../scripts/package/bundle.ts'

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
