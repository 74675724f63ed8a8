import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buildGoPeers } from '../../test/interop/go-peers.ts'
import { type ControlLab, type LoadResult, openControlLab, type Subject } from './control-lab.ts'
import { median, row, targetRow } from './figures.ts'
import { withStolen } from './machine.ts'
import type { BenchRow, BenchSection } from './section.ts'

/** Rounds of every load: 108 loads of 5 s with them. */
const roundsMax = 3
const callerCounts = [1, 16, 64] as const
/** Entries that the wide look-up finds. */
const wideCount = 100

/** One kind of call, and how ours may compare with theirs: rate and p99 latency, CPU time per call. */
interface Case {
  readonly label: string
  readonly flags: Readonly<Record<string, string | number>>
  readonly peerOf: (lab: ControlLab) => Subject
  /** Service and endpoint name at theirs; ours has `bench` and `bench-1`. */
  readonly peerFlags?: Readonly<Record<string, string>>
  readonly rateMin: number
  readonly cpuMax?: number
}

const ourService = { service: 'bench', endpoint: 'bench-1' }
const direct = { peerOf: ({ endpoint }: ControlLab) => endpoint, peerFlags: { service: 'icmp', endpoint: 'icmp-1' } }
const registered = { peerOf: ({ registry }: ControlLab) => registry }

const cases: readonly Case[] = [
  {
    ...registered,
    label: 'registry Find, 1 result',
    flags: { operation: 'find', service: 'single', fill: 1 },
    ...{ rateMin: 0.8, cpuMax: 1.2 },
  },
  {
    ...registered,
    label: `registry Find, ${wideCount} results`,
    flags: { operation: 'find', service: 'wide', fill: wideCount },
    ...{ rateMin: 2, cpuMax: 0.5 },
  },
  { ...registered, label: 'registry Register', flags: { operation: 'register', service: 'changing' }, rateMin: 5 },
  {
    ...direct,
    label: 'endpoint Request+Close',
    flags: { operation: 'request' },
    ...{ rateMin: 3, cpuMax: 0.35 },
  },
  {
    ...direct,
    label: 'endpoint refresh',
    flags: { operation: 'refresh' },
    ...{ rateMin: 3, cpuMax: 0.35 },
  },
  {
    label: 'whole path Request+Close',
    flags: { operation: 'request' },
    peerOf: ({ path }) => path,
    peerFlags: { service: 'icmp' },
    rateMin: 10,
  },
]

/** Rate, p99 latency and CPU per call of our registry, manager and endpoint beside NSM's own programs, on loopback. */
export async function benchControl(options: { readonly runs: number }): Promise<BenchSection> {
  const peers = await buildGoPeers()
  if (peers.path === undefined)
    return { name: 'control', rows: [], versions: {}, notes: [`not measured: ${peers.why}`] }
  const lab = await openControlLab(peers.path)
  try {
    const rows: BenchRow[] = []
    const notes = [...about]
    for (const one of cases) {
      for (const callers of callerCounts) {
        const measured = await measure(lab, { one, callers, rounds: Math.min(options.runs, roundsMax) })
        rows.push(...measured.rows)
        notes.push(...measured.notes)
      }
    }
    const members = await measureMembers(lab)
    return {
      name: 'control',
      rows: [...rows, ...members.rows],
      versions: await versions(),
      notes: [...notes, ...members.notes],
    }
  } finally {
    await lab.close()
  }
}

const about = [
  'closed loop, one mTLS connection per caller, a signed token on every call, all policies, log level WARN; client and servers share the cores',
  'our endpoint stands behind our manager in one process and sets up WireGuard peers; NSM’s endpoint has no data plane here',
]

