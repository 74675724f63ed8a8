import { isJsonObject } from './json.ts'

/**
 * The one error table: stable code, exit code, meaning. `docs/errors.md` is printed from it.
 * Scripts match `code`, never the message.
 */
export const errorTable = {
  BUG: { exit: 1, when: 'a defect of nsm itself' },
  USAGE: { exit: 2, when: 'a flag, an argument, a service URL or a settings file cannot be understood' },
  NOT_READY: { exit: 3, when: 'the asked condition does not hold (yet)' },
  IDENTITY: { exit: 4, when: 'no identity, or it is expired, or the other side does not trust it (or is not trusted)' },
  REFUSED: {
    exit: 5,
    when: 'the other side said no: policy, admission, no common mechanism, or an answer outside the bounds',
  },
  NOT_FOUND: { exit: 6, when: 'no such network service or endpoint' },
  UNREACHABLE: { exit: 7, when: 'background process, manager or registry silent, or the deadline passed' },
  CONFLICT: { exit: 8, when: 'an address, prefix, route, port, interface or DNS scope is already taken' },
  PERMISSION: {
    exit: 9,
    when: 'a right is missing: root, CAP_NET_ADMIN, a readable TUN device, or a folder with room that may be written',
  },
  LOST: { exit: 10, when: 'the connection was up and healing gave up, or the data path is dead' },
} as const satisfies Record<string, { readonly exit: number; readonly when: string }>

/** A stable error code of the table. */
export type ErrorCode = keyof typeof errorTable

/** What crosses a process boundary of an error. */
export interface ErrorData {
  readonly code: ErrorCode
  readonly message: string
  readonly next: string
}

/** The only error class: what happened (`message`), the one thing to do now (`next`), the rest in `cause`. */
export class NsmError extends Error {
  readonly code: ErrorCode
  readonly next: string

  constructor(code: ErrorCode, message: string, next: string, options?: { readonly cause?: unknown }) {
    super(message, options)
    this.name = 'NsmError'
    this.code = code
    this.next = next
  }

  /** The exit code of the command that ends with this error. */
  get exitCode(): number {
    return errorTable[this.code].exit
  }

  /** The part of the error that may be printed or sent to another process. */
  toData(): ErrorData {
    return { code: this.code, message: this.message, next: this.next }
  }
}

/** True for an error as another process sends it. */
export function isErrorData(value: unknown): value is ErrorData {
  return isJsonObject(value) && ['code', 'message', 'next'].every((key) => typeof value[key] === 'string')
}

/** Rebuilds an error that came from another process; an unknown code becomes `BUG`. */
export function errorFromData(data: ErrorData): NsmError {
  const code = Object.hasOwn(errorTable, data.code) ? data.code : 'BUG'
  return new NsmError(code, data.message, data.next)
}

/** Turns anything thrown into an `NsmError`; what is neither ours nor the file system's is a `BUG`. */
export function toNsmError(thrown: unknown): NsmError {
  if (thrown instanceof NsmError) return thrown
  const message = thrown instanceof Error ? thrown.message : String(thrown)
  const refused = refusalOfFiles(thrown)
  if (refused) return new NsmError('PERMISSION', `${refused.why}: ${message}`, refused.next, { cause: thrown })
  return new NsmError('BUG', `unexpected failure: ${message}`, 'report it with the output of `nsm version --json`', {
    cause: thrown,
  })
}

/** The code of an error of the system or of Node, such as `ENOENT`; undefined for any other error. */
export function systemCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined
}

interface RefusalOfFiles {
  readonly why: string
  readonly next: string
}

/** What the machine's owner can mend: a full or read-only file system, a file of somebody else. */
function refusalOfFiles(thrown: unknown): RefusalOfFiles | undefined {
  if (!(thrown instanceof Error) || !('code' in thrown)) return undefined
  // What has no path was no file: the right to a port, to a socket.
  if ('path' in thrown && (thrown.code === 'EACCES' || thrown.code === 'EPERM')) return notOurs
  if (thrown.code !== 'ERR_SQLITE_ERROR') return refusals.get(String(thrown.code))
  return 'errcode' in thrown ? refusals.get(`SQLITE_${Number(thrown.errcode) & 0xff}`) : undefined
}

const full: RefusalOfFiles = { why: 'no space is left', next: 'make room, then run it again' }
const readOnly: RefusalOfFiles = {
  why: 'nothing can be written there',
  next: 'set NSM_STATE_DIR and NSM_RUNTIME_DIR to folders that can be written',
}
const noFolder: RefusalOfFiles = {
  why: 'a file is where a folder has to be',
  next: 'set NSM_STATE_DIR and NSM_RUNTIME_DIR to folders, or remove that file',
}
const notOurs: RefusalOfFiles = { why: 'a file may not be used', next: 'check whose it is, or run nsm as root' }

/** [errno(3)], [SQLite result codes] */
const refusals: ReadonlyMap<string, RefusalOfFiles> = new Map([
  ['ENOSPC', full],
  ['EDQUOT', full],
  ['SQLITE_13', full],
  ['EROFS', readOnly],
  ['ENOTDIR', noFolder],
  ['SQLITE_8', readOnly],
  ['SQLITE_14', readOnly],
])
