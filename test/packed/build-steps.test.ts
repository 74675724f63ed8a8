import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { buildTimeS } from '../../scripts/package/build-time.ts'
import { runnerOf } from '../../scripts/package/code-caches.ts'
import { licenceFiles } from '../../scripts/package/contents.ts'
import { packageFolder } from '../../scripts/package/npm-package.ts'
import { writeParts } from '../../scripts/package/parts.ts'
import { runTool } from '../../scripts/package/run-tool.ts'
import { ownTarget, targets } from '../../scripts/package/target.ts'
import { template } from '../../scripts/package/unix-tree.ts'
import { versionLine } from '../../src/ui/version-info.ts'

const root = resolve(import.meta.dirname, '../..')
const dir = mkdtempSync(join(tmpdir(), 'nsm-steps-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
afterEach(() => vi.unstubAllEnvs())

describe('buildTimeS', () => {
  test('is SOURCE_DATE_EPOCH where that is set', () => {
    vi.stubEnv('SOURCE_DATE_EPOCH', '1234567890')
    expect(buildTimeS()).toBe(1_234_567_890)
  })

  test.each(['', 'yesterday', '-1', '1.5'])('is a fixed time where SOURCE_DATE_EPOCH is %j', (value) => {
    vi.stubEnv('SOURCE_DATE_EPOCH', value)
    expect(new Date(buildTimeS() * 1_000).toISOString()).toBe('2026-01-01T00:00:00.000Z')
  })

  test('is otherwise the same whenever it is asked', () => {
    vi.stubEnv('SOURCE_DATE_EPOCH', undefined)
    expect(buildTimeS()).toBe(buildTimeS())
  })
})

describe('runTool', () => {
  test('gives every program the time of the build, in UTC, and the folder it is to run in', () => {
    vi.stubEnv('SOURCE_DATE_EPOCH', '42')
    runTool('sh', ['-c', 'echo "$SOURCE_DATE_EPOCH $TZ $(pwd)" > said'], dir)
    expect(readFileSync(join(dir, 'said'), 'utf8')).toBe(`42 UTC ${dir}\n`)
  })

  test('throws what a program said when it fails', () => {
    expect(() => runTool('sh', ['-c', 'echo because >&2; exit 3'])).toThrow('sh failed: because')
  })

  test('says which program is not there', () => {
    expect(() => runTool('no-such-program', [])).toThrow(
      expect.objectContaining({ code: 'USAGE', message: expect.stringContaining('no-such-program') }),
    )
  })
})

describe('runnerOf', () => {
  test("runs this machine's Node as it is, and none of Windows or macOS", () => {
    expect(runnerOf(ownTarget(), '/node')).toEqual(['/node'])
    for (const target of targets.filter(({ format }) => format !== 'elf'))
      expect(runnerOf(target, '/node')).toBeUndefined()
  })

  test('emulates no program that does not start', () => {
    const other = targets.find(({ name, format }) => format === 'elf' && name !== ownTarget().name)
    expect(other && runnerOf(other, '/nothing')).toBeUndefined()
  })
})

describe('writeParts', () => {
  test('writes what every start needs, and the native code of the platform as its packages have it', () => {
    const parts = join(dir, 'parts')
    mkdirSync(parts)
    const target = ownTarget()
    writeParts(parts, target)
    const names = ['boot.cjs', 'engine.wasm', 'help.txt', 'keyring.node', 'koffi.node', 'package.json', 'version.txt']
    expect(readdirSync(parts).sort()).toEqual(names)
    for (const addon of target.addons) {
      const original = readFileSync(join(packageFolder(addon.package), addon.path))
      expect(readFileSync(join(parts, addon.part)).equals(original)).toBe(true)
    }
    const engine = readFileSync(join(root, 'src/tunnel/wireguard/engine.wasm'))
    expect(readFileSync(join(parts, 'engine.wasm')).equals(engine)).toBe(true)
    expect(readFileSync(join(parts, 'version.txt'), 'utf8')).toBe(`${versionLine()}\n`)
  })

  test('tells of the project no more than its name and version', () => {
    const told: unknown = JSON.parse(readFileSync(join(dir, 'parts/package.json'), 'utf8'))
    expect(told).toEqual({ name: 'nsm', version: expect.stringMatching(/^\d+\.\d+\.\d+/) })
  })
})

describe('licenceFiles', () => {
  test('are every licence, copying and notice file of a folder, whatever its case, in one order', () => {
    const folder = join(dir, 'package')
    mkdirSync(folder)
    const files = {
      'license.md': 'A\n',
      NOTICE: 'B',
      'COPYING.txt': 'C',
      'LICENCE-MIT': 'D',
      'README.md': 'no',
      'my-license': 'no',
    }
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
    expect(licenceFiles(folder)).toBe('C\n\nD\n\nB\n\nA')
  })
})

describe('template', () => {
  test('fills in the fields that it is given and leaves the others', () => {
    const control = template('deb/control', { VERSION: '1.2.3', ARCHITECTURE: 'arm64' })
    expect(control).toMatch(/^Version: 1\.2\.3$/m)
    expect(control).toMatch(/^Architecture: arm64$/m)
    expect(control).toContain('Installed-Size: @INSTALLED_KIB@')
  })

  test('leaves what only looks like one', () => {
    expect(template('deb/control', { VERSION: '1' })).toContain('<nsm@example.org>')
  })
})
