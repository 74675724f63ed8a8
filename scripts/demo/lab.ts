import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { access, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { nsmProgram } from '../nsm-program.ts'

/** How a program ended. */
export interface Ended {
  readonly exitCode: number
  readonly out: string
  readonly err: string
  readonly tookMs: number
}

/** One machine of the lab: a network namespace with an address, a resolver file and a state folder of its own. */
export interface Machine {
  readonly name: string
  readonly namespace: string
  readonly address: string
  /** The file that programs of this machine see as /etc/resolv.conf. */
  readonly resolvConf: string
  /** A private folder: state of nsm, join files. */
  readonly dir: string
  run(program: string, args: readonly string[], options?: RunOptions): Promise<Ended>
  nsm(args: readonly string[], options?: RunOptions): Promise<Ended>
  /** Starts a program that runs until the lab closes or the caller ends it. */
  start(program: string, args: readonly string[]): ChildProcess
  startNsm(args: readonly string[]): ChildProcess
}

/** Limits of one run in a lab. */
export interface RunOptions {
  readonly timeoutMs?: number
  readonly input?: string
}

/** Machines on one network; `close` removes everything and is safe to call twice. */
export interface Lab {
  machine(name: string): Machine
  close(): Promise<void>
}

/** Ours: no program of a lab runs longer unless it says so. */
const runTimeoutMs = 90_000
/** Ours: what a server gets to end by itself. */
const stopTimeoutMs = 4_000

/** Says why no lab can be opened on this machine and what would help; undefined when one can. */
export async function whyNoLab(): Promise<NsmError | undefined> {
  if (process.getuid?.() !== 0) return lacking('this needs root for its own network namespaces', 'sudo npm run demo')
  const tun = await access('/dev/net/tun', constants.R_OK | constants.W_OK).catch((error) => error)
  if (tun)
    return lacking(
      '/dev/net/tun is missing or not readable',
      'modprobe tun, or run the container with --device /dev/net/tun',
    )
  const probe = `nsm-probe-${process.pid}`
  const made = await execute('ip', ['netns', 'add', probe])
  if (made.exitCode === 0) {
    await execute('ip', ['netns', 'del', probe])
    return undefined
  }
  const missing = made.err.includes('ENOENT')
  if (missing) return lacking('the program "ip" is missing', 'apt-get install iproute2')
  return lacking(
    `network namespaces are not allowed here: ${made.err.trim()}`,
    'run it on a machine or in a privileged container',
  )
}

/**
 * Opens a lab: one bridge in a namespace of its own and a namespace per machine, 192.0.2.1 onwards [RFC 5737]. Each
 * machine's resolver file names `nameserver`. What a killed run of the same kind left behind is removed first.
 */
export async function openLab(options: {
  readonly kind: string
  readonly machines: readonly string[]
  readonly nameserver: string
}): Promise<Lab> {
  const { kind, nameserver } = options
  await removeStale(kind)
  const prefix = `${kind}-${process.pid}`
  const dir = await mkdtemp(join(tmpdir(), `${prefix}-`))
  const network = `${prefix}-net`
  const machines = options.machines.map((name, index) =>
    createMachine({ name, namespace: `${prefix}-${name}`, address: `192.0.2.${index + 1}`, dir: join(dir, name) }),
  )
  const namespaces = [network, ...machines.map(({ namespace }) => namespace)]
  const close = () => removeLab(namespaces, dir)
  try {
    await ip(['netns', 'add', network])
    await ip(['-n', network, 'link', 'add', 'bridge', 'type', 'bridge'])
    await ip(['-n', network, 'link', 'set', 'bridge', 'up'])
    for (const machine of machines) await plugIn(machine, network, nameserver)
    for (const machine of machines) await untilUp(machine)
  } catch (error) {
    await close()
    throw error
  }
  return {
    close,
    machine(name) {
      const found = machines.find((machine) => machine.name === name)
      if (!found) throw new NsmError('BUG', `the lab has no machine ${name}`, 'name it when the lab is opened')
      return found
    },
  }
}

async function plugIn(machine: Machine, network: string, nameserver: string): Promise<void> {
  const { namespace, name, address } = machine
  await mkdir(machine.dir, { recursive: true, mode: 0o700 })
  await mkdir(`/etc/netns/${namespace}`, { recursive: true })
  await writeFile(machine.resolvConf, `# resolver of ${name}\nnameserver ${nameserver}\noptions timeout:2\n`)
  await ip(['netns', 'add', namespace])
  const port = `to-${name}`.slice(0, 15)
  await ip(['link', 'add', 'eth0', 'netns', namespace, 'type', 'veth', 'peer', 'name', port, 'netns', network])
  await ip(['-n', network, 'link', 'set', port, 'master', 'bridge', 'up'])
  // No link-local address: it would appear while the demo compares before and after.
  await ip(['-n', namespace, 'link', 'set', 'eth0', 'addrgenmode', 'none'])
  await ip(['-n', namespace, 'link', 'set', 'lo', 'up'])
  await ip(['-n', namespace, 'addr', 'add', `${address}/24`, 'dev', 'eth0'])
  await ip(['-n', namespace, 'link', 'set', 'eth0', 'up'])
}

/** Ours: tries of 20 ms for a link to have its carrier. */
const linkTries = 250

async function untilUp({ namespace }: Machine): Promise<void> {
  for (let tries = 0; tries < linkTries; tries++) {
    const { out } = await execute('ip', ['-n', namespace, '-json', 'link', 'show', 'eth0'])
    if (out.includes('"operstate":"UP"')) return
    await new Promise((settle) => setTimeout(settle, 20))
  }
  throw new NsmError('NOT_READY', `eth0 of ${namespace} has no carrier`, '')
}

function createMachine(place: Pick<Machine, 'name' | 'namespace' | 'address' | 'dir'>): Machine {
  const { namespace, dir, name } = place
  const inside = (program: string, args: readonly string[]) => ['netns', 'exec', namespace, program, ...args]
  const environment = {
    ...process.env,
    NSM_STATE_DIR: join(dir, 'state'),
    NSM_RUNTIME_DIR: join(dir, 'run'),
    NSM_NAME: name,
    NO_COLOR: '1',
  }
  const run = (program: string, args: readonly string[], options?: RunOptions) =>
    execute('ip', inside(program, args), { ...options, environment })
  const start = (program: string, args: readonly string[]) =>
    spawn('ip', inside(program, args), { env: environment, stdio: ['ignore', 'pipe', 'pipe'] })
  return {
    ...place,
    resolvConf: `/etc/netns/${namespace}/resolv.conf`,
    run,
    start,
    nsm: (args, options) => run(nsmProgram, args, options),
    startNsm: (args) => start(nsmProgram, args),
  }
}

/** Namespaces are named KIND-PID-MACHINE: those whose process is gone were left by a killed run. */
async function removeStale(kind: string): Promise<void> {
  const { out } = await execute('ip', ['netns', 'list'])
  const stale = out
    .split('\n')
    .map((line) => line.split(' ')[0] ?? '')
    .filter((name) => {
      const pid = new RegExp(`^${kind}-(\\d+)-`).exec(name)?.[1]
      return pid !== undefined && !isAlive(Number(pid))
    })
  await removeNamespaces(stale)
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

async function removeLab(namespaces: readonly string[], dir: string): Promise<void> {
  await removeNamespaces(namespaces)
  await rm(dir, { recursive: true, force: true })
}

async function removeNamespaces(namespaces: readonly string[]): Promise<void> {
  await Promise.all(namespaces.map(endProcesses))
  for (const namespace of namespaces) {
    await execute('ip', ['netns', 'del', namespace])
    await rm(`/etc/netns/${namespace}`, { recursive: true, force: true })
  }
}

/** Ends every process inside one namespace: asked first, forced after a while. */
async function endProcesses(namespace: string): Promise<void> {
  const untilMs = performance.now() + stopTimeoutMs
  for (let signal: NodeJS.Signals = 'SIGTERM'; ; ) {
    const pids = (await execute('ip', ['netns', 'pids', namespace])).out.split('\n').filter((pid) => pid !== '')
    if (pids.length === 0) return
    for (const pid of pids) sendSignal(Number(pid), signal)
    if (signal === 'SIGKILL') return
    if (performance.now() > untilMs) signal = 'SIGKILL'
    await new Promise((settle) => setTimeout(settle, 100))
  }
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It ended by itself.
  }
}

async function ip(args: readonly string[]): Promise<void> {
  const { exitCode, err } = await execute('ip', args)
  if (exitCode !== 0) throw new NsmError('BUG', `ip ${args.join(' ')}: ${err.trim()}`, 'see the message above')
}

/** Runs a program and gives how it ended; a program that is missing ends with 127. */
export function execute(
  program: string,
  args: readonly string[],
  options: RunOptions & { readonly environment?: NodeJS.ProcessEnv } = {},
): Promise<Ended> {
  const startedMs = performance.now()
  return new Promise((settle) => {
    const limits = { timeout: options.timeoutMs ?? runTimeoutMs, maxBuffer: 64 * 1024 * 1024 }
    const child = execFile(program, [...args], { ...limits, env: options.environment }, (error, out, err) => {
      const tookMs = performance.now() - startedMs
      const missing = error !== null && error.code === 'ENOENT'
      const exitCode = error === null ? 0 : missing ? 127 : (child.exitCode ?? 124)
      settle({ exitCode, out, err: missing ? `ENOENT: ${program}` : err, tookMs })
    })
    child.stdin?.on('error', () => {})
    child.stdin?.end(options.input ?? '')
  })
}

function lacking(message: string, next: string): NsmError {
  return new NsmError('PERMISSION', message, next)
}
