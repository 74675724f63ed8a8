import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readSettings } from '../../src/base/settings.ts'
import { connectDaemon, type DaemonClient } from '../../src/daemon/client.ts'
import { onLoopback, startedServe } from '../support/started-serve.ts'

const nsm = process.env['NSM_PROGRAM'] ?? ''

/** What somebody else may have set in the shell, and what each would do. */
const hostile = (trap: string) => ({
  NODE_OPTIONS: `--require ${trap}/evil.cjs --inspect=127.0.0.1:0`,
  NODE_PATH: trap,
  NODE_EXTRA_CA_CERTS: `${trap}/evil.cjs`,
  NODE_TLS_REJECT_UNAUTHORIZED: '0',
  NODE_REDIRECT_WARNINGS: `${trap}/written`,
  NODE_V8_COVERAGE: `${trap}/written`,
  NODE_COMPILE_CACHE: `${trap}/written`,
  NODE_ICU_DATA: trap,
  SSLKEYLOGFILE: `${trap}/written`,
  SSL_CERT_FILE: `${trap}/evil.cjs`,
  OPENSSL_CONF: `${trap}/evil.cjs`,
  OPENSSL_MODULES: trap,
  GRPC_DEFAULT_SSL_ROOTS_FILE_PATH: `${trap}/evil.cjs`,
  GRPC_VERBOSITY: 'DEBUG',
  GRPC_TRACE: 'all',
  HTTPS_PROXY: 'http://127.0.0.1:1',
  https_proxy: 'http://127.0.0.1:1',
  LD_PRELOAD: `${trap}/evil.so`,
  LD_LIBRARY_PATH: trap,
  NSM_THREAD_ADDON: `${trap}/evil.so`,
})

/** Every variable of Node's manual, and those that it reads without a word about them, each with what would be seen. */
const ofNode = [
  ['FORCE_COLOR', '3'],
  ['ICU_TIMEZONE_FILES_DIR', 'TRAP'],
  ['NODE_CHANNEL_FD', '1'],
  ['NODE_CLUSTER_SCHED_POLICY', 'none'],
  ['NODE_COMPILE_CACHE', 'TRAP/written'],
  ['NODE_COMPILE_CACHE_PORTABLE', '1'],
  ['NODE_DEBUG', 'fs,module,net,tls,worker,timer,http2'],
  ['NODE_DEBUG_NATIVE', 'coverage,compile_cache,mksnapshot,sea,inspector_profiler'],
  ['NODE_DISABLE_COLORS', '1'],
  ['NODE_DISABLE_COMPILE_CACHE', '1'],
  ['NODE_EXTRA_CA_CERTS', 'TRAP/evil.cjs'],
  ['NODE_ICU_DATA', 'TRAP'],
  ['NODE_INSPECT_RESUME_ON_START', '1'],
  ['NODE_NO_WARNINGS', '1'],
  ['NODE_OPTIONS', '--require TRAP/evil.cjs --inspect=127.0.0.1:0 --cpu-prof --cpu-prof-dir=TRAP/written'],
  ['NODE_PATH', 'TRAP'],
  ['NODE_PENDING_DEPRECATION', '1'],
  ['NODE_PENDING_PIPE_INSTANCES', '1'],
  ['NODE_PRESERVE_SYMLINKS', '1'],
  ['NODE_PRESERVE_SYMLINKS_MAIN', '1'],
  ['NODE_REDIRECT_WARNINGS', 'TRAP/written'],
  ['NODE_REPL_EXTERNAL_MODULE', 'TRAP/evil.cjs'],
  ['NODE_REPL_HISTORY', 'TRAP/written'],
  ['NODE_RUN_SCRIPT_NAME', 'evil'],
  ['NODE_SKIP_PLATFORM_CHECK', '1'],
  ['NODE_TEST_CONTEXT', 'child-v8'],
  ['NODE_TLS_REJECT_UNAUTHORIZED', '0'],
  ['NODE_UNIQUE_ID', '1'],
  ['NODE_USE_ENV_PROXY', '1'],
  ['NODE_USE_SYSTEM_CA', '1'],
  ['NODE_V8_COVERAGE', 'TRAP/written'],
  ['NO_COLOR', '1'],
  ['OPENSSL_CONF', 'TRAP/evil.cjs'],
  ['OPENSSL_CONF_INCLUDE', 'TRAP'],
  ['OPENSSL_ENGINES', 'TRAP'],
  ['OPENSSL_MODULES', 'TRAP'],
  ['SSLKEYLOGFILE', 'TRAP/written'],
  ['SSL_CERT_DIR', 'TRAP'],
  ['SSL_CERT_FILE', 'TRAP/evil.cjs'],
  ['UV_THREADPOOL_SIZE', '1'],
  ['UV_USE_IO_URING', '1'],
  ['WATCH_REPORT_DEPENDENCIES', '1'],
] as const
const hasStrace = spawnSync('strace', ['-V']).status === 0

