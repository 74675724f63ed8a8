import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { chmod, lstat, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { NsmError } from './errors.ts'
import { isAlive } from './is-alive.ts'
import { requireLinux } from './open.ts'

/** Makes a private directory (0700 by default) and refuses one that another user owns or may write. */
export async function makePrivateDir(path: string, mode = 0o700): Promise<void> {
  // Node shows no owners of files on Windows: nothing could be told from what somebody else has put there.
  if (process.getuid === undefined) requireLinux('identities and connections are kept')
  const made = await mkdir(path, { recursive: true, mode }).catch(taken)
  // The umask of a background process is narrower.
  if (made !== undefined) await chmod(path, mode)
  const found = await lstat(path)
  if (!found.isDirectory()) {
    throw new NsmError('PERMISSION', `${path} is not a directory`, 'remove it, or name another folder')
  }
  if (found.uid !== process.getuid?.()) throw unsafe(path, 'belongs to another user')
  if ((found.mode & 0o022) !== 0) throw unsafe(path, 'may be written by others')
}

/** What is in the way is looked at next. */
function taken(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'EEXIST') return undefined
  throw error
}

/**
 * Replaces a file in one step: temporary file, fsync, rename, fsync of the directory. Mode 0600 by default. What a process
 * that was killed in between left of this file goes too.
 */
export async function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  const temporary = join(
    dirname(path),
    `${basename(path)}.${process.pid}.${randomBytes(temporaryIdBytes).toString('hex')}.tmp`,
  )
  unfinished.add(temporary)
  try {
    await removeUnfinished(dirname(path), basename(path))
    await writeSynced(temporary, content, mode)
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  } finally {
    unfinished.delete(temporary)
  }
  await syncDir(dirname(path))
}

/** Resolves when what was renamed, made or removed in a directory is on disk. */
export async function syncDir(path: string): Promise<void> {
  const dir = await open(path, constants.O_RDONLY)
  try {
    await dir.sync()
  } finally {
    await dir.close()
  }
}

/** Ours: no two writes have one name, also of processes that had the same number one after the other. */
const temporaryIdBytes = 8
/** What this process writes; the later rename of one path wins, and no write sees another's half. */
const unfinished = new Set<string>()

/** Removes a file with what killed writers left of it; no failure when there is none. */
export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true })
  await removeUnfinished(dirname(path), basename(path))
}

/**
 * Removes what killed writers left in a directory, of one file or of all, since it may hold a secret; tells of which files.
 * Nothing that a living process writes is touched.
 */
export async function removeUnfinished(dir: string, ofName?: string): Promise<readonly string[]> {
  const removed: string[] = []
  for (const entry of (await readdir(dir).catch(absent)) ?? []) {
    const [, name = '', pid] = /^(.+)\.(\d+)\.[0-9a-f]+\.tmp$/.exec(entry) ?? []
    const path = join(dir, entry)
    if (pid === undefined || (ofName !== undefined && name !== ofName) || isBeingWritten(path, Number(pid))) continue
    await rm(path, { force: true })
    removed.push(name)
  }
  return removed
}

/** In a container a process may have the number of the one that was killed: its own are told apart by name. */
function isBeingWritten(path: string, pid: number): boolean {
  return pid === process.pid ? unfinished.has(path) : isAlive(pid)
}

async function writeSynced(path: string, content: string | Uint8Array, mode: number): Promise<void> {
  const file = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, mode)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Reads a private file as text; undefined when it does not exist; refuses one that others may write or that another user owns. */
export async function readPrivateFile(path: string): Promise<string | undefined> {
  const found = await lstat(path).catch(absent)
  if (!found) return undefined
  if (found.uid !== process.getuid?.()) throw unsafe(path, 'belongs to another user')
  if ((found.mode & 0o022) !== 0) throw unsafe(path, 'may be written by others')
  return readFile(path, 'utf8')
}

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT') return undefined
  throw error
}

function unsafe(path: string, why: string): NsmError {
  return new NsmError('PERMISSION', `${path} ${why}`, `remove it or take it back: chown, chmod go-w ${path}`)
}
