import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { type AddonPlaces, loadAddon } from '../../src/tunnel/sys/addon.ts'
import type { Koffi } from '../../src/tunnel/sys/native.ts'

const isRoot = process.getuid?.() === 0
const packages = resolve(import.meta.dirname, '../../node_modules')
const addonPath = join(packages, `@koromix/koffi-linux-${process.arch}/linux_${process.arch}/koffi.node`)
const read = (name: string) => new Uint8Array(readFileSync(name === 'koffi.node' ? addonPath : name))

let dir = ''
let places: AddonPlaces = { runtimeDir: '', stateDir: '' }
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nsm-addon-'))
  places = { runtimeDir: join(dir, 'run'), stateDir: join(dir, 'state') }
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

const load = () => loadAddon<Koffi>('koffi.node', places, read)
const getpid = (koffi: Koffi) => koffi.load(null).func('int getpid()')()

describe('loadAddon', () => {
  test('loads what the executable holds and leaves no file behind', () => {
    expect(getpid(load().exports)).toBe(process.pid)
    expect(readdirSync(join(places.runtimeDir, 'native'))).toEqual([])
    expect(statSync(join(places.runtimeDir, 'native')).mode & 0o777).toBe(0o700)
    expect(readdirSync(dir)).toEqual(['run'])
  })

  test('gives every load a file of its own, each of which works', () => {
    const [first, second] = [load(), load()]
    expect(second.path).not.toBe(first.path)
    expect([getpid(first.exports), getpid(second.exports)]).toEqual([process.pid, process.pid])
  })

  const planted: readonly (readonly [string, (native: string) => void])[] = [
    ['a link to a directory', (native) => symlinkSync(dir, native)],
    ['a link to nothing', (native) => symlinkSync(join(dir, 'nothing'), native)],
    ['a file', (native) => writeFileSync(native, 'planted')],
    ['a directory that others may write', (native) => mkdirAs(native, 0o777)],
    ['a directory that the group may write', (native) => mkdirAs(native, 0o770)],
  ]
  test.each(planted)('passes over %s in its place, changes nothing there, and uses the next', (_what, plant) => {
    mkdirAs(places.runtimeDir, 0o700)
    plant(join(places.runtimeDir, 'native'))
    const before = readdirSync(dir)
    expect(getpid(load().exports)).toBe(process.pid)
    expect(readdirSync(join(places.stateDir, 'native'))).toEqual([])
    expect(readdirSync(dir)).toEqual([...before, 'state'])
  })

  test('passes over a parent directory that others may write: they could put another directory there', () => {
    mkdirAs(places.runtimeDir, 0o777)
    load()
    expect(readdirSync(places.runtimeDir)).toEqual([])
  })

  test.skipIf(!isRoot)('passes over a directory of another user (needs root to make one)', () => {
    mkdirAs(places.runtimeDir, 0o700)
    mkdirAs(join(places.runtimeDir, 'native'), 0o700)
    chownSync(join(places.runtimeDir, 'native'), 65_534, 65_534)
    load()
    expect(readdirSync(places.stateDir)).toEqual(['native'])
  })

  test('says of every place why it did not serve', () => {
    mkdirAs(places.runtimeDir, 0o777)
    writeFileSync(places.stateDir, '')
    const error = thrownBy(load)
    expect(error.code).toBe('PERMISSION')
    expect(error.message).toContain(`${places.runtimeDir}/native (others may write it)`)
    expect(error.message).toMatch(/state\/native \((EEXIST|ENOTDIR)\)/)
    expect(error.next).toContain('NSM_RUNTIME_DIR')
  })

  test('says what the loader says of bytes that are no library, without the name they had', () => {
    const error = thrownBy(() => loadAddon(import.meta.filename, places, read))
    expect(error.message).toMatch(/run\/native \((invalid ELF header|file too short)\)/)
    expect(error.message).not.toContain('/proc/self/fd')
    expect(readdirSync(join(places.stateDir, 'native'))).toEqual([])
  })
})

function mkdirAs(path: string, mode: number): void {
  mkdirSync(path)
  chmodSync(path, mode)
}

function thrownBy(act: () => unknown): NsmError {
  try {
    act()
  } catch (error) {
    if (error instanceof NsmError) return error
    throw error
  }
  throw new NsmError('BUG', 'nothing was thrown', 'look at the test')
}
