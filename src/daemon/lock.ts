import { closeSync, constants, openSync } from 'node:fs'
import { loadKoffi } from '../tunnel/sys/native.ts'

/** A lock that the kernel takes back when its process ends, however it ends. */
export interface Lock {
  release(): void
}

/** Takes the exclusive lock on a file, made when absent (0600); undefined when another process holds it. */
export function takeLock(path: string): Lock | undefined {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600)
  if (flock()(fd, lockExclusive | lockNonBlocking) !== 0) {
    closeSync(fd)
    return undefined
  }
  return { release: () => closeSync(fd) }
}

/** [Linux asm-generic/fcntl.h] */
const lockExclusive = 2
/** [Linux asm-generic/fcntl.h] */
const lockNonBlocking = 4

type Flock = (fd: number, operation: number) => number
let bound: Flock | undefined

function flock(): Flock {
  bound ??= loadKoffi().load(null).func('int flock(int fd, int operation)')
  return bound
}
