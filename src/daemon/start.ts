import { spawn } from 'node:child_process'
import { closeSync, constants, existsSync, fstatSync, ftruncateSync, openSync } from 'node:fs'
import { constants as system } from 'node:os'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { type ErrorData, errorFromData, isErrorData, NsmError } from '../base/errors.ts'
import { makePrivateDir } from '../base/files.ts'
import { isJsonObject } from '../base/json.ts'
import { requireLinux } from '../base/open.ts'
import { inOneFile } from '../base/parts.ts'
import type { Settings } from '../base/settings.ts'
import { compileCacheDir } from './compile-cache.ts'
import { logPath } from './paths.ts'

/* How the background process says that it is ready: it inherits the writing end of a pipe as descriptor 3, writes one
 * JSON line when its socket listens (or why it does not), and closes it. No waiting in steps, no guessing. */

/** Descriptor of the pipe in the background process. */
export const readyDescriptor = 3

/** What the background process ends itself with when all is put back and a handle keeps it: no reason for a repair. */
export const cleanEndSignal = 'SIGUSR2'

/** Argument of the entry: put the machine back and end. */
const repairArgument = 'repair'

/** Ours: a start takes some 300 ms; a machine that is this slow is in trouble. */
const startTimeoutMs = 15_000

/** Ours: a log longer than this is begun anew at the next start. */
const logMaxBytes = 4 * 1024 * 1024

/** Starts the background process and resolves when its socket answers; throws what kept it from starting. */
export async function startDaemon(settings: Settings): Promise<void> {
  requireLinux('connections work')
  await makePrivateDir(settings.stateDir)
  const log = openLog(logPath(settings))
  try {
    const [program, ...programArgs] = existsSync(shell) ? ([shell, '-c', watchScript] as const) : unwatched
    const child = spawn(program, programArgs, {
      detached: true,
      cwd: '/',
      env: { ...cleanEnvironment(settings), ...watched },
      stdio: ['ignore', log, log, 'pipe'],
    })
    child.unref()
    await untilReady(child, settings)
  } finally {
    closeSync(log)
  }
}

/**
 * Memory of the process with one tunnel stays below 110 MiB [security X2]: a small young generation and a capped old one.
 * The debugger is never opened by a signal [security L7].
 */
const nodeFlags = inOneFile
  ? []
  : [
      '--max-semi-space-size=2',
      '--max-old-space-size=256',
      '--v8-pool-size=1',
      '--disable-sigusr1',
      '--disable-warning=ExperimentalWarning',
    ]

/** The one-file executable has its flags inside and starts itself: this word is known to its boot script alone. */
const entry = inOneFile ? 'daemon/main' : fileURLToPath(new URL('./main.ts', import.meta.url))

/** POSIX's shell: 1 MiB of memory. */
const shell = '/bin/sh'

/**
 * The background process has a shell for a parent, which waits for it. A process that was killed cannot put the machine
 * back; then the shell starts it once more to do only that. It keeps no end of the pipe, whose end says "ready".
 */
const watchScript = `"$NSM_WATCHED_NODE" ${nodeFlags.join(' ')} "$NSM_WATCHED_ENTRY" & exec 3>&-
wait $!
ended=$?
[ $ended -lt 128 ] || [ $ended -eq ${128 + system.signals[cleanEndSignal]} ] || exec "$NSM_WATCHED_NODE" ${nodeFlags.join(' ')} "$NSM_WATCHED_ENTRY" ${repairArgument}`

/** By environment, not by argument: what the process table shows of the shell names no second background process. */
const watched = {
  NSM_WATCHED_NODE: process.execPath,
  NSM_WATCHED_ENTRY: entry,
}

/** Where there is no shell, the next start repairs. */
const unwatched = [process.execPath, ...nodeFlags, entry] as const

/** Nothing of the caller's environment steers the process: no NODE_*, LD_*, SSL_* or proxy variables [security L6]. */
function cleanEnvironment(settings: Settings): Record<string, string> {
  const bus = process.env['DBUS_SESSION_BUS_ADDRESS']
  return {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    LANG: 'C.UTF-8',
    // One heap of the C library for all threads: 10 MiB less than one for each.
    MALLOC_ARENA_MAX: '1',
    ...(inOneFile ? {} : { NODE_COMPILE_CACHE: compileCacheDir(settings.stateDir) }),
    NSM_STATE_DIR: settings.stateDir,
    NSM_RUNTIME_DIR: settings.runtimeDir,
    NSM_LOG_LEVEL: settings.logLevel,
    NSM_RESOLV_CONF: settings.resolvConf,
    // Where the keychain of the user is.
    ...(bus === undefined ? {} : { DBUS_SESSION_BUS_ADDRESS: bus }),
  }
}

/** Program and arguments of this program's own process for one word of `main.ts`. */
export function ownProgram(word: string): readonly [string, ...string[]] {
  return [process.execPath, ...nodeFlags, entry, word]
}

function openLog(path: string): number {
  const { O_WRONLY, O_CREAT, O_APPEND, O_NOFOLLOW } = constants
  const fd = openSync(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0o600)
  if (fstatSync(fd).size > logMaxBytes) ftruncateSync(fd, 0)
  return fd
}

async function untilReady(child: ReturnType<typeof spawn>, settings: Settings): Promise<void> {
  const pipe = child.stdio[readyDescriptor]
  if (!pipe || !('read' in pipe)) throw notStarted(settings, 'it has no pipe')
  const timer = setTimeout(() => pipe.destroy(), startTimeoutMs)
  const spawnFailed = new Promise<never>((_, reject) => child.once('error', reject))
  try {
    const said = await Promise.race([text(pipe), spawnFailed])
    const answer = parseAnswer(said)
    if (answer === 'ready') return
    throw answer ? errorFromData(answer) : notStarted(settings, 'it ended at once')
  } catch (error) {
    if (error instanceof NsmError) throw error
    throw notStarted(settings, String(error))
  } finally {
    clearTimeout(timer)
  }
}

/** 'ready', the error it ended with, or undefined when it said nothing. */
function parseAnswer(said: string): 'ready' | ErrorData | undefined {
  if (said.trim() === '') return undefined
  const answer: unknown = JSON.parse(said)
  if (!isJsonObject(answer)) return undefined
  if (answer['ready'] === true) return 'ready'
  return isErrorData(answer['error']) ? answer['error'] : undefined
}

function notStarted(settings: Settings, why: string): NsmError {
  return new NsmError('UNREACHABLE', `the background process did not start: ${why}`, `see ${logPath(settings)}`)
}