let dir = ''
let trap = ''
let dirs: NodeJS.ProcessEnv = {}
const processes: ChildProcess[] = []
let caller: DaemonClient | undefined
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nsm-hostile-'))
  trap = join(dir, 'trap')
  dirs = { NSM_STATE_DIR: join(dir, 'state'), NSM_RUNTIME_DIR: join(dir, 'run') }
  for (const name of ['koffi', '@oclif/core', '@grpc/grpc-js', 'jose', '@napi-rs/keyring', 'yaml']) {
    mkdirSync(join(trap, 'node_modules', name), { recursive: true })
    writeFileSync(join(trap, 'node_modules', name, 'index.js'), shout)
  }
  for (const name of ['evil.cjs', 'daemon.cjs', 'worker.cjs', 'boot.cjs']) writeFileSync(join(trap, name), shout)
})
afterEach(async () => {
  for (const child of processes.splice(0)) await ended(child)
  await endBackground()
  await caller?.close()
  caller = undefined
  rmSync(dir, { recursive: true, force: true })
})

const shout = 'require("node:fs").writeFileSync(__dirname + "/planted", "x")'

/** Files that only foreign code would have written. */
const traces = () => readdirSync(trap, { recursive: true }).filter((name) => /planted|written/.test(String(name)))

function run(
  args: readonly string[],
  more: NodeJS.ProcessEnv = {},
): Promise<{ code: number; out: string; err: string }> {
  const env = { PATH: process.env['PATH'], HOME: trap, ...dirs, ...more }
  return new Promise((settle) => {
    const child = execFile(nsm, [...args], { cwd: trap, env }, (_error, out, err) =>
      settle({ code: child.exitCode ?? -1, out, err }),
    )
  })
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = once(child, 'exit')
  child.kill('SIGTERM')
  await gone
}

/** A server in the trap, with everything hostile around it; gives its join string too. */
async function serve(more: NodeJS.ProcessEnv = {}) {
  const env = { PATH: process.env['PATH'], HOME: trap, ...dirs, ...more }
  const served = await startedServe(nsm, onLoopback, { cwd: trap, env })
  processes.push(served.child)
  const joinFile = join(dir, 'join.txt')
  writeFileSync(joinFile, served.out)
  return { ...served, joinFile }
}

/** A background process that has nothing to do: the service of nobody is asked for. It stays while somebody calls. */
async function startBackground(more: NodeJS.ProcessEnv = {}): Promise<number> {
  await run(['connect', 'nobody', '--manager', 'tcp://127.0.0.1:1', '--timeout', '1s'], more)
  caller = await connectDaemon(readSettings(dirs, 0), { start: false })
  return (await caller.version()).pid
}

async function background(): Promise<number | undefined> {
  const { out } = await run(['version', '--json'])
  return JSON.parse(out).daemon?.pid
}

async function endBackground(): Promise<void> {
  const pid = nsm === '' ? undefined : await background()
  if (pid === undefined) return
  process.kill(pid, 'SIGTERM')
  while (existsSync(`/proc/${pid}`)) await new Promise((resolve) => setTimeout(resolve, 20))
}