async function measure(
  lab: ControlLab,
  { one, callers, rounds }: { readonly one: Case; readonly callers: number; readonly rounds: number },
): Promise<{ readonly rows: readonly BenchRow[]; readonly notes: readonly string[] }> {
  const ours: LoadResult[] = []
  const theirs: LoadResult[] = []
  const { stolenShare } = await withStolen(async () => {
    for (let round = 0; round < rounds; round++) {
      const run = `r${round}c${callers}`
      const flags = { ...one.flags, callers, run }
      ours.push(await loadOn(lab, lab.ours, { ...(one.peerFlags && ourService), ...flags }))
      theirs.push(await loadOn(lab, one.peerOf(lab), { ...one.peerFlags, ...flags }))
    }
  })
  const label = (what: string) => `${one.label}, ${callers} ${callers === 1 ? 'caller' : 'callers'}: ${what}`
  const pair = (of: (result: LoadResult) => number) => ({ ours: median(ours.map(of)), peer: median(theirs.map(of)) })
  const cpuLimit = one.cpuMax === undefined ? {} : { limit: one.cpuMax }
  return {
    rows: [
      row({
        ...pair(({ calls, seconds }) => calls / seconds),
        ...{ label: label('rate'), unit: '/s', limit: one.rateMin, betterIs: 'higher' },
      }),
      row({
        ...pair(({ calls, cpuSeconds }) => (cpuSeconds * 1_000) / calls),
        ...{ label: label('CPU per call'), unit: 'ms', ...cpuLimit, betterIs: 'lower' },
      }),
      row({ ...pair(({ p99Ms }) => p99Ms), label: label('p99'), unit: 'ms', limit: 1, betterIs: 'lower' }),
    ],
    notes: [
      ...(stolenShare > 0.01 ? [`${one.label}, ${callers}: ${(stolenShare * 100).toFixed(0)} % stolen`] : []),
      ...failures(`${one.label}, ${callers}, ours`, ours),
      ...failures(`${one.label}, ${callers}, peer`, theirs),
    ],
  }
}

function loadOn(lab: ControlLab, subject: Subject, flags: Readonly<Record<string, string | number>>) {
  return lab.load({ ...flags, to: subject.url, pids: subject.pids.join() })
}

/** Members that are connected, each refreshing as our client and NSM's do: after 0.2 of a token's 10 minutes. */
const membersCount = 1_000
const refreshSeconds = 120
const membersWindowSeconds = 24
/** The promise: share of one core for all their refreshes. */
const membersCoreShare = 0.1

async function measureMembers(
  lab: ControlLab,
): Promise<{ readonly rows: readonly BenchRow[]; readonly notes: readonly string[] }> {
  const flags = { ...ourService, operation: 'refresh', callers: membersCount, sockets: lab.memberSockets.join() }
  const times = { every: `${refreshSeconds}s`, window: `${membersWindowSeconds}s` }
  const result = await loadOn(lab, lab.ours, { ...flags, ...times })
  return {
    rows: [
      targetRow({
        label: `${membersCount} members connected, their refreshes: share of one core`,
        ours: (result.cpuSeconds / result.seconds) * 100,
        target: membersCoreShare * 100,
        unit: '%',
      }),
    ],
    notes: [
      `members: ${result.calls} refreshes in ${result.seconds.toFixed(0)} s, p99 ${result.p99Ms} ms`,
      ...failures('members', [result]),
    ],
  }
}

function failures(label: string, results: readonly LoadResult[]): string[] {
  const failed = results.reduce((sum, { errors }) => sum + errors, 0)
  const first = results.find(({ firstError }) => firstError !== null)?.firstError
  return failed === 0 ? [] : [`${label}: ${failed} calls failed, first: ${first}`]
}

async function versions(): Promise<Record<string, string>> {
  const module = await readFile(join(import.meta.dirname, '../../test/interop/peers/go.mod'), 'utf8')
  const sdk = /networkservicemesh\/sdk (v\S+)/.exec(module)?.[1] ?? 'unknown'
  return { 'networkservicemesh/sdk': sdk, node: process.version }
}
