import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { closeSync, existsSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { loadKoffi } from '../../src/tunnel/sys/native.ts'
import type { TunnelStats } from '../../src/tunnel/tunnels.ts'
import type { ProgramConfig } from './tunnel-program.ts'

/** Why these tests cannot run here; undefined when they can. */
export function whyNot(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  if (!existsSync('/dev/net/tun')) return 'needs /dev/net/tun'
  try {
    execFileSync('ip', ['netns', 'list'], { stdio: 'pipe' })
    return undefined
  } catch {
    return 'needs ip netns'
  }
}

const run = promisify(execFile)

/** Runs a program and gives its standard output. */
export async function sh(program: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await run(program, [...args], { encoding: 'utf8', maxBuffer: 8_000_000 })
  return stdout
}

/** Runs a program in a network namespace. */
export async function inside(namespace: string, program: string, ...args: readonly string[]): Promise<string> {
  return sh('ip', 'netns', 'exec', namespace, program, ...args)
}

/** The name with this process's own end: no other run on this machine has it. At most 8 letters, for an interface. */
export function ownName(name: string): string {
  return `${name}${process.pid}`
}

/** Pings three times; gives the numbers of the first three packets that were answered: 1, 2, 3 when none was lost. */
export function pings(namespace: string, to: string, ...more: readonly string[]): Promise<readonly number[]> {
  return answeredPings(namespace, { to, count: 3, everySeconds: 0.2 }, ...more)
}

/**
 * Pings until so many were answered, and gives the numbers of those, however late the answers came. Without `-w`, ping(8)
 * waits for the last one no longer than between two.
 */
export async function answeredPings(
  namespace: string,
  { to, count, everySeconds }: { readonly to: string; readonly count: number; readonly everySeconds: number },
  ...more: readonly string[]
): Promise<readonly number[]> {
  const args = ['-c', `${count}`, '-i', `${everySeconds}`, '-w', '120', ...more, to]
  const said = await inside(namespace, 'ping', ...args).catch((error) => String(error.stdout))
  return answeredOf(said).slice(0, count)
}

/** The numbers of the packets that were answered, as ping(8) says. */
export function answeredOf(said: string): readonly number[] {
  return [...said.matchAll(/ bytes from .* icmp_seq=(\d+) /g)]
    .map(([, number]) => Number(number))
    .toSorted((a, b) => a - b)
}

/** Namespaces joined by one bridge in a namespace of its own: 192.0.2.N/24 and fd99::N/64, N from 1. */
export async function makeNamespaces(names: readonly string[], bridge: string): Promise<void> {
  await sh('ip', 'netns', 'add', bridge)
  await inside(bridge, 'ip', 'link', 'add', 'br0', 'up', 'type', 'bridge')
  for (const [i, name] of names.entries()) {
    await sh('ip', 'netns', 'add', name)
    await inside(name, 'ip', 'link', 'set', 'lo', 'up')
    await sh('ip', 'link', 'add', 'eth0', 'netns', name, 'type', 'veth', 'peer', 'name', `port${i}`, 'netns', bridge)
    await inside(bridge, 'ip', 'link', 'set', `port${i}`, 'master', 'br0', 'up')
    await inside(name, 'ip', 'address', 'add', `192.0.2.${i + 1}/24`, 'dev', 'eth0')
    await inside(name, 'ip', 'address', 'add', `fd99::${i + 1}/64`, 'dev', 'eth0', 'nodad')
    await inside(name, 'ip', 'link', 'set', 'eth0', 'up')
  }
}

/** Removes namespaces; one that is absent is fine. */
export async function removeNamespaces(names: readonly string[]): Promise<void> {
  for (const name of names) await sh('ip', 'netns', 'del', name).catch(() => '')
}

/** One line of the program. */
export interface Answer {
  readonly ready?: { readonly listenPort: number }
  readonly failed?: { readonly code: string; readonly message: string }
  readonly stats?: TunnelStats
  readonly rssBytes?: number
  readonly done?: string
  readonly sunk?: { readonly bytes: number; readonly seconds: number }
}

/** A side of a tunnel running in a namespace. */
export class Program {
  readonly child: ChildProcess
  readonly #answers: Answer[] = []
  #waiting: ((answer: Answer) => void) | undefined
  log = ''

  constructor(namespace: string, config: Partial<ProgramConfig>, environment: NodeJS.ProcessEnv = process.env) {
    const whole = { ...defaults, ...config }
    const program = join(import.meta.dirname, 'tunnel-program.ts')
    const args = ['netns', 'exec', namespace, process.execPath, program, JSON.stringify(whole)]
    this.child = spawn('ip', args, { stdio: ['pipe', 'pipe', 'pipe'], env: environment })
    this.child.stderr?.on('data', (data) => {
      this.log += String(data)
    })
    if (this.child.stdout) createInterface({ input: this.child.stdout }).on('line', (line) => this.#hear(line))
  }

  /** The next line it says. */
  next(): Promise<Answer> {
    const waiting = this.#answers.shift()
    if (waiting) return Promise.resolve(waiting)
    return new Promise((resolve) => {
      this.#waiting = resolve
    })
  }

  /** Sends a line and waits for the next answer. */
  ask(line: string): Promise<Answer> {
    this.child.stdin?.write(`${line}\n`)
    return this.next()
  }

  /** Ends it without a word and waits until it is gone. */
  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    const gone = new Promise((resolve) => this.child.once('exit', resolve))
    this.child.kill('SIGKILL')
    await gone
  }

  #hear(line: string): void {
    const answer: Answer = JSON.parse(line)
    const waiting = this.#waiting
    this.#waiting = undefined
    if (waiting) waiting(answer)
    else this.#answers.push(answer)
  }
}

const defaults: ProgramConfig = {
  role: 'member',
  privateKey: '',
  listenPort: 0,
  peers: [],
  gateways: [],
  names: {},
  interfaceName: 'nsm0',
  addresses: [],
  routes: [],
  mtuBytes: 1_420,
  singlePackets: false,
}

/** Moves this thread into a network namespace; the result moves it back. */
export function enterNamespace(name: string): () => void {
  const library = loadKoffi().load(null)
  const setns: (fd: number, kind: number) => number = library.func('int setns(int fd, int kind)')
  const home = openSync('/proc/thread-self/ns/net', 'r')
  const there = openSync(`/run/netns/${name}`, 'r')
  if (setns(there, CLONE_NEWNET) !== 0) throw new Error(`cannot enter ${name}`)
  closeSync(there)
  return () => {
    setns(home, CLONE_NEWNET)
    closeSync(home)
  }
}

const CLONE_NEWNET = 0x40000000
