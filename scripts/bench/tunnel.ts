import { NsmError } from '../../src/base/errors.ts'
import { execute, type Machine } from '../demo/lab.ts'
import { firstLines } from '../demo/output.ts'
import { median, row } from './figures.ts'
import { benchService, daemonPid, need, openJoinedLab } from './joined-lab.ts'
import { cleanRuns, processorSeconds } from './machine.ts'
import type { BenchRow, BenchSection } from './section.ts'
import { buildWireguardGo, openPeerTunnel } from './wireguard-go.ts'

/** A path to measure: from one machine to an address of another, and the processes that carry it. */
interface Path {
  readonly from: Machine
  readonly to: Machine
  readonly address: string
  readonly pids: readonly number[]
}

/** One way of loading a path. */
interface Load {
  readonly label: string
  readonly args: readonly string[]
  /** [NSM] The promise: at least half of wireguard-go although every packet crosses the server. */
  readonly limit?: number
}

const loads: readonly Load[] = [
  { label: 'TCP, 1 stream', args: [], limit: 0.5 },
  { label: 'TCP, 4 streams', args: ['-P', '4'], limit: 0.5 },
  { label: 'UDP, 1392 B, 1 Gbit/s offered', args: ['-u', '-b', '1G', '-l', '1392'] },
]
/** Ours: seconds of one iperf3 run. */
const runSeconds = 3

/** Member to member through `nsm serve` against the newest wireguard-go point to point, in the same namespaces. */
export async function benchTunnel(options: { readonly runs: number }): Promise<BenchSection> {
  if ((await execute('iperf3', ['--version'])).exitCode !== 0) return empty('iperf3 is missing: apt-get install iperf3')
  const go = await buildWireguardGo()
  if ('missing' in go) return empty(go.missing)
  const joined = await openJoinedLab(2)
  try {
    const machines = [joined.lab.machine('laptop-1'), joined.lab.machine('laptop-2')] as const
    await joined.join(machines[0])
    const view = await joined.join(machines[1])
    const peer = await openPeerTunnel(go.program, machines)
    const ends = { from: machines[0], to: machines[1] }
    const daemons = await Promise.all(machines.map(daemonPid))
    const ours: Path = {
      ...ends,
      address: (view.addresses[0] ?? '').replace(/\/.*/, ''),
      pids: [...daemons, joined.serverPid],
    }
    const theirs: Path = { ...ends, address: peer.addresses[1], pids: peer.pids }
    const measured = await measureLoads({ ours, theirs, runs: options.runs })
    const rtt = await roundTrips(ours, theirs)
    peer.close()
    return {
      name: 'tunnel',
      rows: [...measured.rows, rtt],
      versions: {
        'wireguard-go': go.version,
        iperf3: (await execute('iperf3', ['--version'])).out.split('\n')[0] ?? '',
      },
      notes: [
        `ours crosses two tunnels and ${benchService}'s server, theirs one tunnel; MTU 1420 both; medians of ${options.runs} interleaved runs of ${runSeconds} s`,
        'both ends, the server and iperf3 share the processors of this machine',
        ...(measured.leftOut > 0 ? [`${measured.leftOut} runs left out: more than 5 % stolen time`] : []),
      ],
    }
  } finally {
    await joined.close()
  }
}

async function measureLoads(input: { readonly ours: Path; readonly theirs: Path; readonly runs: number }) {
  const rows: BenchRow[] = []
  let leftOut = 0
  for (const load of loads) {
    const pairs = await cleanRuns(
      input.runs,
      async () => [await measure(input.ours, load), await measure(input.theirs, load)] as const,
    )
    leftOut += pairs.leftOut
    const limit = load.limit === undefined ? {} : { limit: load.limit }
    const gigabits = pairs.values.map(([ours, theirs]) => [ours.gigabits, theirs.gigabits] as const)
    const seconds = pairs.values.map(([ours, theirs]) => [ours.secondsPerGb, theirs.secondsPerGb] as const)
    rows.push(row({ label: load.label, ...medians(gigabits), unit: 'Gbit/s', betterIs: 'higher', ...limit }))
    rows.push(row({ label: `${load.label}: processor time`, ...medians(seconds), unit: 's/GB', betterIs: 'lower' }))
  }
  return { rows, leftOut }
}

function medians(pairs: readonly (readonly [number, number])[]): { readonly ours: number; readonly peer: number } {
  return { ours: median(pairs.map(([ours]) => ours)), peer: median(pairs.map(([, peer]) => peer)) }
}

/** One iperf3 run: goodput at the receiver, processor seconds of the tunnel's processes for each gigabyte. */
async function measure(path: Path, load: Load): Promise<{ readonly gigabits: number; readonly secondsPerGb: number }> {
  const listener = path.to.start('iperf3', ['-s', '-1', '--forceflush', '-B', path.address])
  try {
    await firstLines(listener, 'listening')
    const before = processorSeconds(path.pids)
    const ended = need(
      await path.from.run('iperf3', ['-c', path.address, '-t', String(runSeconds), '--json', ...load.args]),
    )
    const usedSeconds = processorSeconds(path.pids) - before
    const { end } = JSON.parse(ended.out)
    const gigabytes = end.sum_received.bytes / 1e9
    return { gigabits: end.sum_received.bits_per_second / 1e9, secondsPerGb: usedSeconds / gigabytes }
  } finally {
    listener.kill()
  }
}

async function roundTrips(ours: Path, theirs: Path): Promise<BenchRow> {
  const average = async ({ from, address }: Path) => {
    const { out } = need(await from.run('ping', ['-q', '-c', '50', '-i', '0.02', address]))
    const found = /= [\d.]+\/([\d.]+)\//.exec(out)?.[1]
    if (found === undefined) throw new NsmError('NOT_READY', `ping ${address} gave no time`, '')
    return Number(found)
  }
  const [oursMs, theirsMs] = [await average(ours), await average(theirs)]
  return row({ label: 'ping, average', ours: oursMs, peer: theirsMs, unit: 'ms', betterIs: 'lower' })
}

function empty(note: string): BenchSection {
  return { name: 'tunnel', rows: [], versions: {}, notes: [note] }
}
