import { execFile, spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { NsmError } from '../../src/base/errors.ts'
import { readSettings } from '../../src/base/settings.ts'
import { connectDaemon } from '../../src/daemon/client.ts'
import type { ConnectionView, StatusResult } from '../../src/daemon/protocol.ts'
import { answeredOf } from './tunnel-network.ts'

const program = nsmProgram

/** Why namespaces and TUN interfaces cannot be had here; undefined when they can. */
export function whyNotHere(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
    return undefined
  } catch {
    return 'needs /dev/net/tun'
  }
}

/** What a program said and how it ended. */
export interface Ended {
  readonly code: number
  readonly out: string
  readonly err: string
}

/** For a program that hangs; longer than any of its own limits. */
const commandLimitMs = 120_000
/** Two cores are shared with what is waited for. */
const askAgainMs = 20

/** Asks again until the condition holds; the test's own time limit ends it. */
export async function eventually(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds().catch(() => false))) await new Promise((resolve) => setTimeout(resolve, askAgainMs))
}

/** Machines in network namespaces on one switch: `s` serves, the others are laptops. */
export class MeshRig {
  readonly prefix: string
  readonly dir: string
  /** IP version outside the tunnels. */
  readonly underlay: 4 | 6
  readonly #machines: readonly string[]
  readonly #serving = new Map<string, ReturnType<typeof spawn>>()

  constructor(prefix: string, dir: string, machines: readonly string[], underlay: 4 | 6) {
    this.prefix = prefix
    this.dir = dir
    this.underlay = underlay
    this.#machines = machines
  }

  /**
   * Builds the namespaces, named so that no other run has them; the machines have 192.0.2.1, .2 and so on, or 2001:db8::1, ::2 and so on, and a resolver that
   * never answers.
   */
  static async open(name: string, machines: readonly string[], underlay: 4 | 6 = 4): Promise<MeshRig> {
    const prefix = `${name}-${process.pid}`
    const rig = new MeshRig(prefix, await mkdtemp(join(tmpdir(), `${prefix}-`)), machines, underlay)
    await rig.#command('ip', ['netns', 'add', `${prefix}-br`])
    await rig.inside('br', 'ip', ['link', 'add', 'br0', 'type', 'bridge'])
    await rig.inside('br', 'ip', ['link', 'set', 'br0', 'up'])
    for (const [index, machine] of machines.entries()) await rig.#addMachine(machine, index + 1)
    return rig
  }

  /** Runs a program on a machine. */
  inside(
    machine: string,
    command: string,
    args: readonly string[],
    environment: Record<string, string> = {},
  ): Promise<Ended> {
    return this.#command('ip', ['netns', 'exec', `${this.prefix}-${machine}`, command, ...args], environment)
  }

