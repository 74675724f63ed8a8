import { chmod, chown, lstat, open, readdir, readFile, readlink, realpath, rename, rm, symlink } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { NsmError } from '../../base/errors.ts'
import { syncDir } from '../../base/files.ts'
import { isAlive } from '../../base/is-alive.ts'

/** What is at a path, in full: enough to put it back byte for byte. */
export type FileObject =
  | { readonly kind: 'absent' }
  | { readonly kind: 'symlink'; readonly target: string }
  | {
      readonly kind: 'file'
      readonly mode: number
      readonly uid: number
      readonly gid: number
      readonly contentBase64: string
    }

/** Reads what is at a path, without following a symbolic link. */
export async function captureFile(path: string): Promise<FileObject> {
  const found = await lstat(path).catch(ifAbsent)
  if (!found) return { kind: 'absent' }
  if (found.isDirectory())
    throw new NsmError('CONFLICT', `${path} is a directory`, 'make it a file, or connect with --dns off')
  if (found.isSymbolicLink()) return { kind: 'symlink', target: await readlink(path) }
  const contentBase64 = (await readFile(path)).toString('base64')
  return { kind: 'file', mode: found.mode & 0o7777, uid: found.uid, gid: found.gid, contentBase64 }
}

/** The bytes a program reads at the path, links followed; undefined when there is nothing to read. */
export async function contentOf(path: string): Promise<Buffer | undefined> {
  return readFile(path).catch((error: NodeJS.ErrnoException) => (error.code === 'EISDIR' ? undefined : ifAbsent(error)))
}

/** True when two objects read the same; mode and owner aside, which a rewrite by others may have changed. */
export function sameObject(a: FileObject, b: FileObject): boolean {
  if (a.kind === 'file') return b.kind === 'file' && a.contentBase64 === b.contentBase64
  return a.kind === 'symlink' ? b.kind === 'symlink' && a.target === b.target : b.kind === 'absent'
}

/** Where the next content of a path is built before it is renamed over it. */
function temporaryOf(path: string): string {
  return `${path}.nsm-${process.pid}`
}

/** Removes what processes that died in `replaceFile` left beside the path. */
export async function removeTemporaries(path: string): Promise<void> {
  const start = `${basename(path)}.nsm-`
  const names = await readdir(dirname(path)).catch(() => [])
  const left = names.filter((name) => name.startsWith(start) && isLeft(name.slice(start.length)))
  for (const name of left) await rm(join(dirname(path), name), { force: true })
}

function isLeft(pid: string): boolean {
  return /^\d{1,9}$/.test(pid) && !isAlive(Number(pid))
}

/** Replaces the object at the path by a new one: beside it, synced, then renamed over it. */
export async function replaceFile(path: string, object: FileObject): Promise<void> {
  if (object.kind === 'absent') return rm(path, { force: true })
  const temporary = temporaryOf(path)
  await rm(temporary, { force: true })
  try {
    if (object.kind === 'symlink') await symlink(object.target, temporary)
    else await writeWhole(temporary, object)
    await rename(temporary, path)
    await syncDir(dirname(path))
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

/** Writes the bytes into the file that is there; its inode, mode and owner stay. */
export async function writeInPlace(path: string, content: Uint8Array): Promise<void> {
  const file = await open(path, 'r+')
  try {
    await file.write(content, 0, content.length, 0)
    await file.truncate(content.length)
    await file.sync()
  } finally {
    await file.close()
  }
}

/**
 * True when the file must be written in place: it is a mount of its own (container, `ip netns exec`), or it is
 * `/etc/netns/NAME/...`, whose readers keep the inode. Then a rename would fail or would change another name space's file.
 */
export async function mustKeepInode(path: string): Promise<boolean> {
  if (resolve(path).startsWith('/etc/netns/')) return true
  const real = await realpath(path).catch(() => path)
  const mounts = await readFile('/proc/self/mountinfo', 'utf8').catch(() => '')
  return mounts.split('\n').some((line) => line.split(' ')[4] === real)
}

/** The path that holds the bytes: links followed, itself when there is nothing. */
export async function realPathOf(path: string): Promise<string> {
  return realpath(path).catch(() => path)
}

async function writeWhole(path: string, object: FileObject & { readonly kind: 'file' }): Promise<void> {
  const file = await open(path, 'wx', object.mode)
  try {
    await file.writeFile(Buffer.from(object.contentBase64, 'base64'))
    await file.sync()
  } finally {
    await file.close()
  }
  await chmod(path, object.mode)
  const isRoot = process.getuid?.() === 0
  if (isRoot) await chown(path, object.uid, object.gid)
}

function ifAbsent(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT') return undefined
  throw error
}
