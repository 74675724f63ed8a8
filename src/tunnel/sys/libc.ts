import { loadKoffi } from './native.ts'

/**
 * The C library's calls the packet path needs. Pointers are plain numbers (`uintptr_t`): the cheapest way through the
 * add-on, about 0.2 us per call. Every call gives -1 on failure; ask `errno()` at once after it.
 */
export interface Libc {
  open(path: string, flags: number): number
  close(fd: number): number
  ioctl(fd: number, request: number, pointer: number): number
  read(fd: number, pointer: number, bytes: number): number
  write(fd: number, pointer: number, bytes: number): number
  poll(pointer: number, count: number, timeoutMs: number): number
  eventfd(value: number, flags: number): number
  socket(family: number, type: number, protocol: number): number
  bind(fd: number, pointer: number, bytes: number): number
  getsockname(fd: number, pointer: number, lengthPointer: number): number
  setsockopt(fd: number, level: number, option: number, pointer: number, bytes: number): number
  sendmmsg(fd: number, pointer: number, count: number, flags: number): number
  recvmmsg(fd: number, pointer: number, count: number, flags: number, timeoutPointer: number): number
  clockGettime(clock: number, pointer: number): number
  errno(): number
  /** The address of memory outside the JavaScript heap, which never moves. */
  addressOf(bytes: Uint8Array): number
}

/** The calls of the C library this process runs on; bound once per thread. */
export function libc(): Libc {
  bound ??= bind()
  return bound
}

let bound: Libc | undefined

function bind(): Libc {
  const koffi = loadKoffi()
  const library = koffi.load(null)
  return {
    open: library.func('int open(const char *path, int flags)'),
    close: library.func('int close(int fd)'),
    ioctl: library.func('int ioctl(int fd, unsigned long request, uintptr_t pointer)'),
    read: library.func('int64_t read(int fd, uintptr_t pointer, size_t bytes)'),
    write: library.func('int64_t write(int fd, uintptr_t pointer, size_t bytes)'),
    poll: library.func('int poll(uintptr_t fds, unsigned long count, int timeout)'),
    eventfd: library.func('int eventfd(unsigned int value, int flags)'),
    socket: library.func('int socket(int family, int type, int protocol)'),
    bind: library.func('int bind(int fd, uintptr_t address, int bytes)'),
    getsockname: library.func('int getsockname(int fd, uintptr_t address, uintptr_t bytes)'),
    setsockopt: library.func('int setsockopt(int fd, int level, int option, uintptr_t value, int bytes)'),
    sendmmsg: library.func('int sendmmsg(int fd, uintptr_t messages, unsigned int count, int flags)'),
    recvmmsg: library.func(
      'int recvmmsg(int fd, uintptr_t messages, unsigned int count, int flags, uintptr_t timeout)',
    ),
    clockGettime: library.func('int clock_gettime(int clock, uintptr_t time)'),
    errno: () => koffi.errno(),
    addressOf: (bytes) => Number(koffi.address(bytes)),
  }
}
