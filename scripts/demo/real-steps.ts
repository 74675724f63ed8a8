import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { NsmError } from '../../src/base/errors.ts'
import type { ConnectionView, ConnectResult, StatusResult } from '../../src/daemon/protocol.ts'
import type { Machine } from './lab.ts'
import { differences, machineState } from './machine-state.ts'
import { firstLines } from './output.ts'
import type { RealMesh } from './real-mesh.ts'
import type { StepOutcome } from './report.ts'
import { bare, connectLines, lines, need } from './seen.ts'

/** NSM's test endpoints answer on the port of [RFC 862]. */
const echoPort = 7
const echoBytes = 1024 * 1024
/** Ours: a refresh is due within 12 s; a busy machine gets longer. */
const refreshTimeoutMs = 60_000
const lookPauseMs = 500

/** The steps with NSM's own programs, on a machine whose network they have for themselves. */
export function createRealSteps(laptop: Machine, scripts: string) {
  let mesh: RealMesh | undefined
  let running: ChildProcess | undefined
  let before: Readonly<Record<string, string>> = {}
  const views = new Map<string, ConnectionView>()
  const view = (service: string) => views.get(service) ?? notConnected(service)

  return {
    async start(): Promise<StepOutcome> {
      running = laptop.start(process.execPath, [join(scripts, 'real-mesh.ts'), join(laptop.dir, 'mesh')])
      const started: RealMesh = JSON.parse(await firstLines(running, '{"agent"'))
      mesh = started
      before = await machineState(laptop)
      return { ok: true, seen: [`identities by ${started.agent}`, ...started.programs] }
    },

    async connect(service: string): Promise<StepOutcome> {
      const { manager, socket } = mesh ?? notConnected(service)
      const args = ['connect', service, '--manager', manager, '--spiffe-socket', socket]
      const ended = need(await laptop.nsm([...args, '--json']))
      const result: ConnectResult = JSON.parse(ended.out)
      const [made] = result.connections
      if (!made) throw new NsmError('BUG', 'connect gave no connection', '')
      views.set(service, made)
      const figures = { [`${service} connect ms`]: Math.round(ended.tookMs) }
      return { ok: made.state === 'up', seen: [`$ nsm ${args.join(' ')}`, ...connectLines(result, made)], figures }
    },

    async ping(service: string): Promise<StepOutcome> {
      const target = endpointOf(view(service))
      const ended = need(await laptop.run('ping', ['-c', '3', '-i', '0.2', '-W', '2', target]))
      const rttMs = Number(/= [\d.]+\/([\d.]+)\//.exec(ended.out)?.[1])
      const seen = [`$ ping -c 3 ${target}`, ...lines(ended.out).slice(1)]
      return { ok: ended.out.includes(' 0% packet loss'), seen, figures: { [`${service} rtt ms`]: rttMs } }
    },

    async echo(service: string): Promise<StepOutcome> {
      const target = endpointOf(view(service))
      const args = [join(scripts, 'echo.mjs'), target, String(echoPort), String(echoBytes)]
      const { received, same, tookMs } = JSON.parse(need(await laptop.run(process.execPath, args)).out)
      const seen = [`${received} random bytes to ${target}:${echoPort} and back, unchanged: ${same}`]
      return { ok: same === true, seen, figures: { [`${service} echo ms`]: Math.round(tookMs) } }
    },

    async lookUp(service: string): Promise<StepOutcome> {
      const { name = '', addresses } = view(service)
      const ended = need(await laptop.run('getent', ['ahosts', name]))
      const ok = addresses.some((address) => ended.out.includes(bare(address)))
      return { ok, seen: [`$ getent ahosts ${name}`, ...lines(ended.out).slice(0, 1)] }
    },

    async status(): Promise<StepOutcome> {
      const ended = need(await laptop.nsm(['status']))
      const up = lines(ended.out).filter((line) => / up /.test(line) && !line.startsWith('#'))
      return { ok: up.length === views.size, seen: ['$ nsm status', ...lines(ended.out)] }
    },

    refresh: () => untilRefreshed(laptop, [...views.values()]),

    async disconnect(): Promise<StepOutcome> {
      const ended = need(await laptop.nsm(['disconnect']))
      const changed = differences(before, await machineState(laptop))
      const state =
        changed.length === 0
          ? 'addresses, routes, rules and resolver file are byte for byte as before'
          : `still different: ${changed.join(', ')}`
      const answering = await Promise.all([...views.values()].map((view) => isAnswering(laptop, endpointOf(view))))
      const isClean = changed.length === 0 && Object.keys(before).length > 0 && !answering.includes(true)
      const silence = `${answering.filter(Boolean).length} of ${answering.length} endpoints still answer pings`
      return { ok: isClean, seen: ['$ nsm disconnect', ...lines(ended.out), state, silence] }
    },

    async stop(): Promise<StepOutcome> {
      const program = running ?? notConnected('the mesh')
      const ended = new Promise<number | null>((settle) => program.once('exit', (code) => settle(code)))
      program.kill('SIGTERM')
      const code = await ended
      return { ok: code === 0, seen: [`every program has ended: exit code ${code}`] }
    },
  }
}

/** The endpoint's own address in the tunnel: where its names are answered, else the other end of the link. */
function endpointOf(view: ConnectionView): string {
  const [server] = view.dnsServers
  return server === undefined ? bare(view.routes[0]) : server.replace(/:53$/, '')
}

async function isAnswering(laptop: Machine, address: string): Promise<boolean> {
  return (await laptop.run('ping', ['-c', '1', '-W', '1', address])).exitCode === 0
}

async function untilRefreshed(laptop: Machine, views: readonly ConnectionView[]): Promise<StepOutcome> {
  const startedMs = performance.now()
  const look = async () => {
    const { connections }: StatusResult = JSON.parse(need(await laptop.nsm(['status', '--json'])).out)
    return connections
  }
  for (;;) {
    const waitedMs = performance.now() - startedMs
    const seen = await look()
    const isSame = views.every((view) => seen.some((other) => isOne(view, other)))
    const later = views.map((view) => (seen.find(({ id }) => id === view.id)?.expiresMs ?? 0) - view.expiresMs)
    if (isSame && later.every((ms) => ms > 0)) {
      const text = `after ${Math.round(waitedMs / 1_000)} s the leases last ${later.map((ms) => Math.round(ms / 1_000)).join(' and ')} s longer`
      return { ok: true, seen: [`${text}; ids, addresses and interfaces are the same`] }
    }
    if (!isSame) return { ok: false, seen: ['a connection is not up, or another one'] }
    if (waitedMs > refreshTimeoutMs) return { ok: false, seen: ['no lease was renewed'] }
    await pause(lookPauseMs)
  }
}

function isOne(view: ConnectionView, other: ConnectionView): boolean {
  const same = view.id === other.id && view.interfaceName === other.interfaceName
  return same && other.state === 'up' && view.addresses.join() === other.addresses.join()
}

function notConnected(what: string): never {
  throw new NsmError('BUG', `${what} is not up`, '')
}
