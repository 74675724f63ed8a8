import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type DnsLab, missingPrograms, pinned, type SubjectName, startDnsLab, type ZoneName } from './dns-lab.ts'
import { median, row, targetRow } from './figures.ts'
import { processorSeconds, residentMib } from './machine.ts'
import type { BenchRow, BenchSection } from './section.ts'

/** Seconds of one run under full load, and of one at a fixed rate. */
const loadSeconds = 2
const rateSeconds = 3
/** Queries per second of the latency runs. */
const steadyRate = 1_000
const tools = { dnsmasq: 'dnsmasq-base', dnsperf: 'dnsperf', knotd: 'knot', taskset: 'util-linux' } as const
const execute = promisify(execFile)

/** `nsm dns serve` and dnsmasq `--all-servers`, in the same interleaved rounds, on loopback; medians. */
export async function benchDns(options: { readonly runs: number }): Promise<BenchSection> {
  const missing = await missingPrograms(Object.keys(tools))
  if (missing.length > 0) {
    const packages = Object.entries(tools).filter(([name]) => missing.includes(name))
    const note = `not measured: ${missing.join(', ')} missing; apt-get install ${packages.map(([, name]) => name).join(' ')}`
    return { name: 'dns', rows: [], versions: {}, notes: [note] }
  }
  const dir = await mkdtemp(join(tmpdir(), 'nsm-bench-dns-'))
  try {
    const lab = await startDnsLab(dir)
    try {
      return { name: 'dns', ...(await measure(lab, options.runs)), versions: await versions() }
    } finally {
      await lab.stop()
    }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** Memory first, while the caches are empty; then load, then latency. */
async function measure(lab: DnsLab, runs: number): Promise<Pick<BenchSection, 'rows' | 'notes'>> {
  const memory = await cacheMemory(lab)
  // Compiled code on all sides before the first figure.
  for (const name of ['ours one', 'ours 501', 'dnsmasq one', 'dnsmasq two'] as const) await load(lab, name, 'cold')
  const one = await loads(lab, 'cold', ['ours one', 'dnsmasq one'], runs)
  const two = await loads(lab, 'cold', ['ours two', 'dnsmasq two', 'ours 501'], runs)
  for (const name of ['ours two', 'dnsmasq two'] as const) await load(lab, name, 'hot')
  const hot = await loads(lab, 'hot', ['ours two', 'dnsmasq two'], runs)
  const delay = await delays(lab, runs)
  return {
    rows: [
      cpuRow('CPU per query, one upstream', one.cpu('ours one'), one.cpu('dnsmasq one'), 1.6),
      cpuRow('CPU per query, two raced upstreams', two.cpu('ours two'), two.cpu('dnsmasq two'), 1.8),
      cpuRow('CPU per query, cached', hot.cpu('ours two'), hot.cpu('dnsmasq two'), 1.6),
      cpuRow('CPU per query, 501 scopes (peer: ours with one)', two.cpu('ours 501'), two.cpu('ours two'), sameWithin),
      row({
        label: 'queries per second, two upstreams',
        ours: two.rate('ours two'),
        peer: two.rate('dnsmasq two'),
        unit: '1/s',
        limit: 0.6,
        betterIs: 'higher',
      }),
      targetRow({
        label: `added latency at ${steadyRate}/s, median`,
        ours: delay.added('ours two'),
        target: 120,
        unit: 'us',
      }),
      targetRow({ label: 'memory of a full cache', ours: memory, target: 12, unit: 'MiB' }),
    ],
    notes: [
      ...notes(),
      `dnsmasq adds ${delay.added('dnsmasq two').toFixed(0)} us at ${steadyRate}/s; the server alone answers in ${delay.server.toFixed(0)} us`,
      `cached: queries per second ours ${hot.rate('ours two').toFixed(0)}, dnsmasq ${hot.rate('dnsmasq two').toFixed(0)}`,
    ],
  }
}

/** Ours: two medians of the same program closer than this are the same. */
const sameWithin = 1.1

function cpuRow(label: string, ours: number, peer: number, limit: number): BenchRow {
  return row({ label, ours, peer, unit: 'us', limit, betterIs: 'lower' })
}

interface Loads {
  /** Median CPU per query in microseconds. */
  cpu(name: SubjectName): number
  /** Median queries per second. */
  rate(name: SubjectName): number
}

/** Rounds interleave the subjects, so that a busy neighbour meets all of them. */
async function loads(lab: DnsLab, zone: ZoneName, names: readonly SubjectName[], runs: number): Promise<Loads> {
  const found = new Map(names.map((name) => [name, { cpu: [] as number[], rate: [] as number[] }]))
  for (let round = 0; round < runs; round++) {
    for (const name of names) {
      const { cpu, rate } = await load(lab, name, zone)
      found.get(name)?.cpu.push(cpu)
      found.get(name)?.rate.push(rate)
    }
  }
  return {
    cpu: (name) => median(found.get(name)?.cpu ?? []),
    rate: (name) => median(found.get(name)?.rate ?? []),
  }
}

/** One run with 100 questions outstanding. */
async function load(
  lab: DnsLab,
  name: SubjectName,
  zone: ZoneName,
): Promise<{ readonly cpu: number; readonly rate: number }> {
  const { pid } = lab.subjects[name]
  const before = processorSeconds([pid])
  const { completed } = await dnsperf(lab, { name, zone, flags: ['-l', String(loadSeconds), '-c', '4', '-q', '100'] })
  const cpu = ((processorSeconds([pid]) - before) * 1e6) / completed
  return { cpu, rate: completed / loadSeconds }
}

/** Round trips at a rate that leaves everybody time: the server's median, and what a forwarder adds to it, in microseconds. */
async function delays(
  lab: DnsLab,
  runs: number,
): Promise<{ readonly server: number; added(name: SubjectName): number }> {
  const names = ['server', 'ours two', 'dnsmasq two'] as const
  const rounds: Partial<Record<SubjectName, number>>[] = []
  const flags = ['-l', String(rateSeconds), '-c', '1', '-q', '20', '-Q', String(steadyRate), '-v']
  for (let round = 0; round < runs; round++) {
    const trips: Partial<Record<SubjectName, number>> = {}
    for (const name of names) {
      const { output } = await dnsperf(lab, { name, zone: 'cold', flags })
      trips[name] = median([...output.matchAll(/^> \S+ \S+ \S+ (\d+\.\d+)/gm)].map(([, text]) => Number(text) * 1e6))
    }
    rounds.push(trips)
  }
  const of = (trips: Partial<Record<SubjectName, number>>, name: SubjectName) => trips[name] ?? Number.NaN
  return {
    server: median(rounds.map((trips) => of(trips, 'server'))),
    // Pairs of the same round: a neighbour who comes or goes between rounds is in both.
    added: (name) => median(rounds.map((trips) => of(trips, name) - of(trips, 'server'))),
  }
}

/** What our resident memory grows by when the cache is full; before and after the same load without the cache. */
async function cacheMemory(lab: DnsLab): Promise<number> {
  const { pid } = lab.subjects['ours two']
  for (let i = 0; i < 4; i++) await load(lab, 'ours two', 'cold')
  const before = residentMib(pid)
  await dnsperf(lab, { name: 'ours two', zone: 'full', flags: ['-n', '1', '-c', '4', '-q', '100'] })
  await load(lab, 'ours two', 'cold')
  return residentMib(pid) - before
}

async function dnsperf(
  lab: DnsLab,
  run: { readonly name: SubjectName; readonly zone: ZoneName; readonly flags: readonly string[] },
): Promise<{ readonly completed: number; readonly output: string }> {
  const { port } = lab.subjects[run.name]
  const file = join(lab.dir, `${run.zone}.txt`)
  const [command = '', ...rest] = pinned('load', 'dnsperf', [
    '-s',
    '127.0.0.1',
    '-p',
    String(port),
    '-d',
    file,
    ...run.flags,
  ])
  const { stdout: output } = await execute(command, rest, { maxBuffer: 64 * 1024 * 1024 })
  const completed = Number(/Queries completed:\s+(\d+)/.exec(output)?.[1] ?? 0)
  const failed = completed - Number(/NOERROR (\d+)/.exec(output)?.[1] ?? 0)
  if (completed === 0 || failed > 0) throw new TypeError(`${run.name}: ${failed} of ${completed} failed`)
  return { completed, output }
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
  const pins = availableParallelism() < 2 ? 'nothing pinned' : 'forwarders pinned to core 0, Knot and dnsperf to core 1'
  return [`${pins}; 4 clients, 100 questions outstanding, ${loadSeconds} s a run; peer: dnsmasq --all-servers`]
}