  /** Runs `nsm` on a machine. */
  nsm(machine: string, ...args: string[]): Promise<Ended> {
    return this.inside(machine, program, args, this.#environment(machine))
  }

  /** Joins a machine to the service, at the endpoint with the label `site`, and gives the connection. */
  async connect(machine: string, join: string, site: string): Promise<ConnectionView> {
    const flags = ['--name', machine, '--timeout', '60s', '--json', '--join', join]
    const { code, out, err } = await this.nsm(machine, 'connect', `kernel://${service}?site=${site}`, ...flags)
    const [view] = code === 0 ? JSON.parse(out).connections : []
    if (!view) throw new NsmError('BUG', `${machine} is not connected: ${out}${err}`, 'mend the rig')
    return view
  }

  /** True when one ping is answered at once; for those who ask again, or expect no answer. */
  reaches(from: string, to: string): Promise<boolean> {
    return this.#ping(from, to, 1)
  }

  /** True when one ping is answered, however slow the machine is. */
  pings(from: string, to: string): Promise<boolean> {
    return this.#ping(from, to, 60)
  }

  /** Pings ten times a second until `end`, then until one more is answered; gives the number of those that were not. */
  async lostMeanwhile(from: string, to: string, end: Promise<unknown>): Promise<number> {
    const args = ['netns', 'exec', `${this.prefix}-${from}`, 'ping', '-i', '0.1', to]
    const child = spawn('ip', args, { stdio: ['ignore', 'pipe', 'inherit'] })
    let isOver = false
    const isSettled = () => {
      isOver = true
    }
    end.then(isSettled, isSettled)
    let said = ''
    try {
      for await (const chunk of child.stdout) {
        said += String(chunk)
        if (isOver) break
      }
    } finally {
      child.kill('SIGKILL')
    }
    await end
    const answered = answeredOf(said)
    return (answered.at(-1) ?? Number.POSITIVE_INFINITY) - answered.length
  }

  /** Starts `nsm serve` on machine `s` and gives the join text it printed. */
  serve(...args: string[]): Promise<string> {
    return this.serveOn('s', ...args)
  }

  /** Starts `nsm serve` on a machine and gives the join text it printed. */
  async serveOn(machine: string, ...args: string[]): Promise<string> {
    const child = spawn('ip', ['netns', 'exec', `${this.prefix}-${machine}`, program, 'serve', ...args], {
      env: { ...process.env, ...this.#environment(machine) },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    this.#serving.set(machine, child)
    let said = ''
    for await (const chunk of child.stdout) {
      said += String(chunk)
      if (/^nsm:\/\/.*\n/m.test(said)) return said
    }
    throw new NsmError('BUG', `nsm serve on ${machine} ended before it served`, 'see what it said')
  }

  /** Stops or continues the server of a machine without its noticing. */
  signalServe(signal: 'SIGSTOP' | 'SIGCONT', machine: string): void {
    this.#serving.get(machine)?.kill(signal)
  }

  /** Kills the server of a machine and waits until it is gone. */
  async killServe(signal: NodeJS.Signals, machine = 's'): Promise<void> {
    const child = this.#serving.get(machine)
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((done) => child.once('exit', done))
    child.kill(signal)
    await gone
  }

  /** Writes a text to a file of this rig and gives its path. */
  async file(name: string, content: string): Promise<string> {
    const path = join(this.dir, name)
    await writeFile(path, content)
    return path
  }

  /** A join file for one machine, from the server on another. */
  async invite(name: string, server = 's'): Promise<string> {
    return this.file(name, (await this.nsm(server, 'invite')).out)
  }

  /** What the background process of a machine says of its connections, without starting a program. */
  async status(machine: string): Promise<StatusResult> {
    const state = join(this.dir, machine)
    const environment = { NSM_STATE_DIR: state, NSM_RUNTIME_DIR: join(state, 'run') }
    const daemon = await connectDaemon(readSettings(environment, 0), { start: false })
    try {
      return await daemon.status()
    } finally {
      await daemon.close()
    }
  }

  /** Drops or refuses what comes in on a machine; the result takes it back. */
  async block(machine: string, rule: string): Promise<() => Promise<void>> {
    const chain = '{ type filter hook input priority 0; }'
    await this.inside(machine, 'nft', ['add table inet wall'])
    await this.inside(machine, 'nft', [`add chain inet wall in ${chain}`])
    const { code, err } = await this.inside(machine, 'nft', [`add rule inet wall in ${rule}`])
    if (code !== 0) throw new NsmError('BUG', `nft: ${err}`, 'mend the rule')
    return async () => void (await this.inside(machine, 'nft', ['delete table inet wall']))
  }

  /** Sends a signal to the background process; fails when none runs: signal to 0 would end the test's own group. */
  async signalDaemon(machine: string, signal: NodeJS.Signals): Promise<void> {
    const pid = await this.daemonPid(machine)
    if (pid === undefined) throw new NsmError('BUG', `no background process runs in ${machine}`, 'mend the test')
    process.kill(pid, signal)
  }

  /** Process id of the background process of a machine; undefined when none runs. */
  async daemonPid(machine: string): Promise<number | undefined> {
    const { out } = await this.#command('ip', ['netns', 'pids', `${this.prefix}-${machine}`])
    for (const pid of out.split('\n').filter((line) => line !== '')) {
      const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
      if (line.includes('daemon/main')) return Number(pid)
    }
    return undefined
  }

  /** What leaving must put back: addresses, routes, rules, packet filter and the resolver file, byte for byte. */
  async fingerprint(machine: string): Promise<string> {
    const parts = await Promise.all([
      this.inside(machine, 'ip', ['-json', 'addr']),
      this.inside(machine, 'ip', ['-json', 'route', 'show', 'table', 'all']),
      this.inside(machine, 'ip', ['-json', '-6', 'route', 'show', 'table', 'all']),
      this.inside(machine, 'ip', ['-json', 'rule']),
      this.inside(machine, 'ip', ['-json', '-6', 'rule']),
      this.inside(machine, 'nft', ['list', 'ruleset']),
      this.inside(machine, 'sysctl', [
        '-e',
        'net.ipv4.ip_forward',
        'net.ipv6.conf.all.forwarding',
        'net.ipv4.conf.all',
      ]),
      this.inside(machine, 'cat', ['/etc/resolv.conf']),
    ])
    return parts.map(({ out }) => out).join('\n')
  }

  /** Ends what runs in the namespaces and removes them. */
  async close(): Promise<void> {
    // A further site says goodbye to the first one, which was started before it.
    for (const machine of [...this.#serving.keys()].reverse()) await this.killServe('SIGTERM', machine)
    for (const machine of this.#machines) {
      await this.nsm(machine, 'disconnect')
      const { out } = await this.#command('ip', ['netns', 'pids', `${this.prefix}-${machine}`])
      for (const pid of out.split('\n').filter((line) => line !== '')) endNow(Number(pid))
    }
    for (const machine of [...this.#machines, 'br']) {
      await this.#command('ip', ['netns', 'del', `${this.prefix}-${machine}`])
      await rm(`/etc/netns/${this.prefix}-${machine}`, { recursive: true, force: true })
    }
    await rm(this.dir, { recursive: true, force: true })
  }

  async #addMachine(machine: string, number: number): Promise<void> {
    const name = `${this.prefix}-${machine}`
    await this.#command('ip', ['netns', 'add', name])
    const link = ['link', 'add', 'eth0', 'netns', name, 'type', 'veth', 'peer', 'name', `p-${machine}`]
    await this.#command('ip', [...link, 'netns', `${this.prefix}-br`])
    await this.inside('br', 'ip', ['link', 'set', `p-${machine}`, 'master', 'br0', 'up'])
    await this.inside(machine, 'ip', ['link', 'set', 'lo', 'up'])
    const address = this.underlay === 4 ? [`192.0.2.${number}/24`] : [`2001:db8::${number}/64`, 'nodad']
    await this.inside(machine, 'ip', ['addr', 'add', ...address, 'dev', 'eth0'])
    await this.inside(machine, 'ip', ['link', 'set', 'eth0', 'up', 'addrgenmode', 'none'])
    await mkdir(`/etc/netns/${name}`, { recursive: true })
    await writeFile(`/etc/netns/${name}/resolv.conf`, '# of the machine\nnameserver 192.0.2.254\noptions timeout:15\n')
  }

  async #ping(from: string, to: string, seconds: number): Promise<boolean> {
    return (await this.inside(from, 'ping', ['-c', '1', '-W', `${seconds}`, to])).code === 0
  }

  #environment(machine: string): Record<string, string> {
    const state = join(this.dir, machine)
    return { NSM_STATE_DIR: state, NSM_RUNTIME_DIR: join(state, 'run') }
  }

  #command(command: string, args: readonly string[], environment: Record<string, string> = {}): Promise<Ended> {
    return new Promise((done) => {
      execFile(
        command,
        [...args],
        { env: { ...process.env, ...environment }, timeout: commandLimitMs },
        (error, out, err) => {
          done({ code: error ? Number(error.code ?? 1) : 0, out, err })
        },
      )
    })
  }
}

/** One that ended since it was listed is fine. */
function endNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It is gone.
  }
}

/** The embedded default service and a machine's name in it. */
export const service = 'my-networkservice-1'
export const nameOf = (machine: string) => `${machine}.${service}.nsm.internal`

/** Connects from one machine to another through the tunnel by name; gives the address the other side saw. */
export async function tcpThrough(rig: MeshRig, from: string, to: string, name = nameOf(to)): Promise<string> {
  const server = `const s = require('node:net').createServer((c) => { c.end(c.remoteAddress.replace('::ffff:', '')); s.close() })
    s.listen(8080)`
  const client = `const dial = () => { const c = require('node:net').connect(8080, '${name}')
    c.on('data', (d) => process.stdout.write(d)); c.on('error', () => setTimeout(dial, 100)) }; dial()`
  const [, answer] = await Promise.all([
    rig.inside(to, process.execPath, ['-e', server]),
    rig.inside(from, process.execPath, ['-e', client]),
  ])
  return answer.out
}
