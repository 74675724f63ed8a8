import { lstat, readdir, readFile, readlink, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  captureFile,
  mustKeepInode,
  realPathOf,
  removeTemporaries,
  replaceFile,
  sameObject,
  writeInPlace,
} from '../../../src/dns/os/file-object.ts'
import { scratchDir } from '../../support/scratch.ts'

describe('removeTemporaries', () => {
  test('removes those of processes that are no more, and nothing else', async () => {
    const dir = await scratchDir()
    const dead = ['resolv.conf.nsm-999999999', 'resolv.conf.nsm-999999998']
    const others = [
      'resolv.conf',
      `resolv.conf.nsm-${process.pid}`,
      'resolv.conf.nsm-old',
      'xresolv.conf.nsm-999999999',
    ]
    for (const name of [...dead, ...others]) await writeFile(join(dir, name), name)
    await removeTemporaries(join(dir, 'resolv.conf'))
    expect((await readdir(dir)).sort()).toEqual([...others].sort())
  })

  test('has nothing to do in a folder that is not there', async () => {
    await removeTemporaries(join(await scratchDir(), 'gone', 'resolv.conf'))
  })
})

describe('replaceFile', () => {
  test('brings back what captureFile saw: file, link, absence', async () => {
    const path = join(await scratchDir(), 'resolv.conf')
    const absent = await captureFile(path)
    await writeFile(path, Buffer.from([0, 255, 10]), { mode: 0o640 })
    const file = await captureFile(path)
    await replaceFile(path, { kind: 'symlink', target: 'elsewhere' })
    const link = await captureFile(path)
    expect(await readlink(path)).toBe('elsewhere')
    await replaceFile(path, file)
    expect([...(await readFile(path))]).toEqual([0, 255, 10])
    expect((await lstat(path)).mode & 0o777).toBe(0o640)
    await replaceFile(path, absent)
    await expect(lstat(path)).rejects.toMatchObject({ code: 'ENOENT' })
    expect([absent, link].map(({ kind }) => kind)).toEqual(['absent', 'symlink'])
    expect([sameObject(file, file), sameObject(file, link), sameObject(absent, link)]).toEqual([true, false, false])
  })
})

describe('writeInPlace', () => {
  test.each(['short', 'a text that is longer than the one before'])('keeps inode and mode for %j', async (text) => {
    const path = join(await scratchDir(), 'resolv.conf')
    await writeFile(path, 'what was there before', { mode: 0o604 })
    const before = await lstat(path)
    await writeInPlace(path, Buffer.from(text))
    const after = await lstat(path)
    expect([after.ino, after.mode, await readFile(path, 'utf8')]).toEqual([before.ino, before.mode, text])
  })
})

describe('paths', () => {
  test('a file of a network name space and a mount keep their inode, a plain file does not', async () => {
    expect(await mustKeepInode('/etc/netns/blue/resolv.conf')).toBe(true)
    expect(await mustKeepInode('/proc')).toBe(true)
    expect(await mustKeepInode(join(await scratchDir(), 'resolv.conf'))).toBe(false)
  })

  test('realPathOf follows links and gives a dangling one as it is', async () => {
    const dir = await realPathOf(await scratchDir())
    await writeFile(join(dir, 'real'), '')
    await symlink('real', join(dir, 'link'))
    await symlink('nowhere', join(dir, 'dangling'))
    expect(await realPathOf(join(dir, 'link'))).toBe(join(dir, 'real'))
    expect(await realPathOf(join(dir, 'dangling'))).toBe(join(dir, 'dangling'))
  })
})