/** Sockets on which a process listens, as the kernel lists them. */
function listening(pid: number): readonly string[] {
  const own = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    const [, inode] = /^socket:\[(\d+)\]$/.exec(readlink(`/proc/${pid}/fd/${fd}`)) ?? []
    return inode ?? []
  })
  const lines = ['tcp', 'tcp6'].flatMap((table) => readFileSync(`/proc/${pid}/net/${table}`, 'utf8').split('\n'))
  const listens = '0A'
  // Without the first column: the place in the table moves with the sockets of others.
  return lines.flatMap((line) => {
    const [, address = '', , state, , , , , , inode = ''] = line.trim().split(/\s+/)
    return state === listens && own.includes(inode) ? `${address} ${inode}` : []
  })
}

function readlink(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

describe.skipIf(nsm === '')('the one-file executable in hostile surroundings (needs NSM_PROGRAM)', () => {
  test('serves, invites and calls, and nothing that is planted around it is loaded, asked or written', async () => {
    const around = hostile(trap)
    const { child, joinFile, err } = await serve(around)
    expect((await run(['invite'], around)).out).toContain('nsm://')
    const login = await run(['login', '--join', joinFile, '--method', 'device'], around)
    expect([login.code, login.err]).toEqual([6, expect.stringContaining('has no issuer')])
    await ended(child)
    expect(child.exitCode).toBe(143)
    expect(traces()).toEqual([])
    for (const said of [err(), login.err]) expect(said).not.toMatch(/debugger|GRPC|TRACE/i)
  })

  test('gives its background process none of it', async () => {
    const pid = await startBackground(hostile(trap))
    const names = readFileSync(`/proc/${pid}/environ`, 'utf8')
      .split('\0')
      .map((line) => line.split('=')[0])
    expect(names.filter((name) => name !== undefined && Object.hasOwn(hostile(trap), name))).toEqual([])
    expect(readlink(`/proc/${pid}/cwd`)).toBe('/')
    expect(readFileSync(`/proc/${pid}/maps`, 'utf8').includes(trap)).toBe(false)
    expect(traces()).toEqual([])
  })

  test('opens no debugger when its background process gets SIGUSR1, and goes on', async () => {
    const pid = await startBackground()
    const before = listening(pid)
    process.kill(pid, 'SIGUSR1')
    expect((await run(['status', '--json'])).code).toBe(0)
    expect(listening(pid)).toEqual(before)
    expect(await background()).toBe(pid)
  })

  test('opens no debugger when a server gets SIGUSR1', async () => {
    const { pid } = await serve()
    const before = listening(pid)
    expect(before).toHaveLength(1)
    process.kill(pid, 'SIGUSR1')
    expect((await run(['invite'])).code).toBe(0)
    expect(listening(pid)).toEqual(before)
  })

  test.each(ofNode)('%s, which Node itself would heed, is not', async (name, value) => {
    const before = readdirSync(trap, { recursive: true })
    const around = { [name]: value.replaceAll('TRAP', trap) }
    for (const words of [['--version'], ['cleanup'], ['status', '--json']]) {
      const { code, out, err } = await run(words)
      expect([code, err]).toEqual([0, ''])
      // What Node's own modules say of themselves it has decided before any script; it is said to who set it.
      expect(await run(words, around)).toEqual({ code, out, err: name === 'NODE_DEBUG' ? expect.any(String) : '' })
    }
    expect(readdirSync(trap, { recursive: true })).toEqual(before)
  })

  test.skipIf(!hasStrace)('opens and looks for nothing that any of them names (needs strace)', async () => {
    const around = Object.fromEntries(ofNode.map(([name, value]) => [name, value.replaceAll('TRAP', trap)]))
    const joinFile = join(dir, 'join.txt')
    writeFileSync(joinFile, `nsm://127.0.0.1:1/?td=a.example&pin=sha256-${'A'.repeat(43)}\n`)
    const calls = join(dir, 'calls')
    const traced = ['-f', '-e', 'trace=%file', '-s', '4096', '-o', calls, nsm]
    for (const words of [['--version'], ['status'], ['login', '--join', joinFile, '--method', 'device']]) {
      const env = { PATH: process.env['PATH'], HOME: dir, ...dirs, ...around }
      await once(spawn('strace', [...traced, ...words], { cwd: dir, env, stdio: 'ignore' }), 'exit')
      const seen = readFileSync(calls, 'utf8')
      expect(seen).toContain(nsm)
      expect(seen.split('\n').filter((line) => line.includes(trap) && !line.includes('execve('))).toEqual([])
    }
  })

  test.each([
    ['standard input', '<&-'],
    ['standard error', '2>&-'],
    ['standard output', '>&-'],
    ['all three', '<&- >&- 2>&-'],
  ])('works with %s closed, and no file of its own takes the place', async (_which, closed) => {
    const words = ['connect', 'nobody', '--manager', 'tcp://127.0.0.1:1', '--timeout', '1s']
    const env = { PATH: process.env['PATH'], HOME: trap, ...dirs }
    const child = spawn('sh', ['-c', `"$0" "$@" ${closed}`, nsm, ...words], { cwd: trap, env, stdio: 'ignore' })
    expect((await once(child, 'exit'))[0]).toBe(4)
    expect(await background()).toBeGreaterThan(0)
  })
})

describe.skipIf(nsm === '')('the one-file executable where nothing can be written (needs NSM_PROGRAM)', () => {
  const words = '--listen 127.0.0.1:0 --wireguard-port 0 --advertise 127.0.0.1'
  const commands = [`serve ${words}`, 'connect nobody --manager tcp://127.0.0.1:1 --timeout 1s', 'cleanup']

  /** With a file system of its own for one of the two folders. */
  async function inMounts(command: string, mounts: readonly (readonly [string, string])[]) {
    const steps = mounts.map(
      ([at, options]) => `mkdir -p ${dirs[at]} && mount -t tmpfs -o mode=0700,${options} none ${dirs[at]}`,
    )
    const fill = mounts
      .filter(([, options]) => options.startsWith('size'))
      .map(([at]) => `cat /dev/zero > ${dirs[at]}/fill 2>/dev/null`)
    const script = ['ip link set lo up', ...steps, [...fill, `exec timeout 120 ${nsm} ${command}`].join('; ')].join(
      ' && ',
    )
    const own = ['--user', '--map-root-user', '--net', '--mount', '--pid', '--fork', '--kill-child']
    const env = { PATH: process.env['PATH'], HOME: trap, ...dirs }
    return new Promise<{ code: number; out: string; err: string }>((settle) => {
      const child = execFile('unshare', [...own, 'sh', '-c', script], { cwd: trap, env }, (_error, out, err) =>
        settle({ code: child.exitCode ?? -1, out, err }),
      )
    })
  }

  test.each(commands)(
    '%s ends with PERMISSION (9) when both folders are full, and says that no space is left',
    async (command) => {
      const full = 'size=256k'
      const { code, err } = await inMounts(command, [
        ['NSM_STATE_DIR', full],
        ['NSM_RUNTIME_DIR', full],
      ])
      expect([code, err]).toEqual([9, expect.stringMatching(/no space is left|ENOSPC/)])
      expect(err).toContain('Try this')
    },
  )

  test.each(commands)(
    '%s ends with PERMISSION (9) when both folders are read-only, and says which variables to set',
    async (command) => {
      const { code, err } = await inMounts(command, [
        ['NSM_STATE_DIR', 'ro'],
        ['NSM_RUNTIME_DIR', 'ro'],
      ])
      expect([code, err]).toEqual([9, expect.stringMatching(/EROFS/)])
      expect(err).toContain('NSM_RUNTIME_DIR')
    },
  )

  test.each(commands)('%s ends with PERMISSION (9) when both folders are noexec, and lists them', async (command) => {
    const { code, err } = await inMounts(command, [
      ['NSM_STATE_DIR', 'noexec'],
      ['NSM_RUNTIME_DIR', 'noexec'],
    ])
    expect([code, err]).toEqual([9, expect.stringContaining('failed to map segment')])
    for (const place of ['state/native', 'run/native']) expect(err).toContain(place)
  })

  test('a full disk of the log keeps the background process from nothing', async () => {
    const { code } = await inMounts('connect nobody --manager tcp://127.0.0.1:1 --timeout 1s', [
      ['NSM_STATE_DIR', 'size=64k'],
    ])
    expect(code).toBe(4)
  })
})
