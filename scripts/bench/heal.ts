import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { readSettings } from '../../src/base/settings.ts'
import { connectDaemon } from '../../src/daemon/client.ts'
import type { ConnectionView } from '../../src/daemon/protocol.ts'
import { type Lab, type Machine, openLab } from '../demo/lab.ts'
import { firstLines } from '../demo/output.ts'
import { need } from '../demo/seen.ts'
import { targetRow } from './figures.ts'
import { benchService } from './joined-lab.ts'
import type { BenchRow, BenchSection } from './section.ts'

/** The promises: from the fault to the notice, and from the notice to another endpoint in use. */
const targets = { noticeMs: 1_500, otherMs: 3_000 }
/** Ours: how often the laptop is asked; two cores are shared with what is measured. */
const askMs = 10
/** Ours: a connection is left alone for this long before the fault, so that it is idle as most are. */
const idleMs = 1_500

interface Fault {
  readonly name: string
  readonly make: (lab: HealLab) => Promise<unknown>
  readonly mend: (lab: HealLab) => Promise<unknown>
}

const faults: readonly Fault[] = [
  {
    name: "endpoint's process killed",
    make: async ({ west }) => west.kill(),
    mend: ({ west }) => west.serve(),
  },
  {
    name: "endpoint's network gone",
    make: ({ west }) => west.machine.run('ip', ['link', 'set', 'eth0', 'down']),
    mend: ({ west }) => west.machine.run('ip', ['link', 'set', 'eth0', 'up']),
  },
  {
    name: 'packets lost, control alive',
    make: ({ west }) =>
      west.machine.run('nft', [
        'add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in udp dport 51820 drop',
      ]),
    mend: ({ west }) => west.machine.run('nft', ['delete table inet wall']),
  },
]

/** Two endpoints of one service and a laptop at the second: the worst times of each fault. */
export async function benchHeal({ runs }: { readonly runs: number }): Promise<BenchSection> {
  const lab = await openHealLab()
  try {
    const rows: BenchRow[] = []
    for (const fault of faults) {
      const times: Awaited<ReturnType<typeof healOnce>>[] = []
      for (let i = 0; i < runs; i++) times.push(await healOnce(lab, fault))
      const worst = (of: 'noticeMs' | 'otherMs') => Math.max(...times.map((time) => time[of]))
      const [noticed, used] = [`${fault.name}: noticed`, `${fault.name}: other in use`]
      rows.push(targetRow({ label: noticed, ours: worst('noticeMs'), target: targets.noticeMs, unit: 'ms' }))
      rows.push(targetRow({ label: used, ours: worst('otherMs'), target: targets.otherMs, unit: 'ms' }))
    }
    return {
      name: 'heal',
      rows,
      versions: {},
      notes: [`the worst of ${runs} runs each; the peer column is the target`],
    }
  } finally {
    await lab.close()
  }
}

async function healOnce(lab: HealLab, fault: Fault): Promise<{ readonly noticeMs: number; readonly otherMs: number }> {
  const second = await lab.connectToSecond()
  await wait(idleMs)
  const startedMs = performance.now()
  const making = fault.make(lab)
  await until(lab, (view) => view.state !== 'up' || view.endpoint !== second)
  const noticedMs = performance.now()
  await until(lab, (view) => view.state === 'up' && view.endpoint !== second)
  const usedMs = performance.now()
  await making
  await fault.mend(lab)
  return { noticeMs: noticedMs - startedMs, otherMs: usedMs - noticedMs }
}

interface HealLab {
  readonly laptop: Machine
  readonly west: { readonly machine: Machine; serve(): Promise<unknown>; kill(): void }
  /** Connects until the manager, which gives its endpoints in turn, gave the second one; its name. */
  connectToSecond(): Promise<string>
  close(): Promise<void>
}

async function openHealLab(): Promise<HealLab> {
  const lab = await openLab({ kind: 'nsm-heal', machines: ['east', 'west', 'laptop'], nameserver: '192.0.2.1' })
  try {
    const [east, laptop] = [lab.machine('east'), lab.machine('laptop')]
    await firstLines(east.startNsm(['serve', '--advertise', east.address, '--site', 'east']), 'nsm://')
    const west = await startWest(lab, east)
    need(await laptop.nsm(['connect', '--join', await invite(east, laptop, []), benchService]))
    return { laptop, west, connectToSecond: () => connectToSecond(laptop), close: lab.close }
  } catch (error) {
    await lab.close()
    throw error
  }
}

async function startWest(lab: Lab, east: Machine): Promise<HealLab['west']> {
  const machine = lab.machine('west')
  const join = ['--join', await invite(east, machine, ['--endpoint'])]
  let running = machine.startNsm(['serve', ...join, '--advertise', machine.address, '--site', 'west'])
  await firstLines(running, 'nsm://')
  return {
    machine,
    kill: () => void running.kill('SIGKILL'),
    serve() {
      running = machine.startNsm(['serve', '--advertise', machine.address, '--site', 'west'])
      return firstLines(running, 'nsm://')
    },
  }
}

async function invite(east: Machine, machine: Machine, more: readonly string[]): Promise<string> {
  const path = join(machine.dir, 'join.txt')
  await writeFile(path, need(await east.nsm(['invite', '--id', machine.name, ...more])).out, { mode: 0o600 })
  return path
}

async function connectToSecond(laptop: Machine): Promise<string> {
  for (;;) {
    need(await laptop.nsm(['connect', benchService]))
    const { endpoint } = await viewOf(laptop)
    if (endpoint.endsWith('-west')) return endpoint
    need(await laptop.nsm(['disconnect']))
  }
}

async function until({ laptop }: HealLab, holds: (view: ConnectionView) => boolean): Promise<void> {
  while (!holds(await viewOf(laptop))) await wait(askMs)
}

/** Asks the background process itself: a program for each look would take longer than what is measured. */
async function viewOf({ dir }: Pick<Machine, 'dir'>): Promise<ConnectionView> {
  const environment = { NSM_STATE_DIR: join(dir, 'state'), NSM_RUNTIME_DIR: join(dir, 'run') }
  const daemon = await connectDaemon(readSettings(environment, 0), { start: false })
  try {
    const [view] = (await daemon.status()).connections
    if (view) return view
    throw new NsmError('NOT_READY', 'the laptop has no connection', '')
  } finally {
    await daemon.close()
  }
}

function wait(ms: number): Promise<void> {
  return new Promise((settle) => setTimeout(settle, ms))
}
