import { closeSync, constants, openSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { NsmError } from './errors.ts'

/** A file of one store: its tables, and the number that is raised with each change of them. */
export interface DatabaseFile {
  /** `:memory:` keeps nothing. */
  readonly path: string
  readonly schema: string
  readonly schemaVersion: number
}

/** Ours: another process that reads the file (a backup, an inspection) is waited for this long. */
const busyTimeoutMs = 5_000

/** Opens or makes a SQLite file that only its owner reads; throws `CONFLICT` for a file of another schema version. */
export function openDatabase({ path, schema, schemaVersion }: DatabaseFile): DatabaseSync {
  // SQLite gives its side files (-wal, -shm) the mode of the main file.
  if (path !== ':memory:') closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600))
  const database = new DatabaseSync(path, { timeout: busyTimeoutMs })
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL')
  const version = Number(database.prepare('PRAGMA user_version').get()?.['user_version'])
  if (version === schemaVersion) return database
  if (version !== 0) {
    database.close()
    const which = version > schemaVersion ? 'a newer' : 'an older'
    throw new NsmError('CONFLICT', `${path} was written by ${which} nsm (schema version ${version})`, 'run that nsm')
  }
  database.exec(`BEGIN; ${schema} PRAGMA user_version = ${schemaVersion}; COMMIT`)
  return database
}
