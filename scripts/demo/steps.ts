import type { ChildProcess } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import type { ConnectionView, ConnectResult } from '../../src/daemon/protocol.ts'
import { durationText } from '../../src/ui/duration.ts'
import type { Lab, Machine } from './lab.ts'
import { differences, machineState } from './machine-state.ts'
import { firstLines } from './output.ts'
import type { StepOutcome } from './report.ts'
import { bare, connectLines, lines, need } from './seen.ts'

const service = 'my-networkservice-1'
/** What each laptop types: the plain name, and NSM's own URL with an interface name. */
const typed: Readonly<Record<string, string>> = { 'laptop-1': service, 'laptop-2': `kernel://${service}/nsm-1` }
const downloadBytes = 32 * 1024 * 1024
const httpPort = 8080

/** The steps of the demo on an open lab; each resolves with what can be seen, and throws when it cannot go on. */
export function createSteps(lab: Lab, scripts: string) {
  const server = lab.machine('server')
  const laptop = lab.machine('laptop-1')
  const stranger = lab.machine('stranger')
  const before = new Map<string, Readonly<Record<string, string>>>()
  const views = new Map<string, ConnectionView>()
  const other = () => viewOf(views, 'laptop-2')
  let serving: ChildProcess | undefined

  return {
    async serve(): Promise<StepOutcome> {
      const args = ['serve', '--advertise', server.address]
      serving = server.startNsm(args)
      const text = await firstLines(serving, 'nsm://')
      await writeFile(join(laptop.dir, 'join.txt'), text, { mode: 0o600 })
      await writeFile(join(stranger.dir, 'join.txt'), text, { mode: 0o600 })
      return { ok: true, seen: [`$ nsm ${args.join(' ')} > join.txt`, ...hideToken(text)] }
    },

    async connect(name: string): Promise<StepOutcome> {
      const machine = lab.machine(name)
      const joinFile = join(machine.dir, 'join.txt')
      if (machine !== laptop)
        await writeFile(joinFile, need(await server.nsm(['invite', '--id', name])).out, { mode: 0o600 })
      before.set(name, await machineState(machine))
      const url = typed[name] ?? service
      const ended = need(await machine.nsm(['connect', '--join', joinFile, url, '--json']))
      const result: ConnectResult = JSON.parse(ended.out)
      const [view] = result.connections
      if (!view) throw new NsmError('BUG', 'connect gave no connection', '')
      views.set(name, view)
      return {
        ok: view.state === 'up',
        seen: [`$ nsm connect --join join.txt ${url}`, ...connectLines(result, view)],
        figures: { [`${name} connect ms`]: Math.round(ended.tookMs) },
      }
    },

    async status(): Promise<StepOutcome> {
      const ended = await laptop.nsm(['status'])
      // Where this run keeps its files is nobody's business.
      const shown = lines(ended.out.replaceAll(laptop.dir, '...'))
      return { ok: ended.exitCode === 0 && ended.out.includes(' up '), seen: ['$ nsm status', ...shown] }
    },

    async lookUp(): Promise<StepOutcome> {
      const { name = '', addresses } = other()
      const ended = need(await laptop.run('getent', ['ahosts', name]))
      const expected = addresses.map((address) => address.replace(/\/.*/, ''))
      return {
        ok: expected.some((address) => ended.out.includes(address)),
        seen: [`$ getent ahosts ${name}`, ...lines(ended.out).slice(0, 2)],
      }
    },

    async ping(): Promise<StepOutcome> {
      const { name = '' } = other()
      const ended = need(await laptop.run('ping', ['-c', '3', '-i', '0.2', '-W', '2', name]))
      const rttMs = Number(/= [\d.]+\/([\d.]+)\//.exec(ended.out)?.[1])
      return {
        ok: ended.out.includes(' 0% packet loss'),
        seen: [`$ ping -c 3 ${name}`, ...lines(ended.out).slice(1)],
        figures: { 'ping rtt ms': rttMs },
      }
    },

    download: () =>
      download({ laptop, machine: lab.machine('laptop-2'), scripts, view: other(), own: viewOf(views, 'laptop-1') }),

    throughput: () => throughput({ laptop, machine: lab.machine('laptop-2'), view: other() }),

    async again(): Promise<StepOutcome> {
      const ended = need(await laptop.nsm(['connect', service, '--json']))
      const result: ConnectResult = JSON.parse(ended.out)
      return {
        ok: result.alreadyUp,
        seen: [`$ nsm connect ${service}`, `connected already, answered in ${durationText(ended.tookMs)}`],
      }
    },

    async strangerConnect(): Promise<StepOutcome> {
      const ended = await stranger.nsm([
        'connect',
        service,
        '--manager',
        `tcp://${server.address}:5001`,
        '--timeout',
        '10s',
      ])
      return {
        ok: ended.exitCode === 4,
        seen: [
          `$ nsm connect ${service} --manager tcp://${server.address}:5001`,
          ...lines(ended.err),
          `exit code ${ended.exitCode}`,
        ],
      }
    },

    async strangerReplay(): Promise<StepOutcome> {
      const ended = await stranger.nsm([
        'connect',
        service,
        '--join',
        join(stranger.dir, 'join.txt'),
        '--timeout',
        '10s',
      ])
      return {
        ok: ended.exitCode === 4,
        seen: [`$ nsm connect --join join.txt ${service}`, ...lines(ended.err), `exit code ${ended.exitCode}`],
      }
    },

    strangerPackets: () => strangerPackets({ stranger, server, scripts, members: [...views.values()] }),

    async disconnect(name: string): Promise<StepOutcome> {
      const machine = lab.machine(name)
      const ended = need(await machine.nsm(['disconnect']))
      const changed = differences(before.get(name) ?? {}, await machineState(machine))
      const state =
        changed.length === 0
          ? 'addresses, routes, rules and resolver file are byte for byte as before'
          : `still different: ${changed.join(', ')}`
      return { ok: changed.length === 0 && before.has(name), seen: ['$ nsm disconnect', ...lines(ended.out), state] }
    },

    async stopServer(): Promise<StepOutcome> {
      if (!serving) throw new NsmError('BUG', 'the server never ran', '')
      const ended = new Promise<number | null>((settle) => serving?.once('exit', (code) => settle(code)))
      serving.kill('SIGTERM')
      const code = await ended
      return { ok: code === 143, seen: [`exit code ${code} (128 + 15, after the teardown)`] }
    },
  }
}

async function download(input: {
  readonly laptop: Machine
  readonly machine: Machine
  readonly scripts: string
  readonly view: ConnectionView
  readonly own: ConnectionView
}): Promise<StepOutcome> {
  const transfer = join(input.scripts, 'transfer.mjs')
  const address = bare(input.view.addresses[0])
  const http = input.machine.start(process.execPath, [
    transfer,
    'serve',
    address,
    String(httpPort),
    String(downloadBytes),
  ])
  try {
    await firstLines(http, 'listening')
    const url = `http://${input.view.name}:${httpPort}/`
    const ended = need(await input.laptop.run(process.execPath, [transfer, 'get', url]))
    const { received, tookMs, client } = JSON.parse(ended.out)
    const fromOwn = client === bare(input.own.addresses[0])
    const seen = [
      `GET ${url}`,
      `${received} bytes in ${durationText(tookMs)}; laptop-2 saw ${client}, laptop-1's own address (no NAT)`,
    ]
    return { ok: received === downloadBytes && fromOwn, seen, figures: { 'download bytes': received } }
  } finally {
    http.kill()
  }
}

async function throughput(input: {
  readonly laptop: Machine
  readonly machine: Machine
  readonly view: ConnectionView
}): Promise<StepOutcome> {
  const target = input.view.name ?? ''
  const iperf = input.machine.start('iperf3', ['-s', '-1', '--forceflush'])
  try {
    await firstLines(iperf, 'listening')
    const ended = need(await input.laptop.run('iperf3', ['-c', target, '-t', '4', '--json']))
    const gigabits = JSON.parse(ended.out).end.sum_received.bits_per_second / 1e9
    const seen = [
      `$ iperf3 -c ${target} -t 4`,
      `${gigabits.toFixed(2)} Gbit/s from laptop-1 over the server to laptop-2`,
    ]
    return { ok: gigabits > 0, seen, figures: { 'TCP Gbit/s': Number(gigabits.toFixed(3)) } }
  } catch (error) {
    if (!String(error).includes('ENOENT') && !String(error).includes('iperf3')) throw error
    return { ok: true, seen: ['iperf3 is not installed; the download above is the figure (apt-get install iperf3)'] }
  } finally {
    iperf.kill()
  }
}

async function strangerPackets(input: {
  readonly stranger: Machine
  readonly server: Machine
  readonly scripts: string
  readonly members: readonly ConnectionView[]
}): Promise<StepOutcome> {
  const { stranger, server, members } = input
  await stranger.run('ip', ['route', 'add', '10.64.0.0/16', 'via', server.address])
  const reached = await Promise.all(
    members.map(async (member) => {
      const target = `/dev/tcp/${bare(member.addresses[0])}/${httpPort}`
      return (await stranger.run('timeout', ['2', 'bash', '-c', `echo > ${target}`])).exitCode === 0
    }),
  )
  const knocked = need(
    await stranger.run(process.execPath, [join(input.scripts, 'knock.mjs'), server.address, '51820']),
  )
  const answers = Number(knocked.out)
  const seen = [
    `TCP to ${members.length} members, routed to the server: ${reached.filter(Boolean).length} reached`,
    `handshakes with an unknown key: ${answers} answers`,
  ]
  return { ok: answers === 0 && !reached.includes(true), seen }
}

function viewOf(views: ReadonlyMap<string, ConnectionView>, name: string): ConnectionView {
  const view = views.get(name)
  if (!view) throw new NsmError('BUG', `${name} is not connected`, '')
  return view
}

/** The join string is a secret: its token is not shown. */
function hideToken(text: string): string[] {
  return lines(text).map((line) => line.replace(/jt=[^&\s]+/, 'jt=...'))
}
