import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Script } from 'node:vm'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { chunksPart, packChunks, unpackChunks } from '../../scripts/package/pack-chunks.ts'

let dir = ''
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nsm-pack-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

const put = (name: string, content: string | Uint8Array) => writeFileSync(join(dir, name), content)

describe('packChunks', () => {
  test('puts every chunk, and the cache of each that has one, into one part', () => {
    put('cli.cjs', 'exports.run = 1')
    put('other.cjs', '')
    put('other.cjs.cache', new Uint8Array([0, 255, 128]))
    put('boot.cjs', 'no chunk')
    packChunks(dir, ['cli.cjs', 'other.cjs'])
    expect(unpacked()).toEqual({
      'cli.cjs': 'exports.run = 1',
      'other.cjs': '',
      'other.cjs.cache': '\u0000\u00ff\u0080',
    })
  })

  test('is the same whenever it is made of the same chunks', () => {
    put('a.cjs', 'a')
    put('b.cjs', 'bb')
    packChunks(dir, ['a.cjs', 'b.cjs'])
    const first = readFileSync(join(dir, chunksPart))
    packChunks(dir, ['a.cjs', 'b.cjs'])
    expect(readFileSync(join(dir, chunksPart)).equals(first)).toBe(true)
  })
})

describe('the boot script', () => {
  const boot = readFileSync(join(import.meta.dirname, '../../scripts/package/boot.cjs'), 'latin1')

  test('runs the first chunk, and chunks find each other and nothing else', () => {
    put('cli.cjs', 'exports.run = () => require("./other.cjs").answer; // the end')
    put(
      'other.cjs',
      `exports.answer = [typeof require("node:fs").readSync, tried("koffi"), tried("../x.cjs")]; ${tried}`,
    )
    packChunks(dir, ['cli.cjs', 'other.cjs'])
    expect(start(['nsm', 'status'])).toEqual(['function', 'MODULE_NOT_FOUND', 'MODULE_NOT_FOUND'])
  })

  test('keeps from the program what would change whom it trusts or where it writes', () => {
    put('cli.cjs', 'exports.run = () => {}')
    packChunks(dir, ['cli.cjs'])
    const env = { NODE_OPTIONS: 'a', NODE_EXTRA_CA_CERTS: 'b', SSLKEYLOGFILE: 'c', OPENSSL_CONF: 'd', NSM_JOIN: 'e' }
    start(['nsm', 'status'], env)
    expect(env).toEqual({ NSM_JOIN: 'e' })
  })

  /** Runs the boot script as the executable would, with the parts of the folder; gives what the command line's chunk answers. */
  function start(words: readonly string[], env: NodeJS.ProcessEnv = {}): unknown {
    const sea = { getRawAsset: (name: string) => Uint8Array.from(readFileSync(join(dir, name))).buffer }
    const builtin = (id: string) => (id === 'node:sea' ? sea : process.getBuiltinModule(id))
    const process_ = { argv: [words[0], ...words], env, execPath: '/x', getBuiltinModule: builtin, on() {} }
    const script = new Script(
      `(function (process, globalThis) { ${boot.replace("load('./cli.cjs').run()", "globalThis.answer = load('./cli.cjs').run()")} })`,
    )
    const globals: { answer?: unknown } = {}
    script.runInThisContext()(process_, globals)
    return globals.answer
  }
})

/** For a chunk: what asking for a part says. */
const tried = 'function tried(id) { try { return typeof require(id) } catch (error) { return error.code } }'

function unpacked(): Record<string, string> {
  const all = unpackChunks(readFileSync(join(dir, chunksPart)))
  return Object.fromEntries([...all].map(([name, content]) => [name, content.toString('latin1')]))
}
