import { constants } from 'node:fs'
import { type FileHandle, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { NsmError } from '../base/errors.ts'
import { readJsonObject } from '../base/json.ts'
import { type ChainPlace, placeAfter, placeOf, readPlace } from './audit-line.ts'

/* An audit log on disk: `<path>`, which grows; `<path>.<seq>`, full ones by their last line; `<path>.head`, which says where
 * the chain ends and where it begins, so that a cut end and a missing beginning are found. */

/** What the head file says. */
export interface AuditHead {
  /** The place after the last line. */
  readonly next: ChainPlace
  /** The place of the first line that is kept. */
  readonly first: ChainPlace
}

/** The file of the end of a log. */
export const auditHeadPath = (path: string): string => `${path}.head`

/** The files of a log, oldest first, the one that grows last. */
export async function auditFiles(path: string): Promise<string[]> {
  const name = basename(path)
  const names: readonly string[] = await readdir(dirname(path)).catch(() => [])
  const full = names.filter((other) => other.startsWith(`${name}.`) && /^\d+$/.test(other.slice(name.length + 1)))
  const sorted = full.toSorted((a, b) => Number(a.slice(name.length + 1)) - Number(b.slice(name.length + 1)))
  return [...sorted.map((other) => `${dirname(path)}/${other}`), ...(names.includes(name) ? [path] : [])]
}

/** As `auditFiles`, for who reads a log. Throws `USAGE` when there is none. */
export async function auditFilesToRead(path: string): Promise<string[]> {
  const files = await auditFiles(path)
  const found = await stat(path).catch(() => undefined)
  if (files.length > 0 && found?.isFile() !== false) return files
  throw new NsmError('USAGE', `there is no audit log ${path}`, 'name the file of one')
}

/** Opens or makes a file for our user alone; a link in its place is refused. */
export async function openPrivate(path: string, flags: number): Promise<FileHandle> {
  const file = await open(path, flags | constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600)
  await file.chmod(0o600)
  return file
}

/** Gives what `read` makes of a file that is there. */
async function reading<T>(path: string, read: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    return await read(file)
  } finally {
    await file.close()
  }
}

/** Ours: the head is one block that is written in one go, so that a crash leaves the old or the new one. */
const headBytes = 384

/** Writes the head in place. */
export async function writeHead(file: FileHandle, { next, first }: AuditHead): Promise<void> {
  await file.write(Buffer.from(`${JSON.stringify({ next, first }).padEnd(headBytes - 1)}\n`), 0, headBytes, 0)
}

/** The head; undefined when there is none that can be read. */
export async function readHead(path: string): Promise<AuditHead | undefined> {
  try {
    const read = readJsonObject(await reading(auditHeadPath(path), (file) => file.readFile('utf8')))
    const [next, first] = [placeOf(read?.['next']), placeOf(read?.['first'])]
    return next && first && { next, first }
  } catch {
    return undefined
  }
}

/** The end of what is in a file. */
export interface FileEnd {
  /** Up to here there are whole lines. */
  readonly wholeBytes: number
  /** What a crash left behind them. */
  readonly tornBytes: number
  /** The place after the last whole line; undefined when there is none, or it is no line of an audit log. */
  readonly next: ChainPlace | undefined
}

/** Ours: longer than any line that is written; a file whose end holds no line in so much is not one of ours. */
const endBytes = 65_536

/** Looks at the end of a file. */
export async function readEnd(file: FileHandle): Promise<FileEnd> {
  const { size } = await file.stat()
  const start = Math.max(0, size - endBytes)
  const bytes = Buffer.alloc(size - start)
  await file.read(bytes, 0, bytes.length, start)
  const lastEnd = bytes.lastIndexOf(0x0a)
  const wholeBytes = lastEnd < 0 ? start : start + lastEnd + 1
  const line = lastEnd < 0 ? '' : bytes.toString('utf8', bytes.lastIndexOf(0x0a, lastEnd - 1) + 1, lastEnd)
  const place = readPlace(line)
  return { wholeBytes, tornBytes: size - wholeBytes, next: place && placeAfter(line, place.seq) }
}

/** The place after the last line of the newest file that was set aside; undefined when there is none. */
export async function readEndOfFull(path: string): Promise<ChainPlace | undefined> {
  const last = (await auditFiles(path)).findLast((file) => file !== path)
  return last === undefined ? undefined : (await reading(last, readEnd)).next
}

/** The place of the oldest line that is kept; undefined when there is none. */
export async function readOldestPlace(path: string): Promise<ChainPlace | undefined> {
  const [oldest] = await auditFiles(path)
  return oldest === undefined ? undefined : readFirstPlace(oldest)
}

function readFirstPlace(path: string): Promise<ChainPlace | undefined> {
  return reading(path, async (file) => {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(endBytes), 0, endBytes, 0)
    const [line = ''] = buffer.toString('utf8', 0, bytesRead).split('\n', 1)
    return readPlace(line)
  })
}

/** Gives the file that is full the name of its last line. Throws `CONFLICT` when that name is taken. */
export async function setAside(path: string, lastSeq: number): Promise<void> {
  const aside = `${path}.${lastSeq}`
  if ((await auditFiles(path)).includes(aside)) {
    throw new NsmError('CONFLICT', `${aside} is there already`, 'move it away')
  }
  await rename(path, aside)
}

/** Removes the oldest files beyond `keep`, after the head has said where the rest begins. */
export async function forgetOldest(
  path: string,
  keep: number,
  noteFirst: (first: ChainPlace) => Promise<void>,
): Promise<void> {
  const files = (await auditFiles(path)).filter((file) => file !== path)
  const [gone, kept] = [files.slice(0, -keep), files.slice(-keep)]
  if (gone.length === 0) return
  const first = kept[0] === undefined ? undefined : await readFirstPlace(kept[0])
  if (first) await noteFirst(first)
  for (const file of gone) await rm(file, { force: true })
}
