import { NsmError, systemCode } from '../../base/errors.ts'
import type { Log } from '../../base/log.ts'
import { isOwnAddress } from '../own-addresses.ts'
import {
  captureFile,
  contentOf,
  type FileObject,
  mustKeepInode,
  realPathOf,
  removeTemporaries,
  replaceFile,
  sameObject,
  writeInPlace,
} from './file-object.ts'
import { type FileJournal, removeJournal, writeJournal, writtenHere } from './journal.ts'
import type { RestoreResult } from './system-dns.ts'

/** Ours: mode of a resolver file; every program of the machine reads it. */
const resolvConfMode = 0o644

/**
 * Writes `text` over the resolver file, journal first. Throws `PERMISSION` when it may not be written.
 * `before` is the change this one follows, so that the object from before the first one stays the one to restore.
 */
export async function writeResolvFile(
  paths: { readonly path: string; readonly journalPath: string },
  text: string,
  before?: FileJournal,
): Promise<FileJournal> {
  const { path, journalPath } = paths
  const writtenPath = before?.writtenPath ?? (await realPathOf(path))
  const keepsInode = before?.keepsInode ?? ((await contentOf(path)) !== undefined && (await mustKeepInode(path)))
  const journal: FileJournal = {
    ...(await writtenHere()),
    method: 'file',
    path,
    writtenPath,
    keepsInode,
    previous: before?.previous ?? (await captureHost(keepsInode ? writtenPath : path)),
    ours: [text, ...(before?.ours.slice(0, 1) ?? [])],
  }
  await writeJournal(journalPath, journal)
  try {
    return await write(journal, text, journalPath)
  } catch (error) {
    if (before) await writeJournal(journalPath, before)
    else await removeJournal(journalPath)
    throw noRight.includes(systemCode(error) ?? '') ? notAllowed(path, error) : error
  }
}

/** Renames over the file; where that cannot be (a mount), notes so and writes in place, links followed. */
async function write(journal: FileJournal, text: string, journalPath: string): Promise<FileJournal> {
  const content = Buffer.from(text)
  if (journal.keepsInode) {
    await writeInPlace(journal.writtenPath, content)
    return journal
  }
  try {
    await replaceFile(journal.path, fileOf(content))
    return journal
  } catch (error) {
    if (!cannotRename.includes(systemCode(error) ?? '') || (await contentOf(journal.path)) === undefined) throw error
    const inPlace = { ...journal, keepsInode: true, previous: await captureHost(journal.writtenPath) }
    await writeJournal(journalPath, inPlace)
    return write(inPlace, text, journalPath)
  }
}

/** What the host has; a backup that names our own listener would leave the host without names, so that line is left out. */
async function captureHost(path: string): Promise<FileObject> {
  const object = await captureFile(path)
  if (object.kind !== 'file') return object
  const text = Buffer.from(object.contentBase64, 'base64').toString('latin1')
  const lines = text.split('\n')
  if (!lines.some(namesOurs)) return object
  const kept = lines.filter((line) => !namesOurs(line) && !line.startsWith('# nsm:'))
  return { ...object, contentBase64: Buffer.from(kept.join('\n'), 'latin1').toString('base64') }
}

function namesOurs(line: string): boolean {
  return isOwnAddress(/^\s*nameserver\s+(\S+)\s*$/.exec(line)?.[1] ?? '')
}

/** Takes a change back if the file still holds our bytes. */
export async function restoreResolvFile(journal: FileJournal, log: Log): Promise<RestoreResult> {
  await removeTemporaries(journal.path)
  if (await isUntouched(journal)) return 'nothing'
  const current = await contentOf(journal.path)
  if (current === undefined || isOurs(current, journal)) {
    await putBack(journal)
    return 'restored'
  }
  log.warn('the resolver file was changed by another program and is left as it is', { path: journal.path })
  return 'left'
}

/** The machine stopped between the journal and the change, or somebody has put the old file back already. */
async function isUntouched({ path, writtenPath, keepsInode, previous }: FileJournal): Promise<boolean> {
  return sameObject(await captureFile(keepsInode ? writtenPath : path), previous)
}

async function putBack(journal: FileJournal): Promise<void> {
  const { previous } = journal
  const current = await contentOf(journal.writtenPath)
  if (!journal.keepsInode || current === undefined || previous.kind === 'absent') {
    await replaceFile(journal.path, previous)
    return
  }
  if (previous.kind === 'file') await writeInPlace(journal.writtenPath, Buffer.from(previous.contentBase64, 'base64'))
}

/** Our bytes, or an in-place write that was cut off: nothing yet, or the beginning of one known text before the rest of another. */
function isOurs(current: Buffer, { previous, keepsInode, ours }: FileJournal): boolean {
  const text = current.toString('latin1')
  const texts = ours.map((entry) => Buffer.from(entry).toString('latin1'))
  if (!keepsInode || text === '') return texts.includes(text) || keepsInode
  const old = previous.kind === 'file' ? Buffer.from(previous.contentBase64, 'base64').toString('latin1') : ''
  const isCut = (a: string, b: string) => isOverlay(text, a, b) || isOverlay(text, b, a)
  return [old, ...texts].some((known) => texts.some((mine) => isCut(known, mine)))
}

/** True when the beginning of one text was written over another one. */
function isOverlay(text: string, over: string, under: string): boolean {
  let at = 0
  while (at < text.length && text[at] === over[at]) at++
  return text.slice(at) === under.slice(at)
}

function fileOf(content: Buffer): FileObject {
  const uid = process.getuid?.() ?? 0
  const gid = process.getgid?.() ?? 0
  return { kind: 'file', mode: resolvConfMode, uid, gid, contentBase64: content.toString('base64') }
}

const cannotRename = ['EBUSY', 'EXDEV', 'EROFS']
const noRight = ['EACCES', 'EPERM', 'EROFS']

function notAllowed(path: string, cause: unknown): NsmError {
  return new NsmError('PERMISSION', `no right to write ${path}`, 'run it as root, or connect with --dns off', { cause })
}
