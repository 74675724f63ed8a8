import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { groupWrites, openDatabase } from '../../src/base/database.ts'
import { scratchDir } from '../support/scratch.ts'

const schema = 'CREATE TABLE things (name TEXT PRIMARY KEY) STRICT;'

describe('openDatabase', () => {
  test('makes a file that only its owner may read, also the files beside it', async () => {
    const path = join(await scratchDir(), 'a.db')
    const database = openDatabase({ path, schema, schemaVersion: 1 })
    database.exec("INSERT INTO things VALUES ('a')")
    for (const file of [path, `${path}-wal`, `${path}-shm`]) expect((await stat(file)).mode & 0o777).toBe(0o600)
    database.close()
  })

  test('finds what an earlier process wrote', async () => {
    const path = join(await scratchDir(), 'a.db')
    const first = openDatabase({ path, schema, schemaVersion: 1 })
    first.exec("INSERT INTO things VALUES ('a')")
    first.close()
    const second = openDatabase({ path, schema, schemaVersion: 1 })
    expect(second.prepare('SELECT name FROM things').all()).toEqual([{ name: 'a' }])
    second.close()
  })

  test.each([
    [2, 1, 'a newer nsm'],
    [1, 2, 'an older nsm'],
  ])('refuses a file of schema version %i when it writes %i', async (written, wanted, says) => {
    const path = join(await scratchDir(), 'a.db')
    openDatabase({ path, schema, schemaVersion: written }).close()
    expect(() => openDatabase({ path, schema, schemaVersion: wanted })).toThrow(
      expect.objectContaining({ code: 'CONFLICT', message: expect.stringContaining(says) }),
    )
  })

  test.each([1, 2, 3])('brings a file of schema version %i up to date, and keeps what is in it', async (written) => {
    const path = join(await scratchDir(), 'a.db')
    const steps = ["ALTER TABLE things ADD COLUMN size TEXT DEFAULT 'b';", "UPDATE things SET size = size || 'c';"]
    const before = openDatabase({ path, schema, schemaVersion: written, steps })
    before.exec(written === 1 ? '' : (steps[0] ?? ''))
    before.exec("INSERT INTO things (name) VALUES ('a')")
    before.close()
    const after = openDatabase({ path, schema, schemaVersion: 3, steps })
    expect(after.prepare('SELECT size FROM things').get()).toEqual({ size: written === 3 ? 'b' : 'bc' })
    expect(after.prepare('PRAGMA user_version').get()).toEqual({ user_version: 3 })
    after.close()
  })

  test('refuses a file that is older than its steps go back', async () => {
    const path = join(await scratchDir(), 'a.db')
    openDatabase({ path, schema, schemaVersion: 1 }).close()
    expect(() => openDatabase({ path, schema, schemaVersion: 3, steps: ['SELECT 1;'] })).toThrow('an older nsm')
  })

  test('keeps nothing in memory and makes no file for it', () => {
    const first = openDatabase({ path: ':memory:', schema, schemaVersion: 1 })
    first.exec("INSERT INTO things VALUES ('a')")
    const second = openDatabase({ path: ':memory:', schema, schemaVersion: 1 })
    expect(second.prepare('SELECT name FROM things').all()).toEqual([])
    first.close()
    second.close()
  })
})

describe('groupWrites', () => {
  const names = (database: { prepare(sql: string): { all(): unknown[] } }) =>
    database.prepare('SELECT name FROM things').all()

  /** A file with two openers: who writes, and who sees only what is committed. */
  async function openTwice(extra = '') {
    const path = join(await scratchDir(), 'a.db')
    const database = openDatabase({ path, schema: `${schema}${extra}`, schemaVersion: 1 })
    const other = openDatabase({ path, schema, schemaVersion: 1 })
    const writes = groupWrites(database)
    const add = (name: string) => {
      writes.begin()
      database.prepare('INSERT INTO things VALUES (?)').run(name)
    }
    return { database, other, writes, add }
  }

  test('writes of one turn are seen here at once, by others together, and committed says when', async () => {
    const { database, other, writes, add } = await openTwice()
    add('a')
    add('b')
    expect([names(database), names(other)]).toEqual([[{ name: 'a' }, { name: 'b' }], []])
    await writes.committed()
    expect(names(other)).toEqual([{ name: 'a' }, { name: 'b' }])
    add('c')
    await writes.committed()
    expect(names(other)).toHaveLength(3)
  })

  test('committed is there at once when nothing was written', async () => {
    const { writes, database } = await openTwice()
    await writes.committed()
    expect(database.isTransaction).toBe(false)
  })

  test('finish commits what is open, once, and the database can be closed', async () => {
    const { database, other, writes, add } = await openTwice()
    add('a')
    const committed = writes.committed()
    writes.finish()
    writes.finish()
    expect(names(other)).toEqual([{ name: 'a' }])
    database.close()
    await committed
    await new Promise(setImmediate)
  })

  test('a turn that cannot be committed is told to all who wait, leaves nothing, and the next one is written', async () => {
    const owned = 'CREATE TABLE owned (name TEXT REFERENCES things (name) DEFERRABLE INITIALLY DEFERRED) STRICT;'
    const { database, other, writes, add } = await openTwice(owned)
    add('a')
    const first = writes.committed()
    database.exec("INSERT INTO owned VALUES ('nobody')")
    await expect(Promise.all([first, writes.committed()])).rejects.toThrow(/FOREIGN KEY/)
    expect([names(database), database.isTransaction]).toEqual([[], false])
    add('b')
    await writes.committed()
    expect(names(other)).toEqual([{ name: 'b' }])
  })

  test('a turn that nobody waits for may fail without ending the process', async () => {
    const owned = 'CREATE TABLE owned (name TEXT REFERENCES things (name) DEFERRABLE INITIALLY DEFERRED) STRICT;'
    const { database, writes } = await openTwice(owned)
    writes.begin()
    database.exec("INSERT INTO owned VALUES ('nobody')")
    await new Promise(setImmediate)
    await new Promise(setImmediate)
    expect(database.isTransaction).toBe(false)
  })
})
