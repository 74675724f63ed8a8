import { lstat, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { silentLog } from '../../../src/base/log.ts'
import type { FileJournal } from '../../../src/dns/os/journal.ts'
import { restoreResolvFile, writeResolvFile } from '../../../src/dns/os/resolv-file.ts'
import { scratchDir } from '../../support/scratch.ts'

const mine = '# nsm: 127.0.0.55 answers\nnameserver 127.0.0.55\n'

async function paths() {
  const dir = await scratchDir()
  return { path: join(dir, 'resolv.conf'), journalPath: join(dir, 'journal') }
}

/** A journal of a file that is written in place, as in a container. */
function inPlace(path: string, host: string, ours: readonly string[] = [mine]): FileJournal {
  const contentBase64 = Buffer.from(host, 'latin1').toString('base64')
  const previous = { kind: 'file' as const, mode: 0o644, uid: 0, gid: 0, contentBase64 }
  const written = { version: 1 as const, bootId: '', pid: 1 }
  return { ...written, method: 'file', path, writtenPath: path, keepsInode: true, previous, ours }
}

const latin1 = fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) })

describe('restoreResolvFile of a file that is written in place', () => {
  test('brings the host text back after a write that was cut off anywhere', async () => {
    const { path } = await paths()
    const cuts = fc.record({ host: latin1, at: fc.nat(mine.length) })
    await fc.assert(
      fc.asyncProperty(cuts, async ({ host, at }) => {
        await writeFile(path, mine.slice(0, at) + host.slice(at), 'latin1')
        const { ino } = await lstat(path)
        await restoreResolvFile(inPlace(path, host), silentLog)
        expect(await readFile(path, 'latin1')).toBe(host)
        expect((await lstat(path)).ino).toBe(ino)
      }),
    )
  })

  test('brings the host text back from the one before the last change, too', async () => {
    const { path } = await paths()
    const newer = mine.replace('nameserver', 'search green.test\nnameserver')
    for (const text of [mine, newer, newer.slice(0, 30) + mine.slice(30), mine.slice(0, 30) + newer.slice(30)]) {
      await writeFile(path, text)
      expect(await restoreResolvFile(inPlace(path, 'nameserver 192.0.2.1\n', [newer, mine]), silentLog)).toBe(
        'restored',
      )
      expect(await readFile(path, 'utf8')).toBe('nameserver 192.0.2.1\n')
    }
  })

  test.each([
    ['another server', 'nameserver 198.51.100.1\n'],
    ['our text with a line of somebody else', `${mine}nameserver 198.51.100.1\n`],
  ])('leaves %s alone', async (_what, text) => {
    const { path } = await paths()
    await writeFile(path, text)
    expect(await restoreResolvFile(inPlace(path, 'nameserver 192.0.2.1\n'), silentLog)).toBe('left')
    expect(await readFile(path, 'utf8')).toBe(text)
  })

  test('finds nothing to do where the host text stands again', async () => {
    const { path } = await paths()
    await writeFile(path, 'nameserver 192.0.2.1\n')
    expect(await restoreResolvFile(inPlace(path, 'nameserver 192.0.2.1\n'), silentLog)).toBe('nothing')
  })
})

describe('writeResolvFile', () => {
  test('remembers the object from before the first change, and two texts of ours at most', async () => {
    const at = await paths()
    await writeFile(`${at.path}.real`, 'nameserver 192.0.2.1\n')
    await symlink(`${basename(at.path)}.real`, at.path)
    let journal: FileJournal | undefined
    for (const text of ['one', 'two', 'three']) journal = await writeResolvFile(at, text, journal)
    expect(journal).toMatchObject({ ours: ['three', 'two'], previous: { kind: 'symlink', target: 'resolv.conf.real' } })
    expect(JSON.parse(await readFile(at.journalPath, 'utf8'))).toEqual(journal)
    expect(await readFile(`${at.path}.real`, 'utf8')).toBe('nameserver 192.0.2.1\n')
    expect((await readdir(dirname(at.path))).toSorted()).toEqual(['journal', 'resolv.conf', 'resolv.conf.real'])
  })
})
