import { readFile, rm } from 'node:fs/promises'
import { readPrivateFile, writeFileAtomic } from '../../base/files.ts'
import { isJsonObject, isTexts, type JsonObject, readJsonObject } from '../../base/json.ts'
import type { FileObject } from './file-object.ts'

/** What must be known to take a change of the system's resolver back after a crash. Written and synced before the change. */
export type Journal = FileJournal | LinksJournal | RecordJournal

/** A resolver file that is written over. */
export interface FileJournal extends Written {
  readonly method: 'file'
  readonly path: string
  /** The path whose bytes are written: links followed when the inode is kept. */
  readonly writtenPath: string
  readonly keepsInode: boolean
  readonly previous: FileObject
  /** Every text of ours that may be in the file; the newest first. */
  readonly ours: readonly string[]
}

/** Interfaces whose resolver systemd-resolved was told. */
export interface LinksJournal extends Written {
  readonly method: 'resolved'
  /** Our listener: an interface that has any other is no longer ours. */
  readonly server: string
  readonly interfaceNames: readonly string[]
}

/** A record in the collection of openresolv or of Debian's resolvconf. */
export interface RecordJournal extends Written {
  readonly method: 'openresolv' | 'resolvconf'
  /** The file that is made from the records. */
  readonly path: string
  readonly server: string
}

interface Written {
  readonly version: 1
  readonly bootId: string
  readonly pid: number
}

/** What every journal begins with. */
export async function writtenHere(): Promise<Written> {
  return { version: 1, bootId: await readBootId(), pid: process.pid }
}

/** Writes the journal and syncs it. */
export async function writeJournal(path: string, journal: Journal): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(journal)}\n`)
}

/** Reads the journal; undefined when there is none, 'broken' when it cannot be understood. */
export async function readJournal(path: string): Promise<Journal | 'broken' | undefined> {
  const text = await readPrivateFile(path)
  if (text === undefined) return undefined
  const parsed: unknown = readJsonObject(text)
  return isJournal(parsed) ? parsed : 'broken'
}

/** Removes the journal: nothing is left to take back. */
export async function removeJournal(path: string): Promise<void> {
  await rm(path, { force: true })
}

/** Identifies this boot of the machine; '' where the system has no such file. */
async function readBootId(): Promise<string> {
  const text = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')
  return text.trim()
}

function isJournal(value: unknown): value is Journal {
  if (!isJsonObject(value) || value['version'] !== 1 || !Number.isInteger(value['pid'])) return false
  const { method, server, path, interfaceNames } = value
  if (method === 'file') return isFileJournal(value)
  if (method === 'resolved') return typeof server === 'string' && isTexts(interfaceNames)
  return (method === 'openresolv' || method === 'resolvconf') && typeof server === 'string' && isPath(path)
}

function isFileJournal({ path, writtenPath, keepsInode, previous, ours }: JsonObject): boolean {
  return (
    isPath(path) && isPath(writtenPath) && isTexts(ours) && typeof keepsInode === 'boolean' && isFileObject(previous)
  )
}

function isFileObject(value: unknown): value is FileObject {
  if (!isJsonObject(value)) return false
  if (value['kind'] === 'absent') return true
  if (value['kind'] === 'symlink') return typeof value['target'] === 'string'
  const numbers = [value['mode'], value['uid'], value['gid']].every((number) => typeof number === 'number')
  return value['kind'] === 'file' && numbers && typeof value['contentBase64'] === 'string'
}

function isPath(value: unknown): boolean {
  return typeof value === 'string' && value.startsWith('/')
}
