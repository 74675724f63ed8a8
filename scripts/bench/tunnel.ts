import { sleep, systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { execute, type Lab, openLab } from '../demo/lab.ts'
import { firstLines } from '../demo/output.ts'
import { need } from '../demo/seen.ts'
import { measureEngine } from './engine-speed.ts'
import { median, row } from './figures.ts'
import { cleanRuns, processorSeconds, residentMib } from './machine.ts'
import { netstackRows } from './netstack.ts'
import type { BenchRow, BenchSection } from './section.ts'
import {
  type Ends,
  idleHubMib,
  type OurPath,
  openOurHub,
  openOurTunnel,
  openTheirHub,
  openTheirTunnel,
  type Path,
} from './tunnel-lab.ts'
import { buildRustPrograms, buildWireguardGo, type WireguardProgram } from './wireguard-programs.ts'

/** One way of loading a path. */
interface Load {
  readonly label: string
  readonly args: readonly string[]
}

/** What one run gave: goodput at the receiver, processor seconds of the tunnel's processes for each gigabyte. */
interface Measured {
  readonly gigabits: number
  readonly secondsPerGb: number
}

const tcpOne: Load = { label: 'TCP, 1 stream', args: [] }
const tcpFour: Load = { label: 'TCP, 4 streams', args: ['-P', '4'] }
const udp: Load = { label: 'UDP, 1392 B, 1 Gbit/s offered', args: ['-u', '-b', '1G', '-l', '1392'] }
/** Ours: seconds of one iperf3 run, after those it takes to get going. */
const runSeconds = 3
/** Ours: a run that hangs is given up. */
const runTimeoutMs = 20_000

/** Tunnels of ours against other WireGuard programs, point to point and through a hub, in the same namespaces. */
export async function benchTunnel(options: { readonly runs: number; readonly only: string }): Promise<BenchSection> {
  const { only } = options
  const iperf = await execute('iperf3', ['--version'])
  if (iperf.exitCode !== 0) return empty('iperf3 is missing: apt-get install iperf3')
  const go = await buildWireguardGo()
  if ('missing' in go) return empty(go.missing)
  if (only === 'netstack') return netstackAlone(go, options.runs)
  const rust = await buildRustPrograms()
  const others = rust.flatMap((program) => ('missing' in program ? [] : [program]))
  const absent = rust.flatMap((program) => ('missing' in program ? [program.missing] : []))
  const engine = await measureEngine(options.runs)
  const lab = await openLab({ kind: 'nsm-bench', machines: ['left', 'right', 'middle'], nameserver: '192.0.2.1' })
  try {
    const measured = await measureLab(lab, { go, others, runs: options.runs })
    return {
      name: 'tunnel',
      rows: [...measured.rows, ...engine.rows],
      versions: {
        'wireguard-go': go.version,
        ...Object.fromEntries(others.map(({ name, version }) => [name, version])),
        ...engine.versions,
        iperf3: iperf.out.split('\n')[0] ?? '',
      },
      notes: [
        `MTU 1420; medians of ${options.runs} interleaved runs of ${runSeconds} s; both ends, the hub and iperf3 share the processors of this machine`,
        'processor time is that of the tunnel processes alone, both ends (and the hub)',
        'hub: three nodes of the same program; ours forwards inside the engine, the others in the kernel',
        `stolen time ${(measured.stolenShare * 100).toFixed(1)} %; ${measured.leftOut} rounds left out for more than 5 %`,
        ...absent,
      ],
    }
  } finally {
    await lab.close()
  }
}

/** The rows of the userspace stack by themselves. */
async function netstackAlone(go: WireguardProgram, runs: number): Promise<BenchSection> {
  const lab = await openLab({ kind: 'nsm-bench', machines: ['left', 'right'], nameserver: '192.0.2.1' })
  try {
    const rows = await netstackRows(lab, { go, runs })
    return { name: 'tunnel', rows, versions: { 'wireguard-go': go.version }, notes: [] }
  } finally {
    await lab.close()
  }
}

/** All tunnels, up at once, one loaded at a time. */
interface Paths {
  readonly ours: OurPath
  readonly go: Path
  readonly others: readonly Path[]
  readonly ourHub: Path
  readonly goHub: Path
}

interface LabPlan {
  readonly go: WireguardProgram
  readonly others: readonly WireguardProgram[]
  readonly runs: number
}

async function measureLab(lab: Lab, plan: LabPlan) {
  const paths = await openPaths(lab, plan)
  const tally = { leftOut: 0, stolenShares: [] as number[] }
  const compare = (load: Load, all: readonly Path[]) => measureAll(load, all, { runs: plan.runs, tally })
  const rows: BenchRow[] = []
  const before = await paths.ours.counters()
  const one = await compare(tcpOne, [paths.ours, paths.go, ...paths.others])
  rows.push(...pairRows(tcpOne.label, one, { speed: 1.2, cost: 0.85 }))
  for (const [index, { name }] of plan.others.entries()) {
    const [ours, other] = [one[0] ?? [], one[index + 2] ?? []]
    rows.push(...pairRows(`${tcpOne.label}, against ${name}`, [ours, other], { speed: 1, cost: 1 }))
  }
  rows.push(...pairRows(tcpFour.label, await compare(tcpFour, [paths.ours, paths.go]), { speed: 1.2, cost: 0.85 }))
  rows.push(...segmentRows(before, await paths.ours.counters()))
  rows.push(memoryRow(paths.ours))
  rows.push(...pairRows(udp.label, await compare(udp, [paths.ours, paths.go]), { speed: 2.5 }))
  const hubs = [paths.ourHub, paths.goHub]
  rows.push(...pairRows(`hub, ${tcpOne.label}`, await compare(tcpOne, hubs), { speed: 1.2 }))
  rows.push(...pairRows(`hub, ${tcpFour.label}`, await compare(tcpFour, hubs), { speed: 1.2 }))
  rows.push(...pairRows(`hub, ${udp.label}`, await compare(udp, hubs), {}))
  rows.push(
    await roundTripRow('ping, average', paths.ours, paths.go),
    await roundTripRow('hub, ping, average', paths.ourHub, paths.goHub),
  )
  rows.push(await rekeyRow(paths.ours), await idlePeerRow(lab))
  rows.push(...(await netstackRows(lab, plan)))
  return { rows, leftOut: tally.leftOut, stolenShare: median(tally.stolenShares) }
}

async function openPaths(lab: Lab, { go, others }: LabPlan): Promise<Paths> {
  const ends: Ends = [lab.machine('left'), lab.machine('right')]
  const middle = lab.machine('middle')
  const theirs: Path[] = []
  for (const [index, program] of others.entries()) {
    const number = index + 3
    theirs.push(
      await openTheirTunnel(program, ends, { name: `wgb${number}`, subnet: 100 + number, port: 51_900 + number }),
    )
  }
  return {
    ours: await openOurTunnel(ends, { name: 'nsmb1', subnet: 111, port: 51_811 }),
    go: await openTheirTunnel(go, ends, { name: 'wgb1', subnet: 101, port: 51_901 }),
    others: theirs,
    ourHub: await openOurHub(ends, middle, { name: 'nsmb2', subnet: 112, port: 51_812 }),
    goHub: await openTheirHub(go, ends, middle, { name: 'wgb2', subnet: 102, port: 51_902 }),
  }
}

/** Every path in turn, round by round; the values of each path, and what the hypervisor took meanwhile. */
async function measureAll(
  load: Load,
  paths: readonly Path[],
  { runs, tally }: { readonly runs: number; readonly tally: { leftOut: number; stolenShares: number[] } },
): Promise<readonly (readonly Measured[])[]> {
  const rounds = await cleanRuns(runs, async () => {
    const round: Measured[] = []
    for (const path of paths) round.push(await measure(path, load))
    return round
  })
  tally.leftOut += rounds.leftOut
  tally.stolenShares.push(rounds.stolenShare)
  return paths.map((_, index) => rounds.values.flatMap((round) => round[index] ?? []))
}

async function measure(path: Path, load: Load): Promise<Measured> {
  const listener = path.to.start('iperf3', ['-s', '-1', '--forceflush', '-B', path.address])
  try {
    await firstLines(listener, 'listening')
    const before = processorSeconds(path.pids)
    const args = ['-c', path.address, '-t', String(runSeconds), '--json', ...load.args]
    const { out, err } = await path.from.run('iperf3', args, { timeoutMs: runTimeoutMs })
    const usedSeconds = processorSeconds(path.pids) - before
    const { end, error = err } = out === '' ? { end: undefined } : JSON.parse(out)
    if (!end?.sum_received) throw new NsmError('NOT_READY', `${path.name}, ${load.label}: ${error}`, '')
    return {
      gigabits: end.sum_received.bits_per_second / 1e9,
      secondsPerGb: usedSeconds / (end.sum_received.bytes / 1e9),
    }
  } finally {
    listener.kill()
  }
}

/** Throughput and processor time of two paths; `limits` bound ours / theirs. */
function pairRows(
  label: string,
  [ours = [], theirs = []]: readonly (readonly Measured[])[],
  limits: { readonly speed?: number; readonly cost?: number },
): BenchRow[] {
  const middle = (runs: readonly Measured[], of: keyof Measured) => median(runs.map((run) => run[of]))
  const both = (of: keyof Measured) => ({ ours: middle(ours, of), peer: middle(theirs, of) })
  const limit = (value: number | undefined) => (value === undefined ? {} : { limit: value })
  return [
    row({ label, ...both('gigabits'), unit: 'Gbit/s', betterIs: 'higher', ...limit(limits.speed) }),
    row({
      label: `${label}: processor`,
      ...both('secondsPerGb'),
      unit: 's/GB',
      betterIs: 'lower',
      ...limit(limits.cost),
    }),
  ]
}

type Counters = Readonly<Record<string, number>>

/** Datagrams for each call into the system while TCP ran: sent by the sender, received and written by the receiver. */
function segmentRows(before: readonly Counters[], after: readonly Counters[]): BenchRow[] {
  const grown = (end: number, name: string) => (after[end]?.[name] ?? 0) - (before[end]?.[name] ?? 0)
  const target = { unit: 'segments', limit: 1, betterIs: 'higher' } as const
  const sent = grown(0, 'udpSentSegments') / grown(0, 'udpSendCalls')
  const received = grown(1, 'udpReceivedSegments')
  return [
    row({ label: 'segments per send call, TCP', ours: sent, peer: 30, ...target }),
    row({ label: 'segments per receive call, TCP', ours: received / grown(1, 'udpReceiveCalls'), peer: 20, ...target }),
    row({
      label: 'segments per write to the interface, TCP',
      ours: received / grown(1, 'deviceWrites'),
      peer: 20,
      ...target,
    }),
  ]
}

/** Ours: [NSM] a process with one tunnel stays below this, MiB resident. */
const residentMaxMib = 100

function memoryRow({ pids }: Path): BenchRow {
  const ours = Math.max(...pids.map(residentMib))
  return row({
    label: 'resident after load, larger end',
    ours,
    peer: residentMaxMib,
    unit: 'MiB',
    limit: 1,
    betterIs: 'lower',
  })
}

const rekeys = 1_000
/** Ours: below the 64 handshakes a second from which on our engine asks for a cookie. */
const betweenRekeysMs = 18
const pingsDuringRekeys = 4_000

/** Packets that came back while the keys changed a thousand times; all are asked for. */
async function rekeyRow(ours: OurPath): Promise<BenchRow> {
  const pings = ours.from.run('ping', ['-q', '-c', String(pingsDuringRekeys), '-i', '0.005', '-W', '2', ours.address])
  for (let rekey = 0; rekey < rekeys; rekey++) {
    await ours.handshake()
    await sleep(systemClock, betweenRekeysMs)
  }
  const answered = Number(/(\d+) received/.exec((await pings).out)?.[1])
  const label = `pings answered across ${rekeys} forced rekeys`
  return row({ label, ours: answered, peer: pingsDuringRekeys, unit: 'packets', limit: 1, betterIs: 'higher' })
}

/** Ours: as many as fit the command line that starts the hub. */
const idlePeers = 500
/** [NSM] KiB for each peer that says nothing. */
const idlePeerMaxKib = 20

async function idlePeerRow(lab: Lab): Promise<BenchRow> {
  const machine = lab.machine('middle')
  const place = { name: 'nsmb3', subnet: 113, port: 51_813 }
  const grownKib: number[] = []
  for (let run = 0; run < 3; run++) {
    const none = await idleHubMib(machine, 0, place)
    grownKib.push((((await idleHubMib(machine, idlePeers, place)) - none) * 1024) / idlePeers)
  }
  const ours = median(grownKib)
  return row({
    label: 'hub, resident for each idle peer',
    ours,
    peer: idlePeerMaxKib,
    unit: 'KiB',
    limit: 1,
    betterIs: 'lower',
  })
}

/** Ours: rounds of one second for each path. */
const pingRounds = 5
const pingsPerRound = 50

async function roundTripRow(label: string, ours: Path, theirs: Path): Promise<BenchRow> {
  const averages: { readonly ours: number[]; readonly theirs: number[] } = { ours: [], theirs: [] }
  for (let round = 0; round < pingRounds; round++) {
    averages.ours.push(await roundTripMs(ours))
    averages.theirs.push(await roundTripMs(theirs))
  }
  const figures = { ours: median(averages.ours), peer: median(averages.theirs) }
  return row({ label, ...figures, unit: 'ms', limit: 1, betterIs: 'lower' })
}

/** The average of one round. */
async function roundTripMs({ from, address }: Path): Promise<number> {
  const { out } = need(await from.run('ping', ['-q', '-c', String(pingsPerRound), '-i', '0.02', address]))
  const found = /= [\d.]+\/([\d.]+)\//.exec(out)?.[1]
  if (found === undefined) throw new NsmError('NOT_READY', `ping ${address} gave no time`, '')
  return Number(found)
}

function empty(note: string): BenchSection {
  return { name: 'tunnel', rows: [], versions: {}, notes: [note] }
}
