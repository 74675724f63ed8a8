import { createRequire, getCompileCacheDir } from 'node:module'
import { dirname } from 'node:path'
import { Worker, type WorkerOptions } from 'node:worker_threads'

/** The foreign function interface of the add-on. */
export type Koffi = typeof import('koffi')

/** Loads the native add-on on first use. A single-file build replaces this file: it alone knows where add-on and worker source are. */
export function loadKoffi(): Koffi {
  loaded ??= createRequire(import.meta.url)('koffi')
  return loaded
}

/**
 * Starts the packet worker's thread from its source. A thread does not inherit the compile cache; with it the worker
 * needs 30 MiB less, for the type stripper is not loaded.
 */
export function startWorkerThread(options: WorkerOptions): Worker {
  const cache = getCompileCacheDir()
  const env = cache === undefined ? process.env : { ...process.env, NODE_COMPILE_CACHE: dirname(cache) }
  return new Worker(new URL('../worker.ts', import.meta.url), { ...options, env, execArgv: [] })
}

let loaded: Koffi
