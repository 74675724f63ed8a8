import { closeSync, writeSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import { keepingClock, sleep, systemClock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { makePrivateDir } from '../base/files.ts'
import { createLog, type Log } from '../base/log.ts'
import type { Settings } from '../base/settings.ts'
import { type AuditFile, openAuditFile } from './audit-file.ts'
import { daemonMethods, guardedMethods } from './daemon-methods.ts'
import { createIdleTimer } from './idle-timer.ts'
import { type Lock, takeLock } from './lock.ts'
import { forbidCoreDumps } from './no-core.ts'
import { auditPath, lockPath, socketPath, stateLockPath } from './paths.ts'
import { repairLeftovers } from './repair.ts'
import { connectRpc } from './rpc-client.ts'
import { type RpcServer, startRpcServer } from './rpc-server.ts'
import { type Runtime, startRuntime } from './runtime.ts'
import { cleanEndSignal, readyDescriptor } from './start.ts'

/** Ours: a process with nothing to hold ends after this long without a caller. */
const idleGraceMs = 5_000
/** Ours: a signal ends everything within this time, whatever hangs. */
const shutdownMaxMs = 2_800

/** Runs the background process until it is idle or told to end; says on the pipe when it can be used. */
export async function runDaemon(settings: Settings): Promise<void> {
  const log = daemonLog(settings)
  try {
    const parts = await open(settings, log)
    if (!parts) return tellParent({ ready: true })
    endOnSignals(parts, log)
    tellParent({ ready: true })
    // A process that is killed later has then still spared the next one the work.
    flushCompileCache()
    log.info('background process started', { pid: process.pid })
  } catch (thrown) {
    const error = toNsmError(thrown)
    log.error('background process cannot start', { code: error.code, reason: error.message })
    tellParent({ error: error.toData() })
    process.exitCode = error.exitCode
  }
}

interface Parts {
  /** In the order in which they are released. */
  readonly locks: readonly Lock[]
  readonly audit: AuditFile
  readonly runtime: Runtime
  readonly server: RpcServer
  readonly ended: { shutdown: (why: string) => Promise<void> }
}

/** Undefined when another process already serves this runtime directory. */
async function open(settings: Settings, log: Log): Promise<Parts | undefined> {
  await makePrivateDir(settings.runtimeDir, process.getuid?.() === 0 ? 0o755 : 0o700)
  const lock = await lockUnlessServed(settings)
  if (!lock) return undefined
  forbidCoreDumps(log)
  await makePrivateDir(settings.stateDir)
  const stateLock = takeLock(stateLockPath(settings))
  if (!stateLock) throw otherRuntime(settings)
  const audit = openAuditFile({ path: auditPath(settings), clock: systemClock, log })
  const { repaired } = await repairLeftovers(settings, log)
  if (repaired.length > 0) audit.record({ event: 'state.repaired', what: repaired.join('; ') })
  const ended = { shutdown: async (_why: string) => {} }
  const idle = createIdleTimer({ clock: keepingClock, graceMs: idleGraceMs, onIdle: () => void ended.shutdown('idle') })
  const runtime = await startRuntime({
    settings,
    clock: systemClock,
    log,
    audit,
    onCount: (count) => idle.set('connections', count),
  })
  const server = await startRpcServer({
    path: socketPath(settings),
    methods: daemonMethods(runtime),
    guarded: guardedMethods,
    clock: systemClock,
    log,
    audit,
    onConnections: (count) => idle.set('callers', count),
  })
  ended.shutdown = createShutdown({ locks: [stateLock, lock], audit, runtime, server }, log)
  idle.set('callers', 0)
  return { locks: [stateLock, lock], audit, runtime, server, ended }
}

/**
 * The lock, or undefined when another process serves already. One that holds the lock and does not listen is on its way
 * there, or repairs the machine and lets go.
 */
async function lockUnlessServed(settings: Settings): Promise<Lock | undefined> {
  const endMs = keepingClock.monotonicMs() + otherStartMs
  for (;;) {
    const lock = takeLock(lockPath(settings))
    if (lock) return lock
    const rpc = await connectRpc(socketPath(settings)).catch(() => undefined)
    if (rpc) {
      await rpc.close()
      return undefined
    }
    if (keepingClock.monotonicMs() > endMs) throw neverListens()
    await sleep(keepingClock, lookAgainMs)
  }
}

/** Ours: how long another process may take to start. */
const otherStartMs = 10_000
/** Ours: a start takes some 300 ms, a repair 30 ms. */
const lookAgainMs = 20

function neverListens(): NsmError {
  return new NsmError(
    'UNREACHABLE',
    'another background process holds the lock and does not answer',
    'end it, and try again',
  )
}

/** Two that write the same records and renew the same login would each spoil the other's. */
function otherRuntime({ stateDir }: Settings): NsmError {
  return new NsmError(
    'CONFLICT',
    `a background process with another runtime folder uses ${stateDir}`,
    'use its NSM_RUNTIME_DIR (or its XDG_RUNTIME_DIR), or give this one its own NSM_STATE_DIR',
  )
}

function createShutdown(parts: Omit<Parts, 'ended'>, log: Log): (why: string) => Promise<void> {
  let ending: Promise<void> | undefined
  const end = async (why: string) => {
    log.info('background process ends', { why })
    const force = setTimeout(() => process.kill(process.pid, 'SIGKILL'), shutdownMaxMs)
    await parts.server.close()
    await parts.runtime
      .close()
      .catch((error: unknown) => log.error('not everything was undone', { error: String(error) }))
    await parts.audit.close()
    for (const lock of parts.locks) lock.release()
    clearTimeout(force)
    endSoon()
  }
  return (why) => {
    ending ??= end(why)
    return ending
  }
}

/** Everything is closed; a handle that some library keeps must not keep the process. */
function endSoon(): void {
  setTimeout(() => process.kill(process.pid, cleanEndSignal), lingerMs).unref()
}

/** Ours: handles that close by themselves get this long. */
const lingerMs = 1_000

function endOnSignals(parts: Parts, log: Log): void {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void parts.ended.shutdown(signal))
  process.on('SIGHUP', () => {})
  // Fail closed [security X1]: undo what can be undone, end with the code of a defect, never go on.
  const crashed = (thrown: unknown) => {
    log.error('background process crashed', { error: thrown instanceof Error ? (thrown.stack ?? '') : String(thrown) })
    process.exitCode = toNsmError(thrown).exitCode
    void parts.ended.shutdown('crash')
  }
  process.on('uncaughtException', crashed)
  process.on('unhandledRejection', crashed)
}

/** Ours: one run writes no more than this into the log file. */
const logMaxBytes = 16 * 1024 * 1024

function daemonLog(settings: Settings): Log {
  let writtenBytes = 0
  const write = (line: string) => {
    writtenBytes += line.length + 1
    if (writtenBytes >= logMaxBytes) return
    try {
      writeSync(process.stderr.fd, `${line}\n`)
    } catch {
      // A disk that is full ends no connection.
    }
  }
  return createLog({ level: settings.logLevel, format: 'json', write, wallMs: systemClock.wallMs })
}

/** The pipe is absent when somebody runs the entry by hand. */
function tellParent(message: object): void {
  try {
    writeSync(readyDescriptor, `${JSON.stringify(message)}\n`)
    closeSync(readyDescriptor)
  } catch {
    // Nobody waits.
  }
}
