import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import { freePort } from '../../test/support/free-port.ts'
import { killed } from '../../test/support/local-process.ts'
import { nsmProgram } from '../nsm-program.ts'

/** One resolver under load, or the server behind all of them. */
export interface Subject {
  readonly port: number
  readonly pid: number
}

/** Who forwards: ours and dnsmasq with one upstream and with two raced ones, and ours with 500 more scopes. */
export type SubjectName = 'ours one' | 'ours two' | 'ours 501' | 'dnsmasq one' | 'dnsmasq two' | 'server'

/** Everything that runs during the bench. */
export interface DnsLab {
  readonly dir: string
  readonly subjects: Readonly<Record<SubjectName, Subject>>
  stop(): Promise<void>
}

/** Names by zone: `cold` is never cached by anybody, `hot` is asked again and again, `full` fills a cache. */
export const zones = {
  cold: { names: 10_000, ttlSeconds: 0 },
  hot: { names: 200, ttlSeconds: 3_600 },
  full: { names: 5_000, ttlSeconds: 3_600 },
} as const

/** A zone of the lab; the file of its questions is `<zone>.txt`. */
export type ZoneName = keyof typeof zones

/** The other scopes of `ours 501`. */
const moreScopes = 500
const execute = promisify(execFile)

/** Starts Knot on two addresses as upstreams on one core, and the forwarders on the other. */
export async function startDnsLab(dir: string): Promise<DnsLab> {
  const children: ChildProcess[] = []
  const start = (core: Core, program: string, args: readonly string[]) => {
    const [command = '', ...rest] = pinned(core, program, args)
    const child = spawn(command, rest, { stdio: 'ignore' })
    children.push(child)
    return child.pid ?? 0
  }
  const stop = async () => {
    for (const child of children) await killed(child)
  }
  try {
    const server = await freePort()
    await writeZones(dir, server)
    const subjects: Record<SubjectName, Subject> = {
      server: { port: server, pid: start('load', 'knotd', ['-c', join(dir, 'knot.conf')]) },
      ...(await startForwarders([`127.0.0.1:${server}`, `127.0.0.2:${server}`], start)),
    }
    for (const { port } of Object.values(subjects)) await answers(port)
    return { dir, subjects, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

type Start = (core: Core, program: string, args: readonly string[]) => number

async function startForwarders(upstreams: readonly [string, string], start: Start) {
  const [owner, host] = upstreams
  const ours = async (scopes: readonly string[], hosts: readonly string[]) => {
    const port = await freePort()
    const flags = [
      ...scopes.flatMap((scope) => ['--scope', scope]),
      ...hosts.flatMap((server) => ['--default', server]),
    ]
    return { port, pid: start('subject', nsmProgram, ['dns', 'serve', '--listen', `127.0.0.1:${port}`, ...flags]) }
  }
  const theirs = async (servers: readonly string[]) => {
    const port = await freePort()
    const flags = servers.map((server) => `--server=${server.replace(':', '#')}`)
    return { port, pid: start('subject', 'dnsmasq', [...dnsmasqArgs(port), ...flags]) }
  }
  const raced = Object.keys(zones).map((zone) => `${zone}.test=${owner}`)
  const others = Array.from({ length: moreScopes }, (_, i) => `scope${i}.example=${owner}`)
  return {
    'ours one': await ours([], [owner]),
    'ours two': await ours(raced, [host]),
    'ours 501': await ours([...raced, ...others], [host]),
    'dnsmasq one': await theirs([owner]),
    'dnsmasq two': await theirs([owner, host]),
  }
}

function dnsmasqArgs(port: number): string[] {
  const listen = [`--port=${port}`, '--listen-address=127.0.0.1', '--bind-interfaces']
  const quiet = ['--keep-in-foreground', '--conf-file=/dev/null', '--pid-file=', '--no-resolv', '--no-hosts']
  return [...listen, ...quiet, '--user=root', '--all-servers', '--cache-size=10000', '--dns-forward-max=2000']
}

async function writeZones(dir: string, port: number): Promise<void> {
  const conf = [
    'server:',
    `  rundir: "${dir}"`,
    `  listen: [ 127.0.0.1@${port}, 127.0.0.2@${port} ]`,
    '  udp-workers: 1',
    '  tcp-workers: 1',
    '  background-workers: 1',
    'database:',
    `  storage: "${dir}"`,
    'template:',
    '  - id: default',
    `    storage: "${dir}"`,
    'zone:',
  ]
  for (const [zone, { names, ttlSeconds }] of Object.entries(zones)) {
    const head = `$ORIGIN ${zone}.test.\n$TTL ${ttlSeconds}\n@ SOA ns host 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n`
    const hosts = Array.from({ length: names }, (_, i) => `n${i} A 10.${i >> 16}.${(i >> 8) & 255}.${i & 255}\n`)
    await writeFile(join(dir, `${zone}.zone`), head + hosts.join(''))
    const asked = Array.from({ length: names }, (_, i) => `n${(i * 7919) % names}.${zone}.test A\n`)
    await writeFile(join(dir, `${zone}.txt`), asked.join(''))
    conf.push(`  - domain: ${zone}.test`, `    file: ${zone}.zone`)
  }
  await writeFile(join(dir, 'knot.conf'), `${conf.join('\n')}\n`)
}

type Core = 'load' | 'subject'

/** The command on its core: forwarders on core 0, Knot and the load on core 1. */
export function pinned(core: Core, program: string, args: readonly string[]): string[] {
  if (availableParallelism() < 2) return [program, ...args]
  return ['taskset', '-c', core === 'load' ? '1' : '0', program, ...args]
}

/** Programs that are not here, by name. */
export async function missingPrograms(names: readonly string[]): Promise<string[]> {
  const missing: string[] = []
  for (const name of names) await execute('sh', ['-c', `command -v ${name}`]).catch(() => missing.push(name))
  return missing
}

async function answers(port: number): Promise<void> {
  for (let i = 0; i < 50; i++) {
    const socket = createSocket('udp4')
    const question = Buffer.from('000101000001000000000000026e3004636f6c6404746573740000010001', 'hex')
    socket.send(question, port, '127.0.0.1')
    const answered = await Promise.race([once(socket, 'message').then(() => true), pause(200, false)]).catch(
      () => false,
    )
    socket.close()
    if (answered) return
  }
  throw new TypeError(`nothing answers on port ${port}`)
}
