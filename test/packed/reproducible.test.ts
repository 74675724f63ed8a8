import { hash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { buildExecutable } from '../../scripts/package/build-executable.ts'
import { bundle } from '../../scripts/package/bundle.ts'
import { notices } from '../../scripts/package/notices.ts'
import { chunksPart, packChunks } from '../../scripts/package/pack-chunks.ts'
import { copyCodeCaches } from '../../scripts/package/released-caches.ts'
import { softwareBill } from '../../scripts/package/software-bill.ts'
import { ownTarget } from '../../scripts/package/target.ts'

const root = resolve(import.meta.dirname, '../..')
const dir = mkdtempSync(join(tmpdir(), 'nsm-twice-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
describe('copyCodeCaches', () => {
  test('takes the caches and nothing else out of an executable', () => {
    const [from, to] = [join(dir, 'from'), join(dir, 'to')]
    for (const folder of [from, to]) mkdirSync(folder)
    const files = { 'a.cjs': 'code', 'a.cjs.cache': 'cache of a', 'b.cjs': 'more' }
    for (const [name, text] of Object.entries(files)) writeFileSync(join(from, name), text)
    packChunks(from, ['a.cjs', 'b.cjs'])
    const packed = readFileSync(join(from, chunksPart))
    const lengths = Buffer.alloc(16)
    lengths.writeUInt32LE(chunksPart.length, 0)
    lengths.writeUInt32LE(packed.length, 8)
    const [name, content] = [lengths.subarray(0, 8), lengths.subarray(8)]
    const file = Buffer.concat([Buffer.from(`before ${chunksPart}`), name, Buffer.from(chunksPart), content, packed])
    writeFileSync(join(dir, 'executable'), file)
    copyCodeCaches(join(dir, 'executable'), to)
    expect(readdirSync(to)).toEqual(['a.cjs.cache'])
    expect(readFileSync(join(to, 'a.cjs.cache'), 'utf8')).toBe('cache of a')
  })

  test('refuses a file that is none', () => {
    expect(() => copyCodeCaches(import.meta.filename, dir)).toThrow('is no executable of nsm')
  })
})

const isPacked = process.env['NSM_PROGRAM'] !== undefined

describe.skipIf(!isPacked)('two builds of the same sources (npm run test:packed)', () => {
  test('are the same to the byte without code caches: program, bill and notices', async () => {
    const sums = []
    for (const name of ['one', 'two']) {
      const chunks = join(dir, name)
      mkdirSync(chunks)
      const { modules } = await bundle(root, chunks)
      const [target, output] = [ownTarget(), join(dir, `${name}.out`, 'nsm')]
      buildExecutable(target, { chunks, caches: 'none', output })
      const texts = [notices(root, modules, target), softwareBill({ root, modules, target, path: output })]
      sums.push([readFileSync(output), ...texts].map((content) => hash('sha256', content)))
    }
    expect(sums[1]).toEqual(sums[0])
  })

  test('are the same to the byte with the code caches of the first', async () => {
    const chunks = join(dir, 'with')
    mkdirSync(chunks)
    await bundle(root, chunks)
    const [first, second] = [join(dir, 'first', 'nsm'), join(dir, 'second', 'nsm')]
    buildExecutable(ownTarget(), { chunks, caches: 'made', output: first })
    buildExecutable(ownTarget(), { chunks, caches: { of: first }, output: second })
    expect(readFileSync(first).includes('cli.cjs.cache')).toBe(true)
    expect(readFileSync(second).equals(readFileSync(first))).toBe(true)
  })
})
