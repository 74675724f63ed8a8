import { NsmError } from '../../src/base/errors.ts'
import type { Machine } from '../demo/lab.ts'
import { need } from '../demo/seen.ts'
import { median, quantile, targetRow } from './figures.ts'
import { benchService, daemonPid, openJoinedLab } from './joined-lab.ts'
import { cleanRuns, residentMib } from './machine.ts'
import type { BenchSection } from './section.ts'

/** Ours: fewer runs say little about a 95th percentile. */
const runsMin = 20
/** The promises: see `docs/ARCHITECTURE.md`. */
const targets = {
  warmMedianMs: 400,
  warmP95Ms: 1_000,
  coldAddsMs: 500,
  daemonMib: 110,
  serveMib: 130,
  memberMib: 150 / 1024,
}

/** `nsm connect` as a person runs it, from the shell to the exit, with the background process warm and cold; memory. */
export async function benchConnect(options: { readonly runs: number }): Promise<BenchSection> {
  const runs = Math.max(runsMin, options.runs)
  const joined = await openJoinedLab(2)
  try {
    const machine = joined.lab.machine('laptop-1')
    await joined.join(machine)
    await joined.join(joined.lab.machine('laptop-2'))
    const daemonMib = residentMib(await daemonPid(machine))
    const serveMib = residentMib(joined.serverPid)
    need(await machine.nsm(['disconnect']))
    const warm = await cleanRuns(runs, () => connectOnce(machine))
    const cold = await cleanRuns(runs, async () => {
      await endDaemon(machine)
      return connectOnce(machine)
    })
    const warmMs = median(warm.values)
    const serveTarget = targets.serveMib + 2 * targets.memberMib
    return {
      name: 'connect',
      rows: [
        targetRow({ label: 'nsm connect, warm, median', ours: warmMs, target: targets.warmMedianMs, unit: 'ms' }),
        targetRow({
          label: 'nsm connect, warm, p95',
          ours: quantile(warm.values, 0.95),
          target: targets.warmP95Ms,
          unit: 'ms',
        }),
        targetRow({
          label: 'cold start adds, median',
          ours: median(cold.values) - warmMs,
          target: targets.coldAddsMs,
          unit: 'ms',
        }),
        targetRow({
          label: 'background process with one tunnel, RSS',
          ours: daemonMib,
          target: targets.daemonMib,
          unit: 'MiB',
        }),
        targetRow({ label: 'nsm serve with two members, RSS', ours: serveMib, target: serveTarget, unit: 'MiB' }),
      ],
      versions: {},
      notes: [
        `${runs} runs each; wall time of the whole command; the peer column is the target`,
        ...(warm.leftOut + cold.leftOut > 0
          ? [`${warm.leftOut + cold.leftOut} runs left out: more than 5 % stolen time`]
          : []),
      ],
    }
  } finally {
    await joined.close()
  }
}

async function connectOnce(machine: Machine): Promise<number> {
  const { tookMs } = need(await machine.nsm(['connect', benchService, '--json']))
  need(await machine.nsm(['disconnect']))
  return tookMs
}

/** Ours: tries of 20 ms for the background process to end. */
const endTries = 250

async function endDaemon(machine: Machine): Promise<void> {
  const pid = await daemonPid(machine)
  if (Number.isNaN(pid)) return
  process.kill(pid, 'SIGTERM')
  for (let tries = 0; tries < endTries; tries++) {
    if (Number.isNaN(residentMib(pid))) return
    await new Promise((settle) => setTimeout(settle, 20))
  }
  throw new NsmError('NOT_READY', `the background process ${pid} does not end`, '')
}
