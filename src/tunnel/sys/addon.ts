import { randomBytes } from 'node:crypto'
import { closeSync, constants, fstatSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { NsmError } from '../../base/errors.ts'
import { partOf } from '../../base/parts.ts'
import type { Settings } from '../../base/settings.ts'

/* How native code leaves the one-file executable [security L8]: written into a directory that only this user can reach,
 * compared byte by byte with what the executable holds, unlinked, and loaded by its descriptor. No name is left that
 * somebody could guess, plant or change, and nothing has to be removed after a crash. */

/** A native add-on that is loaded. */
export interface LoadedAddon<T> {
  readonly exports: T
  /** Another thread of this process loads the same library by this. */
  readonly path: string
}

/** Where an add-on may be written. */
export type AddonPlaces = Pick<Settings, 'runtimeDir' | 'stateDir'>

/** Loads the add-on `name` of the executable; throws `PERMISSION` with every place and why it did not serve. */
export function loadAddon<T>(name: string, places: AddonPlaces, read = partOf): LoadedAddon<T> {
  const bytes = read(name)
  const tried: string[] = []
  for (const base of [places.runtimeDir, places.stateDir]) {
    const dir = join(base, 'native')
    try {
      return loadFrom(dir, bytes)
    } catch (error) {
      tried.push(`${dir} (${reason(error)})`)
    }
  }
  throw new NsmError(
    'PERMISSION',
    `the native part of nsm cannot be loaded from ${tried.join(' or from ')}`,
    'set NSM_RUNTIME_DIR to a directory of your own on a file system without noexec',
  )
}

/** Loads what another thread has loaded. */
export function loadAddonAt<T>(path: string): LoadedAddon<T> {
  const module: { exports: T } = { exports: Object.create(Object.prototype) }
  process.dlopen(module, path)
  return { exports: module.exports, path }
}

/** The descriptor stays open while the process lives: the C library knows a loaded file by its name. */
function loadFrom<T>(dir: string, bytes: Uint8Array): LoadedAddon<T> {
  const fd = writeUnnamed(dir, bytes)
  try {
    return loadAddonAt(descriptorPath(fd))
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** A read-only descriptor of a file without a name that holds `bytes` and nothing else. */
function writeUnnamed(dir: string, bytes: Uint8Array): number {
  const dirFd = openPrivateDir(dir)
  try {
    const path = join(descriptorPath(dirFd), randomBytes(nameBytes).toString('hex'))
    try {
      writeNew(path, bytes)
      return openSame(path, bytes)
    } finally {
      rmSync(path, { force: true })
    }
  } finally {
    closeSync(dirFd)
  }
}

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants

/** Ours: nobody else may be in the directory; the random name keeps our own processes apart. */
const nameBytes = 8

/** By descriptor, the directory that was looked at is the one that is used, whatever takes its name meanwhile. */
function openPrivateDir(dir: string): number {
  // Root's holds the socket for everybody; what is made here is as the background process would make it.
  mkdirSync(dirname(dir), { recursive: true, mode: process.getuid?.() === 0 ? 0o755 : 0o700 })
  closeSync(requireOwn(openSync(dirname(dir), O_RDONLY | O_DIRECTORY)))
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  return requireOwn(openSync(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW))
}

/** The descriptor, when the directory is this user's and nobody else's to write; otherwise it is closed. */
function requireOwn(fd: number): number {
  const { uid, mode } = fstatSync(fd)
  const why =
    uid !== process.getuid?.() ? 'it belongs to another user' : (mode & 0o022) !== 0 ? 'others may write it' : undefined
  if (why === undefined) return fd
  closeSync(fd)
  throw new NsmError('PERMISSION', why, 'remove it')
}

function writeNew(path: string, bytes: Uint8Array): void {
  const fd = openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o500)
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
  } finally {
    closeSync(fd)
  }
}

function openSame(path: string, bytes: Uint8Array): number {
  const fd = openSync(path, O_RDONLY | O_NOFOLLOW)
  if (readFileSync(fd).equals(bytes)) return fd
  closeSync(fd)
  throw new NsmError('PERMISSION', 'what was written there was changed', 'find out who writes there')
}

function descriptorPath(fd: number): string {
  return `/proc/self/fd/${fd}`
}

/** The system's words without the random name. */
function reason(error: unknown): string {
  if (error instanceof NsmError) return error.message
  if (!(error instanceof Error)) return String(error)
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  return code === '' || code === 'ERR_DLOPEN_FAILED' ? error.message.replace(/^\/proc\/self\/fd\/\d+: /, '') : code
}
