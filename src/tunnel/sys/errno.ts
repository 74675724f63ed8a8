import { type ErrorCode, NsmError } from '../../base/errors.ts'

/** Linux error numbers the tunnel acts on; the same on x86-64 and arm64. */
export const errno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  EAGAIN: 11,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENOSPC: 28,
  EPROTO: 71,
  EBADFD: 77,
  EMSGSIZE: 90,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETUNREACH: 101,
  ENOBUFS: 105,
  EHOSTUNREACH: 113,
} as const

/** `EBUSY` for 16, `errno 200` for what has no name here. */
export function errnoName(number: number): string {
  return names.get(number) ?? `errno ${number}`
}

/** The one place where an error number becomes an error: what failed, and what to do when the caller knows it. */
export function systemError(what: string, number: number, next = nextStep(number)): NsmError {
  return new NsmError(codes.get(number) ?? 'BUG', `${what}: ${errnoName(number)}`, next, { cause: becauseOf(number) })
}

/** The cause of an error that is said in other words than `systemError` has. */
export function becauseOf(number: number): { readonly systemErrno: number } {
  return { systemErrno: number }
}

/** The system's number behind an error of this thread; undefined when the system has not said one. */
export function errnoOf({ cause }: NsmError): number | undefined {
  const isOurs = typeof cause === 'object' && cause !== null && 'systemErrno' in cause
  return isOurs && typeof cause.systemErrno === 'number' ? cause.systemErrno : undefined
}

const names = new Map<number, string>(Object.entries(errno).map(([name, number]) => [number, name]))

const codes = new Map<number, ErrorCode>([
  [errno.EPERM, 'PERMISSION'],
  [errno.EACCES, 'PERMISSION'],
  [errno.EBUSY, 'CONFLICT'],
  [errno.EEXIST, 'CONFLICT'],
  [errno.EADDRINUSE, 'CONFLICT'],
  [errno.EADDRNOTAVAIL, 'USAGE'],
  [errno.EBADFD, 'LOST'],
  [errno.ENODEV, 'LOST'],
  [errno.ENETUNREACH, 'UNREACHABLE'],
  [errno.EHOSTUNREACH, 'UNREACHABLE'],
])

function nextStep(number: number): string {
  const code = codes.get(number)
  if (code === 'PERMISSION') return 'run it as root or give it CAP_NET_ADMIN'
  if (code === 'CONFLICT') return 'free what is taken, or choose another'
  if (code === 'LOST') return 'connect again'
  return 'see the system log, and report it with the output of `nsm version --json`'
}
