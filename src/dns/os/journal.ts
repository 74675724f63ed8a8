import { readFile, rm } from 'node:fs/promises'
import { readPrivateFile, writeFileAtomic } from '../../base/files.ts'
import type { FileObject } from './file-object.ts'

/** What must be known to take the change of a resolver file back after a crash. Written and synced before the change. */
export interface Journal {
  readonly version: 1
  readonly method: 'file'
  readonly path: string
  /** The path whose bytes are written: links followed when the inode is kept. */
  readonly writtenPath: string
  readonly keepsInode: boolean
  readonly previous: FileObject
  /** Every text of ours that may be in the file; the newest first. */
  readonly ours: readonly string[]
  readonly bootId: string
  readonly pid: number
}

/** Writes the journal and syncs it. */
export async function writeJournal(path: string, journal: Journal): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(journal)}\n`)
}

/** Reads the journal; undefined when there is none, 'broken' when it cannot be understood. */
export async function readJournal(path: string): Promise<Journal | 'broken' | undefined> {
  const text = await readPrivateFile(path)
  if (text === undefined) return undefined
  try {
    const parsed: unknown = JSON.parse(text)
    return isJournal(parsed) ? parsed : 'broken'
  } catch {
    return 'broken'
  }
}

/** Removes the journal: nothing is left to take back. */
export async function removeJournal(path: string): Promise<void> {
  await rm(path, { force: true })
}

/** Identifies this boot of the machine; '' where the system has no such file. */
export async function readBootId(): Promise<string> {
  const text = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')
  return text.trim()
}

function isJournal(value: unknown): value is Journal {
  if (!isRecord(value)) return false
  const { version, method, path, writtenPath, keepsInode, previous, ours, pid } = value
  const texts = [path, writtenPath].every((text) => typeof text === 'string' && text.startsWith('/'))
  const list = Array.isArray(ours) && ours.every((text) => typeof text === 'string')
  const marks = version === 1 && method === 'file' && Number.isInteger(pid) && typeof keepsInode === 'boolean'
  return marks && texts && list && isFileObject(previous)
}

function isFileObject(value: unknown): value is FileObject {
  if (!isRecord(value)) return false
  if (value['kind'] === 'absent') return true
  if (value['kind'] === 'symlink') return typeof value['target'] === 'string'
  const numbers = [value['mode'], value['uid'], value['gid']].every((number) => typeof number === 'number')
  return value['kind'] === 'file' && numbers && typeof value['contentBase64'] === 'string'
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
