import { constants } from 'node:fs'
import { chmod, lstat, mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { NsmError } from './errors.ts'
import { requireLinux } from './open.ts'

/** Makes a private directory (0700 by default) and refuses one that another user owns or may write. */
export async function makePrivateDir(path: string, mode = 0o700): Promise<void> {
  // Node shows no owners of files on Windows: nothing could be told from what somebody else has put there.
  if (process.getuid === undefined) requireLinux('identities and connections are kept')
  const made = await mkdir(path, { recursive: true, mode })
  // The umask of a background process is narrower.
  if (made !== undefined) await chmod(path, mode)
  const found = await lstat(path)
  if (!found.isDirectory()) throw unsafe(path, 'is not a directory')
  if (found.uid !== process.getuid?.()) throw unsafe(path, 'belongs to another user')
  if ((found.mode & 0o022) !== 0) throw unsafe(path, 'may be written by others')
}

/** Replaces a file in one step: temporary file, fsync, rename, fsync of the directory. Mode 0600 by default. */
export async function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  const temporary = `${path}.${process.pid}.${++written}.tmp`
  try {
    await writeSynced(temporary, content, mode)
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  const dir = await open(dirname(path), constants.O_RDONLY)
  try {
    await dir.sync()
  } finally {
    await dir.close()
  }
}

/** Tells two writes of one path at the same time apart: the later rename wins, and neither sees the other's half. */
let written = 0

async function writeSynced(path: string, content: string | Uint8Array, mode: number): Promise<void> {
  await rm(path, { force: true })
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
