import { execFile, execFileSync, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { median, row, targetRow } from './figures.ts'
import type { BenchRow, BenchSection } from './section.ts'

/** The file of `npm run package`. */
const program = resolve(import.meta.dirname, '../../dist/nsm')

/** Wall time of each command from its start to its end, all programs in turn in every round; medians of at least 15. */
export async function benchStart({ runs }: { readonly runs: number }): Promise<BenchSection> {
  if (!existsSync(program)) return { name: 'start', rows: [], versions: {}, notes: ['not measured: npm run package'] }
  const scratch = mkdtempSync(join(tmpdir(), 'nsm-bench-start-'))
  const env: NodeJS.ProcessEnv = { ...process.env, ...dirs(scratch) }
  // Node reads these certificates at each start that uses its crypto, and no connection of ours believes them.
  delete env['NODE_EXTRA_CA_CERTS']
  const serve = await startServe(env)
  try {
    const joinFile = join(scratch, 'join.txt')
    writeFileSync(joinFile, serve.out)
    const compared = subjects(joinFile)
    const tookMs = await measure(compared, { rounds: Math.max(runs, roundsMin), env })
    const rows = [...rowsOf(compared, tookMs), memoryRow(env)]
    return { name: 'start', rows, versions: versions(), notes: [] }
  } finally {
    await serve.stop()
    await stopDaemon(env)
    rmSync(scratch, { recursive: true, force: true })
  }
}

const dirs = (scratch: string) => ({ NSM_STATE_DIR: join(scratch, 'state'), NSM_RUNTIME_DIR: join(scratch, 'run') })

/** Asked for by the limits' definition. */
const roundsMin = 15

interface Subject {
  readonly label: string
  readonly words: readonly string[]
  /** Largest ratio to bare Node. */
  readonly limit?: number
}

const bareNode: Subject = { label: 'bare Node', words: [process.execPath, '/dev/null'] }
const subjects = (joinFile: string): readonly Subject[] => [
  { label: 'nsm --version', words: [program, '--version'], limit: 1.15 },
  { label: 'nsm --help', words: [program, '--help'], limit: 1.15 },
  { label: 'nsm status, background process there', words: [program, 'status'], limit: 1.8 },
  // A second server is refused after its code is loaded, gRPC among it.
  { label: 'nsm serve, refused (loads gRPC)', words: [program, 'serve'], limit: 2.8 },
  // The server has no issuer: what is measured is one call of a client, from TLS to its answer.
  { label: 'nsm login, refused (a gRPC call)', words: [program, 'login', '--join', joinFile, '--method', 'device'] },
  { label: 'git --version', words: ['git', '--version'] },
  { label: 'wg --version', words: ['wg', '--version'] },
]

async function measure(
  compared: readonly Subject[],
  { rounds, env }: { readonly rounds: number; readonly env: NodeJS.ProcessEnv },
): Promise<ReadonlyMap<string, number>> {
  const took = new Map<string, number[]>()
  // The round that does not count fills the page cache.
  for (let round = -1; round < rounds; round++) {
    await startDaemon(env)
    for (const { label, words } of [bareNode, ...compared]) {
      const ms = await wallMs(words, { env, stdio: 'ignore' })
      if (round >= 0) took.set(label, [...(took.get(label) ?? []), ms])
    }
  }
  return new Map([...took].map(([label, values]) => [label, median(values)]))
}

async function wallMs([file = '', ...args]: readonly string[], options: SpawnOptions): Promise<number> {
  const startedMs = performance.now()
  await once(spawn(file, args, options), 'exit')
  return performance.now() - startedMs
}

function rowsOf(compared: readonly Subject[], tookMs: ReadonlyMap<string, number>): BenchRow[] {
  const of = (label: string) => tookMs.get(label) ?? Number.NaN
  return compared.map(({ label, limit }) => {
    const figure = { label, ours: of(label), peer: of(bareNode.label), unit: 'ms, peer bare Node' }
    return row({ ...figure, ...(limit === undefined ? {} : { limit }), betterIs: 'lower' })
  })
}

/** Ours [packaging]: a status line in a prompt or a loop must not weigh more. */
const statusMibMax = 90

function memoryRow(env: NodeJS.ProcessEnv): BenchRow {
  const words = ['-f', '%M', program, 'status']
  const { stderr } = spawnSync('/usr/bin/time', words, { env, encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] })
  return targetRow({ label: 'nsm status, resident', ours: Number(stderr) / 1_024, target: statusMibMax, unit: 'MiB' })
}

/** A connection that cannot be made changes nothing on the machine and leaves the background process there. */
async function startDaemon(env: NodeJS.ProcessEnv): Promise<void> {
  const words = ['connect', 'nobody', '--manager', 'tcp://127.0.0.1:1', '--timeout', '1s']
  await once(spawn(program, words, { env, stdio: 'ignore' }), 'exit')
}

async function stopDaemon(env: NodeJS.ProcessEnv): Promise<void> {
  const { stdout } = await promisify(execFile)(program, ['version', '--json'], { env })
  const pid: unknown = JSON.parse(stdout).daemon?.pid
  if (typeof pid === 'number') process.kill(pid, 'SIGTERM')
}

async function startServe(env: NodeJS.ProcessEnv): Promise<{ readonly out: string; stop(): Promise<void> }> {
  const words = ['serve', '--listen', '127.0.0.1:0', '--wireguard-port', '0', '--advertise', '127.0.0.1']
  const child = spawn(program, words, { env, stdio: ['ignore', 'pipe', 'ignore'] })
  const ended = once(child, 'exit')
  let out = ''
  for await (const part of child.stdout) {
    out += part
    if (out.includes('nsm://') && out.endsWith('\n')) break
  }
  return {
    out,
    async stop() {
      child.kill()
      await ended
    },
  }
}

function versions(): Record<string, string> {
  const first = (file: string) => execFileSync(file, ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? ''
  return { 'beside it:': `${first(program)}, ${first('git')}, ${first('wg')}, bare Node ${process.version}` }
}
