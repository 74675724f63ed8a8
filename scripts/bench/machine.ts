import { readFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'

/** What the figures were measured on. */
export interface MachineFacts {
  readonly cpu: string
  readonly cores: number
  readonly memoryGib: number
  readonly kernel: string
  readonly node: string
  readonly loadAverage: number
}

/** The machine, and its load at the moment. */
export function machineFacts(): MachineFacts {
  const cores = cpus()
  return {
    cpu: cores[0]?.model ?? 'unknown',
    cores: cores.length,
    memoryGib: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    node: process.version,
    loadAverage: Number((loadavg()[0] ?? 0).toFixed(2)),
  }
}

/** Ours: a run during which the hypervisor took more than this share of the processors says nothing about us. */
export const stolenShareMax = 0.05

/** Runs `act` and gives its result with the share of processor time that the hypervisor took meanwhile [proc(5) stat]. */
export async function withStolen<T>(
  act: () => Promise<T>,
): Promise<{ readonly value: T; readonly stolenShare: number }> {
  const before = processorTimes()
  const value = await act()
  const after = processorTimes()
  const total = after.total - before.total
  return { value, stolenShare: total === 0 ? 0 : (after.stolen - before.stolen) / total }
}

/** Keeps the runs that were left alone, or all when none was; counts those left out, gives the largest stolen share. */
export async function cleanRuns<T>(
  runs: number,
  act: () => Promise<T>,
): Promise<{ readonly values: readonly T[]; readonly leftOut: number; readonly stolenShare: number }> {
  const kept: T[] = []
  const all: T[] = []
  let largest = 0
  for (let run = 0; run < runs; run++) {
    const { value, stolenShare } = await withStolen(act)
    all.push(value)
    largest = Math.max(largest, stolenShare)
    if (stolenShare <= stolenShareMax) kept.push(value)
  }
  return { values: kept.length > 0 ? kept : all, leftOut: runs - kept.length, stolenShare: largest }
}

function processorTimes(): { readonly total: number; readonly stolen: number } {
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n')
  const times = line.split(/\s+/).slice(1, 9).map(Number)
  return { total: times.reduce((sum, time) => sum + time, 0), stolen: times[7] ?? 0 }
}

/** Processor seconds that the processes used so far, user and system; one that ended counts as none. */
export function processorSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + secondsOf(pid), 0)
}

/** Linux: USER_HZ, the unit of /proc/PID/stat, is 100 on every architecture that Node runs on. */
const ticksPerSecond = 100

function secondsOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond
  } catch {
    return 0
  }
}

/** Resident memory of a process in MiB; NaN when it ended. */
export function residentMib(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024
  } catch {
    return Number.NaN
  }
}
