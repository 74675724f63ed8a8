import { type ChildProcessByStdio, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { promisify } from 'node:util'
import { type DebianPackage, debianPackage } from './debian-packages.ts'

const execute = promisify(execFile)

/** A machine of its own: name spaces of mounts, network and processes over this one's files, gone with its first process. */
export interface Room {
  /** Runs a program in it and gives what it printed. */
  run(program: string, ...args: readonly string[]): Promise<string>
  /** Starts a program in it and waits for its first line. */
  start(program: string, ...args: readonly string[]): Promise<RoomProgram>
  /** A path of the room as seen from outside. */
  path(inside: string): string
  close(): Promise<void>
}

/** A program that runs in a room. */
export interface RoomProgram {
  /** All lines so far. */
  readonly said: readonly string[]
  tell(line: string): void
  /** Sends the program itself a signal and waits for its end. */
  stop(signal: NodeJS.Signals): Promise<void>
}

/** Why there can be no room here, or undefined. */
export async function whyNoRoom(name?: DebianPackage): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'needs root'
  const probe = ['-m', '-n', '-p', '-f', '--mount-proc', 'sh', '-c', `${overlays('')}\ntrue`]
  const can = await execute('unshare', probe).then(
    () => true,
    () => false,
  )
  if (!can) return 'needs name spaces and overlay mounts'
  return name && !(await debianPackage(name)) ? `needs ${name} from Debian, and apt to fetch it` : undefined
}

/** Opens a room with the files of a package laid over this machine's, runs `setUp` in it and keeps it open. */
export async function openRoom(setUp: string, name?: DebianPackage): Promise<Room> {
  const folder = name ? ((await debianPackage(name)) ?? '') : ''
  const script = ['set -e', overlays(folder), 'ip link set lo up', setUp, 'echo ready', 'exec sleep 100000'].join('\n')
  const holder = spawn('unshare', ['-m', '-n', '-p', '-f', '--kill-child', '--mount-proc', 'sh', '-c', script], {
    stdio: ['pipe', 'pipe', process.env['NSM_TEST_ROOM'] ? 'inherit' : 'ignore'],
  })
  await firstLine(holder)
  const first = await childOf(holder.pid)
  const enter = ['-t', first, '-m', '-n', '-p', '--']
  return {
    run: async (program, ...args) => (await execute('nsenter', [...enter, program, ...args])).stdout,
    async start(program, ...args) {
      const child = spawn('nsenter', [...enter, program, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
      const said = await firstLine(child)
      return {
        said,
        tell: (line) => void child.stdin.write(`${line}\n`),
        async stop(signal) {
          if (child.exitCode !== null || child.signalCode !== null) return
          const ended = once(child, 'exit')
          const pid = Number(await childOf(child.pid))
          // To 0 it would go to this process and all of its group.
          if (pid > 0) process.kill(pid, signal)
          await ended
        },
      }
    },
    path: (inside) => resolve(`/proc/${first}/root`, `.${inside}`),
    async close() {
      const ended = once(holder, 'exit')
      holder.kill('SIGKILL')
      await ended
    },
  }
}

/** The process behind `unshare` and `nsenter`, which only wait for it. */
async function childOf(pid: number | undefined): Promise<string> {
  return (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim()
}

/** Collects the lines of a program; resolves with the first one. */
function firstLine(child: ChildProcessByStdio<Writable, Readable, null>): Promise<string[]> {
  const said: string[] = []
  return new Promise((done, failed) => {
    createInterface(child.stdout).on('line', (line) => {
      said.push(line)
      done(said)
    })
    child.once('exit', () => failed(new Error(`the program ended before it was ready: ${child.spawnargs.join(' ')}`)))
  })
}

/** Writes of the room stay in its memory. */
function overlays(folder: string): string {
  const usr = folder && `mount -t overlay overlay -o lowerdir=${folder}/usr:/usr /usr`
  const lower = folder ? `${folder}/etc:/etc` : '/etc'
  return [
    'mount --make-rprivate /',
    usr,
    'mount -t tmpfs tmpfs /run',
    'mkdir -p /run/.etc/upper /run/.etc/work',
    `mount -t overlay overlay -o lowerdir=${lower},upperdir=/run/.etc/upper,workdir=/run/.etc/work /etc`,
  ].join('\n')
}
