import { type ControlLab, failures, ourService } from './control-lab.ts'
import { targetRow } from './figures.ts'
import { residentMib } from './machine.ts'
import type { BenchRow } from './section.ts'

/** Members that are connected, each refreshing as our client and NSM's do: after 0.2 of a token's 10 minutes. */
const membersCount = 1_000
const refreshSeconds = 120
const windowSeconds = 24
/** The promise: share of one core for all their refreshes. */
const coreShare = 0.1
/** The promise: memory of a server, and of each member. */
const serverMib = 130
const memberKib = 150

/** Processor time and memory of a server of ours that has nothing else to do. */
export async function measureMembers(
  lab: ControlLab,
): Promise<{ readonly rows: readonly BenchRow[]; readonly notes: readonly string[] }> {
  const subject = await lab.fresh()
  const [pid = 0] = subject.pids
  const idleMib = residentMib(pid)
  let largestMib = idleMib
  const watch = setInterval(() => {
    largestMib = Math.max(largestMib, residentMib(pid))
  }, 250)
  const flags = { ...ourService, operation: 'refresh', callers: membersCount, sockets: lab.memberSockets.join() }
  const times = { every: `${refreshSeconds}s`, window: `${windowSeconds}s` }
  const result = await lab.load(subject, { ...flags, ...times }).finally(() => clearInterval(watch))
  return {
    rows: [
      targetRow({
        label: `${membersCount} members connected, their refreshes: share of one core`,
        ours: (result.cpuSeconds / result.seconds) * 100,
        target: coreShare * 100,
        unit: '%',
      }),
      targetRow({
        label: `${membersCount} members connected: most memory, with their arrival`,
        ours: largestMib,
        target: serverMib + (memberKib * membersCount) / 1_024,
        unit: 'MiB',
      }),
    ],
    notes: [
      `members: ${result.calls} refreshes in ${result.seconds.toFixed(0)} s, p99 ${result.p99Ms} ms; ${idleMib.toFixed(0)} MiB before`,
      ...failures('members', [result]),
    ],
  }
}
