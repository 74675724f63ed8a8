import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { makePrivateDir, readPrivateFile, writeFileAtomic } from '../../src/base/files.ts'
import { scratchDir } from '../support/scratch.ts'

let dir = ''
beforeEach(async () => {
  dir = await scratchDir()
})
const refused = expect.objectContaining({ code: 'PERMISSION' })

describe('private files', () => {
  test('makePrivateDir makes a directory nobody else can enter', async () => {
    await makePrivateDir(join(dir, 'a/b'))
    expect((await stat(join(dir, 'a/b'))).mode & 0o777).toBe(0o700)
    await expect(makePrivateDir(join(dir, 'a/b'))).resolves.toBeUndefined()
  })

  test('makePrivateDir gives the mode that was asked for, whatever the umask', async () => {
    const before = process.umask(0o077)
    await makePrivateDir(join(dir, 'run'), 0o755).finally(() => process.umask(before))
    expect((await stat(join(dir, 'run'))).mode & 0o777).toBe(0o755)
  })

  test('makePrivateDir refuses a directory that others may write, and a link', async () => {
    await mkdir(join(dir, 'open'))
    await chmod(join(dir, 'open'), 0o777)
    await expect(makePrivateDir(join(dir, 'open'))).rejects.toThrow(refused)
    await symlink('/', join(dir, 'link'))
    await expect(makePrivateDir(join(dir, 'link'))).rejects.toThrow(refused)
  })

  test('writeFileAtomic lets writes at the same time not meet: one whole text wins', async () => {
    const path = join(dir, 'f')
    const texts = Array.from({ length: 20 }, (_, i) => String(i).repeat(10_000))
    await Promise.all(texts.map((text) => writeFileAtomic(path, text)))
    expect(texts).toContain(await readFile(path, 'utf8'))
    expect(await readdir(dir)).toEqual(['f'])
  })

  test('writeFileAtomic that fails leaves the old file and nothing beside it', async () => {
    await mkdir(join(dir, 'f', 'full'), { recursive: true })
    await expect(writeFileAtomic(join(dir, 'f'), 'new')).rejects.toThrow()
    expect(await readdir(dir)).toEqual(['f'])
  })

  test('writeFileAtomic replaces the whole file, private, and leaves nothing beside it', async () => {
    const path = join(dir, 'f')
    await writeFileAtomic(path, 'one')
    await writeFileAtomic(path, 'two')
    expect(await readFile(path, 'utf8')).toBe('two')
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect(await readdir(dir)).toEqual(['f'])
  })

  test('readPrivateFile gives undefined for no file and refuses one that others may write', async () => {
    const path = join(dir, 'f')
    expect(await readPrivateFile(path)).toBeUndefined()
    await writeFile(path, 'x', { mode: 0o600 })
    expect(await readPrivateFile(path)).toBe('x')
    await chmod(path, 0o666)
    await expect(readPrivateFile(path)).rejects.toThrow(refused)
  })
})
