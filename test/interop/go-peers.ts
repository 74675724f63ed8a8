import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { systemClock } from '../../src/base/clock.ts'
import { takeLock } from '../../src/daemon/lock.ts'

/** The built program, or why there is none. */
export type GoPeers = { readonly path: string } | { readonly path: undefined; readonly why: string }

const cache = resolve(import.meta.dirname, '../../node_modules/.cache/nsm-interop')
/** A first build downloads 100 modules: about 3 minutes on 2 cores. */
const buildTimeoutMs = 900_000
const lockPauseMs = 500

/** Builds real Network Service Mesh programs, test/interop/peers. */
export function buildGoPeers(): Promise<GoPeers> {
  return buildOnce('peers')
}

/** Builds an application as a user of go-spiffe writes one, test/interop/apps. */
export function buildGoApps(): Promise<GoPeers> {
  return buildOnce('apps')
}

/**
 * Builds a folder beside this file through Go's module proxy, once for each content of it; the result is kept in
 * node_modules/.cache. One process builds, others wait for it.
 */
async function buildOnce(name: 'peers' | 'apps'): Promise<GoPeers> {
  const sources = resolve(import.meta.dirname, name)
  const path = join(cache, `${name}-${hashOf(sources)}`)
  mkdirSync(cache, { recursive: true })
  const lock = await waitForLock(join(cache, 'lock'))
  try {
    if (!existsSync(path)) await build(sources, path)
    return { path }
  } catch (error) {
    return { path: undefined, why: `the Go programs cannot be built: ${reason(error)}` }
  } finally {
    lock.release()
  }
}

/** The name of a suite: it says why it is skipped when it is. */
export function suiteName(name: string, peers: GoPeers): string {
  return peers.path === undefined ? `${name}: skipped, ${peers.why}` : name
}

async function build(sources: string, path: string): Promise<void> {
  const args = [
    'build',
    '-trimpath',
    '-buildvcs=false',
    '-mod=readonly',
    '-ldflags=-s -w',
    '-o',
    join(cache, 'building'),
    '.',
  ]
  const env = { ...process.env, CGO_ENABLED: '0' }
  await promisify(execFile)('go', args, { cwd: sources, env, timeout: buildTimeoutMs })
  const older = `${basename(sources)}-`
  for (const name of readdirSync(cache)) if (name.startsWith(older)) rmSync(join(cache, name))
  renameSync(join(cache, 'building'), path)
}

function hashOf(sources: string): string {
  const hash = createHash('sha256')
  for (const name of readdirSync(sources).sort()) hash.update(name).update(readFileSync(join(sources, name)))
  return hash.digest('hex').slice(0, 16)
}

async function waitForLock(path: string) {
  for (;;) {
    const lock = takeLock(path)
    if (lock) return lock
    await new Promise<void>((resolve) => systemClock.after(lockPauseMs, resolve))
  }
}

function reason(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown'
  if ('code' in error && error.code === 'ENOENT') return 'no `go` on this machine'
  const [first = ''] = ('stderr' in error ? String(error.stderr) : error.message).trim().split('\n')
  return first.slice(0, 200)
}
