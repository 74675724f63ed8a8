import { createRequire, getCompileCacheDir } from 'node:module'
import { dirname } from 'node:path'
import { isMainThread, Worker, type WorkerOptions } from 'node:worker_threads'
import { requireLinux } from '../../base/open.ts'
import { inOneFile, partOf } from '../../base/parts.ts'
import { readSettings } from '../../base/settings.ts'
import { type LoadedAddon, loadAddon, loadAddonAt } from './addon.ts'

/** The foreign function interface of the add-on. */
export type Koffi = typeof import('koffi')

/**
 * Loads the native add-on on first use; throws `PERMISSION` when the one-file executable finds no place to load it from,
 * and `USAGE` on a system whose calls nobody has written down.
 */
export function loadKoffi(): Koffi {
  requireLinux('tunnels and servers work')
  loaded ??= inOneFile ? addon().exports : createRequire(import.meta.url)('koffi')
  return loaded
}

/** Starts the packet worker's thread: from its source, or in the one-file executable from the boot script that is inside. */
export function startWorkerThread(options: WorkerOptions): Worker {
  return inOneFile ? startFromPart(options) : startFromSource(options)
}

/**
 * A thread does not inherit the compile cache; with it the worker needs 30 MiB less, for the type stripper is not loaded.
 */
function startFromSource(options: WorkerOptions): Worker {
  const cache = getCompileCacheDir()
  const env = cache === undefined ? process.env : { ...process.env, NODE_COMPILE_CACHE: dirname(cache) }
  return new Worker(new URL('../worker.ts', import.meta.url), { ...options, env, execArgv: [] })
}

/** The thread opens the same copy of the add-on: a second one would be a second library. */
function startFromPart(options: WorkerOptions): Worker {
  const source = new TextDecoder('latin1').decode(partOf('boot.cjs'))
  const env = { ...process.env, [addonVariable]: addon().path }
  return new Worker(source, { ...options, env, execArgv: [], argv: ['packet-worker'], eval: true })
}

/** Where the process that started this thread has the add-on; of a process's own environment it is never read. */
const addonVariable = 'NSM_THREAD_ADDON'

function addon(): LoadedAddon<Koffi> {
  const path = isMainThread ? undefined : process.env[addonVariable]
  kept ??=
    path === undefined ? loadAddon('koffi.node', readSettings(process.env, process.getuid?.() ?? 0)) : loadAddonAt(path)
  return kept
}

let kept: LoadedAddon<Koffi> | undefined
let loaded: Koffi
