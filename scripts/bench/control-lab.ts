import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { NsmError } from '../../src/base/errors.ts'
import { runGo } from '../../test/interop/go-process.ts'
import { freePort } from '../../test/support/free-port.ts'

/** A server under load: where it listens and the processes whose CPU time is its. */
export interface Subject {
  readonly url: string
  readonly pids: readonly number[]
}

/** NSM's programs and ours on this machine's loopback, all with identities of one Workload API. */
export interface ControlLab {
  readonly ours: Subject
  readonly registry: Subject
  /** The Go endpoint, called directly. */
  readonly endpoint: Subject
  /** The Go manager, with everything a request through it makes work. */
  readonly path: Subject
  /** Another server of ours, that nobody has called yet. */
  fresh(): Promise<Subject>
  /** Runs one load on a server; rejects when the program fails. */
  load(on: Subject, flags: Readonly<Record<string, string | number>>): Promise<LoadResult>
  /** Workload APIs of further members. */
  readonly memberSockets: readonly string[]
  close(): Promise<void>
}

/** What one load saw. */
export interface LoadResult {
  readonly calls: number
  readonly errors: number
  readonly firstError: string | null
  readonly seconds: number
  readonly cpuSeconds: number
  readonly p50Ms: number
  readonly p99Ms: number
}

/** Service and endpoint of each server of ours. */
export const ourService = { service: 'bench', endpoint: 'bench-1' }

/** Ours: an identity may have 64 connections, so 1,000 members need a few. */
const memberIdentities = 20
/** As in bin/nsm, which also sets MALLOC_ARENA_MAX. */
const nodeFlags = ['--max-semi-space-size=2', '--v8-pool-size=1']
/** Of an endpoint of NSM: wide enough for two addresses of each caller. */
const goPrefix = '172.16.0.0/16'

/** Starts everything; `program` is the built Go program. */
export async function openControlLab(program: string): Promise<ControlLab> {
  const dir = await mkdtemp(join(tmpdir(), 'nsm-bench-control-'))
  const children: ChildProcess[] = []
  const close = async () => {
    for (const child of children.reverse()) await end(child)
    await rm(dir, { recursive: true, force: true })
  }
  try {
    return { ...(await start(program, { dir, children })), close }
  } catch (error) {
    await close()
    throw error
  }
}

async function start(
  program: string,
  { dir, children }: { readonly dir: string; readonly children: ChildProcess[] },
): Promise<Omit<ControlLab, 'close'>> {
  const socketOf = (name: string) => `unix://${join(dir, `${name}.sock`)}`
  const members = Array.from({ length: memberIdentities }, (_, i) => `member${i}`)
  const names = ['registry', 'nsmgr', 'forwarder', 'icmp', 'ours', 'client', ...members].join()
  const launch = async (command: string, args: readonly string[], socket?: string) => {
    const environment = { MALLOC_ARENA_MAX: '1', ...(socket !== undefined && { SPIFFE_ENDPOINT_SOCKET: socket }) }
    const child = spawn(command, [...args], { stdio: ['pipe', 'pipe', 'ignore'], env: environment })
    children.push(child)
    await ready(child, args[0] ?? command)
    return child.pid ?? 0
  }
  const go = async (role: string, flags: readonly string[]) => {
    const url = `tcp://127.0.0.1:${await freePort()}`
    const pid = await launch(program, [role, `-listen=${url}`, ...flags], socketOf(role))
    return { url, pids: [pid] }
  }
  await launch(program, ['workloadapi', `-dir=${dir}`, `-names=${names}`])
  const ours = async (name: string) => {
    const port = await freePort()
    const folder = join(dir, name)
    await mkdir(folder)
    const program = join(import.meta.dirname, 'control-subject.ts')
    const pid = await launch(process.execPath, [...nodeFlags, program, String(port), socketOf('ours'), folder])
    return { url: `tcp://127.0.0.1:${port}`, pids: [pid] }
  }
  const loaded = await ours('loaded')
  const registry = await go('registry', [])
  const manager = await go('nsmgr', [`-registry=${registry.url}`])
  const forwarder = await go('forwarder', [`-manager=${manager.url}`])
  const endpoint = await go('icmp', [`-register=${manager.url}`, `-prefixes=${goPrefix}`])
  return {
    ours: loaded,
    fresh: () => ours('fresh'),
    registry,
    endpoint,
    path: { url: manager.url, pids: [registry, manager, forwarder, endpoint].flatMap(({ pids }) => pids) },
    memberSockets: members.map(socketOf),
    async load({ url, pids }, flags) {
      const all = { ...flags, to: url, pids: pids.join() }
      const lines = await runGo({ path: program, role: 'load', socket: socketOf('client'), flags: all })
      return readResult(lines[0] ?? '{}')
    },
  }
}

/** A note for calls that failed; none when all is well. */
export function failures(label: string, results: readonly LoadResult[]): string[] {
  const failed = results.reduce((sum, { errors }) => sum + errors, 0)
  const first = results.find(({ firstError }) => firstError !== null)?.firstError
  return failed === 0 ? [] : [`${label}: ${failed} calls failed, first: ${first}`]
}

function readResult(line: string): LoadResult {
  const found: Record<string, unknown> = JSON.parse(line)
  const number = (key: string) => Number(found[key] ?? 0)
  return {
    calls: number('calls'),
    errors: number('errors'),
    firstError: typeof found['firstError'] === 'string' ? found['firstError'] : null,
    seconds: number('seconds'),
    cpuSeconds: number('cpuSeconds'),
    p50Ms: number('p50Ms'),
    p99Ms: number('p99Ms'),
  }
}

/** Resolves when it prints "ready"; rejects with `NOT_READY` when it ends before. */
async function ready(child: ChildProcess, name: string): Promise<void> {
  if (!child.stdout) return
  for await (const line of createInterface({ input: child.stdout })) if (line === 'ready') return
  throw new NsmError('NOT_READY', `${name} ended before it was ready`, '')
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.stdin?.end()
  const watchdog = setTimeout(() => child.kill('SIGKILL'), endTimeoutMs)
  await ended.finally(() => clearTimeout(watchdog))
}

/** Ours: a server of NSM withdraws its registration first, for up to 3 s. */
const endTimeoutMs = 6_000
