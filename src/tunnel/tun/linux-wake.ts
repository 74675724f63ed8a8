import { systemError } from '../sys/errno.ts'
import { libc } from '../sys/libc.ts'
import { allocateNative, type NativeBuffer } from '../sys/native-buffer.ts'

/** Wakes a thread that waits in poll: a message alone never reaches it. */
export interface Wake {
  readonly fd: number
  /** Ends the wait, or the next one. About 50 us until the thread acts. Nothing after `close`. */
  wake(): void
  close(): void
}

/** Makes an eventfd to wake a waiting thread. */
export function openWake(): Wake {
  const fd = libc().eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
  if (fd < 0) throw systemError('cannot make an eventfd', libc().errno())
  const one = allocateNative(8)
  one.view.setBigUint64(0, 1n, true)
  let isOpen = true
  return {
    fd,
    wake() {
      // The number may be another file's after `close`, for which a wake may still be under way.
      if (isOpen) libc().write(fd, one.address, 8)
    },
    close() {
      if (isOpen) libc().close(fd)
      isOpen = false
    },
  }
}

/** Waits for packets on any of the descriptors, or for a wake. */
export class PollWaiter {
  readonly #poll: NativeBuffer
  readonly #count: number
  readonly #wakeFd: number

  /** `fds` are the interface and the socket; `wakeFd` is the eventfd of a `Wake`. */
  constructor(fds: readonly number[], wakeFd: number) {
    this.#wakeFd = wakeFd
    this.#count = fds.length + 1
    this.#poll = allocateNative(8 * this.#count + 8)
    for (const [i, fd] of [...fds, wakeFd].entries()) {
      this.#poll.view.setInt32(8 * i, fd, true)
      this.#poll.view.setInt16(8 * i + 4, POLLIN, true)
    }
  }

  /** Blocks the thread; true when it was woken for messages. */
  wait(timeoutMs: number): boolean {
    if (libc().poll(this.#poll.address, this.#count, Math.ceil(timeoutMs)) <= 0) return false
    const woken = this.#poll.view.getInt16(8 * (this.#count - 1) + 6, true) !== 0
    if (woken) libc().read(this.#wakeFd, this.#poll.address + 8 * this.#count, 8)
    return woken
  }
}

const EFD_NONBLOCK = 0o4000
const EFD_CLOEXEC = 0o2000000
const POLLIN = 1
