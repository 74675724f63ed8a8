import { existsSync, readFileSync, statSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Settings } from '../../src/base/settings.ts'
import { interfaceJournalPath } from '../../src/connection/journal.ts'
import { connectDaemon, type DaemonClient } from '../../src/daemon/client.ts'
import { takeLock } from '../../src/daemon/lock.ts'
import { lockPath, logPath, socketPath } from '../../src/daemon/paths.ts'

let dir: string
let settings: Settings
const started = new Set<number>()
const callers: DaemonClient[] = []

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-daemon-'))
  const resolvConf = join(dir, 'resolv.conf')
  await writeFile(resolvConf, 'nameserver 192.0.2.254\n')
  settings = { stateDir: join(dir, 'state'), runtimeDir: join(dir, 'run'), logLevel: 'debug', resolvConf }
})

afterEach(async () => {
  await hangUp()
  for (const pid of started) if (isAlive(pid)) process.kill(pid, 'SIGTERM')
  for (const pid of started) await gone(pid)
  started.clear()
  await rm(dir, { recursive: true, force: true })
})

describe('the background process', () => {
  test('is UNREACHABLE when it may not be started', async () => {
    await expect(connectDaemon(settings, { start: false })).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(existsSync(settings.stateDir)).toBe(false)
  })

  test('starts on demand, answers, and stays for the next caller', async () => {
    const first = await pidOf(true)
    expect(await pidOf(false)).toBe(first)
    expect(statSync(socketPath(settings)).isSocket()).toBe(true)
    expect(statSync(logPath(settings)).mode & 0o777).toBe(0o600)
    expect(statSync(settings.stateDir).mode & 0o777).toBe(0o700)
  })

  test('leaves no image of its memory, nor do the programs that it starts', async () => {
    expect(readFileSync(`/proc/${await pidOf(true)}/limits`, 'utf8')).toMatch(/^Max core file size +0 +0 /m)
  })

  test('is started once when many ask at the same time', async () => {
    const pids = await Promise.all(Array.from({ length: 4 }, () => pidOf(true)))
    expect(new Set(pids).size).toBe(1)
  })

  test('is alone in its state folder: one with another runtime folder is a CONFLICT until it has ended', async () => {
    const first = await pidOf(true)
    const elsewhere = { ...settings, runtimeDir: join(dir, 'other-run') }
    await expect(connectDaemon(elsewhere, { start: true })).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining(settings.stateDir),
      next: expect.stringContaining('NSM_RUNTIME_DIR'),
    })
    process.kill(first, 'SIGTERM')
    await gone(first)
    settings = elsewhere
    expect(await pidOf(true)).not.toBe(first)
  })

  test('ends by itself when it holds nothing and nobody calls, and removes its socket', async () => {
    const pid = await pidOf(true)
    await hangUp()
    await gone(pid)
    expect(existsSync(socketPath(settings))).toBe(false)
  })

  test('ends at SIGTERM and frees the lock', async () => {
    const pid = await pidOf(true)
    expect(takeLock(lockPath(settings))).toBeUndefined()
    process.kill(pid, 'SIGTERM')
    await gone(pid)
    const lock = takeLock(lockPath(settings))
    expect(lock).toBeDefined()
    lock?.release()
  })

  test('is replaced after a SIGKILL, stale socket and all', async () => {
    const killed = await pidOf(true)
    process.kill(killed, 'SIGKILL')
    await gone(killed)
    expect(existsSync(socketPath(settings))).toBe(true)
    expect(await pidOf(true)).not.toBe(killed)
  })

  test.each([
    ['SIGKILL', false],
    ['SIGTERM', true],
  ] as const)('after %s, what is in the journal is there still: %s', async (signal, isThere) => {
    const pid = await pidOf(true)
    const parent = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
    const journal = interfaceJournalPath(settings.stateDir)
    await writeFile(journal, '["nsm-blue"]\n', { mode: 0o600 })
    process.kill(pid, signal)
    await gone(parent)
    expect(existsSync(journal)).toBe(isThere)
  })

  test('its parent holds nothing open, and is not taken for a second one', async () => {
    const pid = await pidOf(true)
    const parent = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
    expect(existsSync(`/proc/${parent}/fd/3`)).toBe(false)
    expect(readFileSync(`/proc/${parent}/cmdline`, 'utf8')).not.toContain('daemon/main')
    expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).toContain('daemon/main')
  })

  test('a start while a repair holds the lock waits for it', async () => {
    await mkdir(settings.runtimeDir, { mode: 0o700 })
    const lock = takeLock(lockPath(settings))
    const starting = pidOf(true)
    // Whoever starts writes its log first.
    while (!existsSync(logPath(settings))) await new Promise((resolve) => setTimeout(resolve, 20))
    lock?.release()
    expect(await starting).toBeGreaterThan(0)
  })

  test('opens no debugger at SIGUSR1 and takes nothing from the caller’s environment', async () => {
    const poison = join(dir, 'poison.cjs')
    await writeFile(poison, `require('node:fs').writeFileSync(${JSON.stringify(join(dir, 'poisoned'))}, '')`)
    process.env['NODE_OPTIONS'] = `--require ${poison}`
    try {
      const pid = await pidOf(true)
      process.kill(pid, 'SIGUSR1')
      expect(await pidOf(false)).toBe(pid)
      expect(readFileSync(logPath(settings), 'utf8')).not.toContain('Debugger')
      expect(readFileSync(`/proc/${pid}/environ`, 'utf8')).not.toContain('NODE_OPTIONS')
      expect(existsSync(join(dir, 'poisoned'))).toBe(false)
    } finally {
      delete process.env['NODE_OPTIONS']
    }
  })

  test('refuses a runtime directory that others may write, and says so to the caller', async () => {
    await mkdir(settings.runtimeDir)
    await chmod(settings.runtimeDir, 0o777)
    await expect(connectDaemon(settings, { start: true })).rejects.toMatchObject({ code: 'PERMISSION' })
  })

  test('shows an empty status, leaves nothing to disconnect, and has no identity to list with', async () => {
    const daemon = await connectDaemon(settings, { start: true })
    started.add((await daemon.version()).pid)
    const { signal } = new AbortController()
    expect(await daemon.status()).toMatchObject({ running: true, connections: [], warnings: [] })
    expect((await daemon.disconnect({ services: [], force: false }, signal)).disconnected).toEqual([])
    await expect(daemon.list({}, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
    await daemon.close()
  })

  test.each([
    ['kernel://blue:80', 'USAGE'],
    ['blue', 'IDENTITY'],
  ])('connect %s without an identity: %s', async (service, code) => {
    const daemon = await connectDaemon(settings, { start: true })
    started.add((await daemon.version()).pid)
    const request = { services: [service], labels: {}, allowPrefixes: [], excludePrefixes: [], timeoutMs: 60_000 }
    const connecting = daemon.connect(
      { ...request, dnsMode: 'fanout', dns: 'off' },
      () => {},
      new AbortController().signal,
    )
    await expect(connecting).rejects.toMatchObject({ code })
    await daemon.close()
  })
})

/** The process of whoever answers; it does not end by itself while we stay connected. */
async function pidOf(start: boolean): Promise<number> {
  const daemon = await connectDaemon(settings, { start })
  callers.push(daemon)
  const { pid } = await daemon.version()
  started.add(pid)
  return pid
}

async function hangUp(): Promise<void> {
  for (const caller of callers.splice(0)) await caller.close()
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

async function gone(pid: number): Promise<void> {
  while (isAlive(pid)) await new Promise((resolve) => setTimeout(resolve, 20))
}
