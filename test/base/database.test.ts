import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openDatabase } from '../../src/base/database.ts'
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

  test('keeps nothing in memory and makes no file for it', () => {
    const first = openDatabase({ path: ':memory:', schema, schemaVersion: 1 })
    first.exec("INSERT INTO things VALUES ('a')")
    const second = openDatabase({ path: ':memory:', schema, schemaVersion: 1 })
    expect(second.prepare('SELECT name FROM things').all()).toEqual([])
    first.close()
    second.close()
  })
})
