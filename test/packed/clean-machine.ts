import { type ChildProcess, execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startedServe } from '../support/started-serve.ts'

/** How a program ended. */
export interface Ended {
  readonly exitCode: number
  readonly out: string
  readonly err: string
}

const prefix = `nsmg5-${process.pid}`
const namespaces = [`${prefix}-a`, `${prefix}-b`] as const
const environment = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }

/**
 * A system of its own in a folder, over which everything that is written lies apart, with two network namespaces, 192.0.2.1
 * and .2. What is in `system` stays as it is; `stop` takes all of it down.
 */
export class CleanMachine {
  readonly root: string
  readonly #dir: string
  readonly #undo: (() => void)[] = []

  constructor(system: string) {
    this.#dir = mkdtempSync(join(tmpdir(), 'nsm-machine-'))
    this.root = join(this.#dir, 'root')
    for (const name of ['root', 'upper', 'work']) mkdirSync(join(this.#dir, name))
    const layers = `lowerdir=${system},upperdir=${join(this.#dir, 'upper')},workdir=${join(this.#dir, 'work')}`
    this.#mount('-t', 'overlay', 'overlay', '-o', layers, this.root)
    this.#mount('-t', 'proc', 'none', join(this.root, 'proc'))
    this.#mount('--bind', '/dev', join(this.root, 'dev'))
    for (const name of ['run', 'tmp']) this.#mount('-t', 'tmpfs', 'none', join(this.root, name))
    for (const name of namespaces) {
      execFileSync('ip', ['netns', 'add', name])
      this.#undo.push(() => execFileSync('ip', ['netns', 'del', name]))
    }
    const [a, b] = namespaces
    execFileSync('ip', ['link', 'add', 'v', 'netns', a, 'type', 'veth', 'peer', 'name', 'v', 'netns', b])
    for (const [index, name] of namespaces.entries()) {
      const addresses = ['addr', 'add', `192.0.2.${index + 1}/24`, 'dev', 'v']
      for (const words of [addresses, ['link', 'set', 'v', 'up'], ['link', 'set', 'lo', 'up']])
        execFileSync('ip', ['-n', name, ...words])
    }
  }

  stop(): void {
    for (const act of this.#undo.reverse()) act()
    rmSync(this.#dir, { recursive: true, force: true })
  }

  /** Runs words in the system, in the namespace of 192.0.2.1 (`a`) or .2 (`b`). */
  run(name: 'a' | 'b', ...words: readonly string[]): Promise<Ended> {
    return new Promise((settle) => {
      const child = execFile('ip', [...this.#place(name), ...words], { env: environment }, (_error, out, err) =>
        settle({ exitCode: child.exitCode ?? -1, out, err }),
      )
    })
  }

  /** The server at 192.0.2.1; its join string is in /tmp/join when this returns. */
  async startServe(...before: readonly string[]): Promise<ChildProcess> {
    const words = [...before, 'nsm', 'serve', '--listen', '192.0.2.1:5001', '--advertise', '192.0.2.1']
    const { child, out } = await startedServe('ip', [...this.#place('a'), ...words], { env: environment })
    writeFileSync(join(this.root, 'tmp/join'), out)
    return child
  }

  /** Every path of the system that is a package's: without what package managers write down for themselves. */
  paths(): readonly string[] {
    const own = ['lib/dpkg', 'lib/rpm', 'lib/apt', 'log', 'cache'].flatMap((it) => [
      '-path',
      `./var/${it}`,
      '-prune',
      '-o',
    ])
    const words = ['.', '-xdev', ...own, '-print']
    return execFileSync('find', words, { cwd: this.root, encoding: 'utf8' }).split('\n').sort()
  }

  #place(name: 'a' | 'b'): readonly string[] {
    return ['netns', 'exec', `${prefix}-${name}`, 'chroot', this.root]
  }

  #mount(...args: readonly string[]): void {
    execFileSync('mount', args)
    this.#undo.push(() => execFileSync('umount', ['--lazy', args.at(-1) ?? '']))
  }
}

/** Ends a server that was started, and waits for its end. */
export async function endServe(server: ChildProcess): Promise<void> {
  const ended = once(server, 'exit')
  server.kill('SIGTERM')
  await ended
}

/** State and runtime directories of the second machine: both namespaces share one system. */
export const elsewhere = ['env', 'NSM_STATE_DIR=/var/lib/nsm-b', 'NSM_RUNTIME_DIR=/run/nsm-b', 'nsm'] as const
