import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { BenchRow, BenchSection } from './section.ts'

/** Names with a time to live of 0 (never cached by anybody) and of an hour (asked again and again). */
const coldNames = 10_000
const hotNames = 200
/** Seconds of one load run; with 5 rounds, two subjects and two loads 40 s in all. */
const runSeconds = 2
/** The promise: our CPU per query against dnsmasq's, two upstreams and no cache hit. */
const cpuLimit = 2.2
/** Kernel ticks of /proc/PID/stat per second. [proc(5)] */
const ticksPerSecond = 100

const tools = { dnsmasq: 'dnsmasq-base', dnsperf: 'dnsperf', knotd: 'knot', taskset: 'util-linux' } as const
const execute = promisify(execFile)

/** CPU per query of our resolver and of dnsmasq `--all-servers`, in the same interleaved rounds, on loopback. */
export async function benchDns(options: { readonly runs: number }): Promise<BenchSection> {
  const missing = await missingTools()
  if (missing.length > 0) {
    const note = `not measured: ${missing.join(', ')} missing; apt-get install ${missing.map((name) => tools[name]).join(' ')}`
    return { name: 'dns', rows: [], versions: {}, notes: [note] }
  }
  const dir = await mkdtemp(join(tmpdir(), 'nsm-bench-dns-'))
  const children: ChildProcess[] = []
  try {
    const lab = await startLab(dir, children)
    const measured = await measure(lab, options.runs)
    return { name: 'dns', rows: measured.rows, versions: await versions(), notes: [...notes(), ...measured.notes] }
  } finally {
    for (const child of children) await stop(child)
    await rm(dir, { recursive: true, force: true })
  }
}

interface Subject {
  readonly name: 'ours' | 'dnsmasq'
  readonly port: number
  readonly pid: number
}

interface Lab {
  readonly dir: string
  readonly subjects: readonly Subject[]
}

/** Knot and the load on one core, the subject of the moment on the other. */
async function startLab(dir: string, children: ChildProcess[]): Promise<Lab> {
  const [zone, ours, masq] = [await freePort(), await freePort(), await freePort()]
  await writeZone(dir, zone)
  const start = (core: 'load' | 'subject', program: string, args: readonly string[]) => {
    const [command = '', ...rest] = pinned(core, program, args)
    const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'ignore'] })
    children.push(child)
    return child
  }
  start('load', 'knotd', ['-c', join(dir, 'knot.conf')])
  const upstreams = [`127.0.0.1:${zone}`, `127.0.0.2:${zone}`]
  const subject = join(import.meta.dirname, 'dns-subject.ts')
  const our = start('subject', process.execPath, [subject, String(ours), ...upstreams, 'cold.test', 'hot.test'])
  const servers = upstreams.map((upstream) => `--server=${upstream.replace(':', '#')}`)
  const theirs = start('subject', 'dnsmasq', [...dnsmasqArgs(masq), ...servers])
  if (our.stdout) await once(our.stdout, 'data')
  for (const port of [zone, ours, masq]) await answers(port)
  return {
    dir,
    subjects: [
      { name: 'ours', port: ours, pid: our.pid ?? 0 },
      { name: 'dnsmasq', port: masq, pid: theirs.pid ?? 0 },
    ],
  }
}

function dnsmasqArgs(port: number): string[] {
  const listen = [`--port=${port}`, '--listen-address=127.0.0.1', '--bind-interfaces']
  const quiet = ['--keep-in-foreground', '--conf-file=/dev/null', '--pid-file=', '--no-resolv', '--no-hosts']
  return [...listen, ...quiet, '--user=root', '--all-servers', '--cache-size=10000', '--dns-forward-max=2000']
}

async function writeZone(dir: string, port: number): Promise<void> {
  const head = (name: string, ttl: number) =>
    `$ORIGIN ${name}.\n$TTL ${ttl}\n@ SOA ns.${name}. host.${name}. 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n`
  const hosts = (count: number) =>
    Array.from({ length: count }, (_, i) => `n${i} A 10.${i >> 16}.${(i >> 8) & 255}.${i & 255}\n`).join('')
  await writeFile(join(dir, 'cold.zone'), head('cold.test', 0) + hosts(coldNames))
  await writeFile(join(dir, 'hot.zone'), head('hot.test', 3600) + hosts(hotNames))
  const asked = (count: number, zone: string) =>
    Array.from({ length: count }, (_, i) => `n${(i * 7919) % count}.${zone} A\n`).join('')
  await writeFile(join(dir, 'cold.txt'), asked(coldNames, 'cold.test'))
  await writeFile(join(dir, 'hot.txt'), asked(hotNames, 'hot.test'))
  const conf = [
    'server:',
    `  rundir: "${dir}"`,
    `  listen: [ 127.0.0.1@${port}, 127.0.0.2@${port} ]`,
    '  udp-workers: 1',
    '  tcp-workers: 1',
    '  background-workers: 1',
    'database:',
    `  storage: "${dir}"`,
    'template:',
    '  - id: default',
    `    storage: "${dir}"`,
    'zone:',
    '  - domain: cold.test',
    '    file: cold.zone',
    '  - domain: hot.test',
    '    file: hot.zone',
  ]
  await writeFile(join(dir, 'knot.conf'), `${conf.join('\n')}\n`)
}

