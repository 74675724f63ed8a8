import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buildGoPeers } from '../../test/interop/go-peers.ts'
import { type ControlLab, failures, type LoadResult, openControlLab, ourService, type Subject } from './control-lab.ts'
import { measureMembers } from './control-members.ts'
import { median, row } from './figures.ts'
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
export async function benchControl(options: {
  readonly runs: number
  /** Part of the names of what is measured; empty for all. */
  readonly only: string
}): Promise<BenchSection> {
  const peers = await buildGoPeers()
  if (peers.path === undefined)
    return { name: 'control', rows: [], versions: {}, notes: [`not measured: ${peers.why}`] }
  const lab = await openControlLab(peers.path)
  try {
    const rows: BenchRow[] = []
    const notes = [...about]
    for (const one of cases.filter(({ label }) => label.includes(options.only))) {
      for (const callers of callerCounts) {
        const measured = await measure(lab, { one, callers, rounds: Math.min(options.runs, roundsMax) })
        rows.push(...measured.rows)
        notes.push(...measured.notes)
      }
    }
    const members = 'members'.includes(options.only) ? await measureMembers(lab) : { rows: [], notes: [] }
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
      ours.push(await lab.load(lab.ours, { ...(one.peerFlags && ourService), ...flags }))
      theirs.push(await lab.load(one.peerOf(lab), { ...one.peerFlags, ...flags }))
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

async function versions(): Promise<Record<string, string>> {
  const module = await readFile(join(import.meta.dirname, '../../test/interop/peers/go.mod'), 'utf8')
  const sdk = /networkservicemesh\/sdk (v\S+)/.exec(module)?.[1] ?? 'unknown'
  return { 'networkservicemesh/sdk': sdk, node: process.version }
}
