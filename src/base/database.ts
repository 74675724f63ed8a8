import { closeSync, constants, openSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { NsmError } from './errors.ts'

/** A file of one store: its tables, and the number that is raised with each change of them. */
export interface DatabaseFile {
  /** `:memory:` keeps nothing. */
  readonly path: string
  readonly schema: string
  readonly schemaVersion: number
  /** Statements that make version 2 out of 1, 3 out of 2 and so on, as far back as files are taken over. */
  readonly steps?: readonly string[]
}

/** Ours: another process that reads the file (a backup, an inspection) is waited for this long. */
const busyTimeoutMs = 5_000

/**
 * Opens or makes a SQLite file that only its owner reads, and brings an older one up to date; throws `CONFLICT` for a file of
 * a schema version that cannot be.
 */
export function openDatabase({ path, schema, schemaVersion, steps = [] }: DatabaseFile): DatabaseSync {
  // SQLite gives its side files (-wal, -shm) the mode of the main file.
  if (path !== ':memory:') closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600))
  const database = new DatabaseSync(path, { timeout: busyTimeoutMs })
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL')
  const version = Number(database.prepare('PRAGMA user_version').get()?.['user_version'])
  if (version === schemaVersion) return database
  const missing = version === 0 ? [schema] : steps.slice(steps.length - (schemaVersion - version))
  if (version > schemaVersion || (version !== 0 && missing.length < schemaVersion - version)) {
    database.close()
    const which = version > schemaVersion ? 'a newer' : 'an older'
    throw new NsmError('CONFLICT', `${path} was written by ${which} nsm (schema version ${version})`, 'run that nsm')
  }
  database.exec(`BEGIN; ${missing.join(' ')} PRAGMA user_version = ${schemaVersion}; COMMIT`)
  return database
}

/**
 * Transactions that hold all writes of one turn of the event loop: a commit costs three times as much as a write. Reads of
 * the same database see the writes at once; `committed` tells when a crash of this process cannot take them back. A loss
 * of power can take back what was committed since the last checkpoint, in both ways of writing: `synchronous` is NORMAL.
 */
export interface GroupedWrites {
  /** Before each write. */
  begin(): void
  /** Resolves when every write so far is on disk; rejects when none of its turn is. */
  committed(): Promise<void>
  /** Commits what is open; before the database is closed. */
  finish(): void
}

/** Groups the writes of a database that nobody else begins transactions on; `onLost`: those of a turn are not on disk. */
export function groupWrites(database: DatabaseSync, onLost = () => {}): GroupedWrites {
  const [begin, commit] = [database.prepare('BEGIN IMMEDIATE'), database.prepare('COMMIT')]
  let open: PromiseWithResolvers<void> | undefined
  const finish = () => {
    const ended = open
    open = undefined
    if (!ended) return
    try {
      commit.run()
      ended.resolve()
    } catch (error) {
      ended.reject(error)
      undo(database, onLost)
    }
  }
  return {
    begin() {
      if (open) return
      begin.run()
      open = Promise.withResolvers()
      /** Nobody may be waiting for it. */
      open.promise.catch(() => {})
      setImmediate(finish)
    },
    committed: async () => open?.promise,
    finish,
  }
}

/** Nobody waits for it who could be told: they have the commit's own error. */
function undo(database: DatabaseSync, onLost: () => void): void {
  try {
    if (database.isTransaction) database.exec('ROLLBACK')
    onLost()
  } catch {}
}