type Figures = Record<Subject['name'], { cpu: number[]; rate: number[] }>

/** Rounds interleave the subjects, so that a busy neighbour meets both. */
async function measure(lab: Lab, runs: number): Promise<{ rows: BenchRow[]; notes: string[] }> {
  const rows: BenchRow[] = []
  const notes: string[] = []
  for (const load of ['cold', 'hot'] as const) {
    const figures: Figures = { ours: { cpu: [], rate: [] }, dnsmasq: { cpu: [], rate: [] } }
    if (load === 'hot') for (const subject of lab.subjects) await run(lab, subject, load)
    for (let round = 0; round < runs; round++) {
      for (const subject of lab.subjects) {
        const { cpuMicroseconds, perSecond } = await run(lab, subject, load)
        figures[subject.name].cpu.push(cpuMicroseconds)
        figures[subject.name].rate.push(perSecond)
      }
    }
    rows.push(...rowsOf(load, figures))
    notes.push(
      `${load}: queries per second ours ${round1(median(figures.ours.rate))}, dnsmasq ${round1(median(figures.dnsmasq.rate))}`,
    )
  }
  return { rows, notes }
}

function rowsOf(load: 'cold' | 'hot', figures: Figures): BenchRow[] {
  const ours = median(figures.ours.cpu)
  const peer = median(figures.dnsmasq.cpu)
  const label = load === 'cold' ? 'CPU per query, two upstreams, no cache hit' : 'CPU per query, cached'
  const row: BenchRow = { label, ours, peer, unit: 'us', ratio: ours / peer, betterIs: 'lower' }
  return [load === 'cold' ? { ...row, limit: cpuLimit } : row]
}

async function run(lab: Lab, subject: Subject, load: string): Promise<{ cpuMicroseconds: number; perSecond: number }> {
  const before = await cpuTicks(subject.pid)
  const file = join(lab.dir, `${load}.txt`)
  const args = [
    '-s',
    '127.0.0.1',
    '-p',
    String(subject.port),
    '-d',
    file,
    '-l',
    String(runSeconds),
    '-c',
    '4',
    '-q',
    '100',
  ]
  const [command = '', ...rest] = pinned('load', 'dnsperf', args)
  const { stdout } = await execute(command, rest)
  const ticks = (await cpuTicks(subject.pid)) - before
  const completed = Number(/Queries completed:\s+(\d+)/.exec(stdout)?.[1] ?? 0)
  const lost = Number(/Queries lost:\s+(\d+)/.exec(stdout)?.[1] ?? 0)
  const failed = completed - Number(/NOERROR (\d+)/.exec(stdout)?.[1] ?? 0)
  if (completed === 0 || failed > 0)
    throw new TypeError(`${subject.name}: ${failed} of ${completed} failed, ${lost} lost`)
  return { cpuMicroseconds: (ticks * 1e6) / ticksPerSecond / completed, perSecond: completed / runSeconds }
}

/** User and system time of a process: fields 14 and 15. [proc_pid_stat(5)] */
async function cpuTicks(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return Number(fields[11]) + Number(fields[12])
}

function pinned(core: 'load' | 'subject', program: string, args: readonly string[]): string[] {
  if (availableParallelism() < 2) return [program, ...args]
  return ['taskset', '-c', core === 'load' ? '1' : '0', program, ...args]
}

async function answers(port: number): Promise<void> {
  for (let i = 0; i < 50; i++) {
    const socket = createSocket('udp4')
    const question = Buffer.from('000101000001000000000000026e3004636f6c6404746573740000010001', 'hex')
    socket.send(question, port, '127.0.0.1')
    const answered = await Promise.race([once(socket, 'message').then(() => true), pause(200, false)]).catch(
      () => false,
    )
    socket.close()
    if (answered) return
  }
  throw new TypeError(`nothing answers on port ${port}`)
}

async function freePort(): Promise<number> {
  const socket = createSocket('udp4')
  const bound = once(socket, 'listening')
  socket.bind(0, '127.0.0.1')
  await bound
  const { port } = socket.address()
  socket.close()
  return port
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
}

async function missingTools(): Promise<(keyof typeof tools)[]> {
  const missing: (keyof typeof tools)[] = []
  for (const name of ['dnsmasq', 'dnsperf', 'knotd', 'taskset'] as const) {
    await execute('sh', ['-c', `command -v ${name}`]).catch(() => missing.push(name))
  }
  return missing
}

async function versions(): Promise<Record<string, string>> {
  const first = async (program: string, args: readonly string[]) => {
    const { stdout, stderr } = await execute(program, [...args]).catch(() => ({ stdout: '', stderr: '' }))
    return `${stdout}${stderr}`.match(/\d+\.\d+(\.\d+)?/)?.[0] ?? 'unknown'
  }
  return {
    dnsmasq: await first('dnsmasq', ['--version']),
    dnsperf: await first('dnsperf', ['-h']),
    knot: await first('knotd', ['--version']),
    node: process.version,
  }
}

function notes(): string[] {
  const pins =
    availableParallelism() < 2 ? 'one core, nothing pinned' : 'forwarders pinned to core 0, Knot and dnsperf to core 1'
  return [`${pins}; 4 clients, 100 questions outstanding, ${runSeconds} s a run; peer: dnsmasq --all-servers`]
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? 0
}

function round1(value: number): number {
  return Math.round(value)
}
