import { spawn, spawnSync } from 'node:child_process'
import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { makePrivateDir, readPrivateFile, removeFile, removeUnfinished, writeFileAtomic } from '../../src/base/files.ts'
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

  test('makePrivateDir refuses a file, and says what to do with it', async () => {
    await writeFile(join(dir, 'f'), 'x')
    await expect(makePrivateDir(join(dir, 'f'))).rejects.toMatchObject({
      code: 'PERMISSION',
      message: `${join(dir, 'f')} is not a directory`,
    })
    expect(await readFile(join(dir, 'f'), 'utf8')).toBe('x')
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

describe('what a killed writer left', () => {
  const ended = spawnSync('true').pid
  const leave = (...names: readonly string[]) =>
    Promise.all(names.map((name) => writeFile(join(dir, name), 'a secret', { mode: 0o600 })))

  test('of a file goes with the next write of that file, that of others stays', async () => {
    await leave(`key.${ended}.1.tmp`, `key.${ended}.0a1f.tmp`, `key.pem.${ended}.1.tmp`, `other.${ended}.2.tmp`)
    await writeFileAtomic(join(dir, 'key'), 'new')
    expect((await readdir(dir)).sort()).toEqual(['key', `key.pem.${ended}.1.tmp`, `other.${ended}.2.tmp`])
  })

  test('goes with the file it was to be, also where that never came to be', async () => {
    await leave('key', `key.${ended}.1.tmp`, `other.${ended}.1.tmp`)
    await removeFile(join(dir, 'key'))
    await removeFile(join(dir, 'other'))
    expect(await readdir(dir)).toEqual([])
    await expect(removeFile(join(dir, 'none', 'key'))).resolves.toBeUndefined()
  })

  test('of an earlier process with our own number goes as well', async () => {
    await leave(`key.${process.pid}.1.tmp`)
    await removeFile(join(dir, 'key'))
    expect(await readdir(dir)).toEqual([])
  })

  test('is told by name, and what a living process writes stays until that has ended', async () => {
    const writer = spawn('sleep', ['600'])
    const its = `key.${writer.pid}.1.tmp`
    await leave(its, `token.${ended}.1.tmp`, 'notes.tmp', 'a.b.1.tmp')
    expect(await removeUnfinished(dir)).toEqual(['token'])
    await writeFileAtomic(join(dir, 'key'), 'new')
    expect((await readdir(dir)).sort()).toEqual(['a.b.1.tmp', 'key', its, 'notes.tmp'].sort())
    const exited = new Promise((resolve) => writer.once('exit', resolve))
    writer.kill('SIGKILL')
    await exited
    expect(await removeUnfinished(dir)).toEqual(['key'])
    expect(await removeUnfinished(join(dir, 'absent'))).toEqual([])
  })

  test('is not what this process writes at the same time', async () => {
    const names = Array.from({ length: 40 }, (_, i) => `f${i % 4}`)
    const sweeps = names.map(() => removeUnfinished(dir))
    const writes = names.map((name) => writeFileAtomic(join(dir, name), 'x'.repeat(10_000)))
    const swept = await Promise.all([...sweeps, ...names.map(() => removeUnfinished(dir))])
    await Promise.all(writes)
    expect(swept.flat()).toEqual([])
    expect((await readdir(dir)).sort()).toEqual(['f0', 'f1', 'f2', 'f3'])
  })
})
