import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { vi } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { keyToBase64 } from '../../src/tunnel/key-text.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'
import { inside } from './tunnel-network.ts'

/** A userspace WireGuard of somebody else. */
export interface WireguardProgram {
  readonly name: string
  /** Undefined when it is not on this machine. */
  readonly path: string | undefined
  readonly args: readonly string[]
}

const cache = resolve(import.meta.dirname, '../../node_modules/.cache/nsm-bench')
const found = (...places: (string | undefined)[]) => places.find((place) => place !== undefined && existsSync(place))
const rustArgs = ['-f', '--disable-drop-privileges']

/** The one that most use; `npm run bench -- tunnel` builds it and the others. */
export const wireguardGo: WireguardProgram = {
  name: 'wireguard-go',
  path: found(process.env['WIREGUARD_GO'], join(cache, 'wireguard'), join(homedir(), 'go', 'bin', 'wireguard')),
  args: ['-f'],
}

/** All of them. */
export const wireguardPrograms: readonly WireguardProgram[] = [
  wireguardGo,
  { name: 'boringtun-cli', path: found(join(cache, 'bin', 'boringtun-cli')), args: rustArgs },
  { name: 'gotatun-cli', path: found(join(cache, 'bin', 'gotatun')), args: rustArgs },
]

/** True when wg(8) is here. */
export const hasWg = existsSync('/usr/bin/wg')

/** A key pair in base64. */
export interface KeyText {
  readonly privateKey: string
  readonly publicKey: string
}

/** A new key pair. */
export function keyPair(): KeyText {
  const privateKey = generatePrivateKey()
  return { privateKey: keyToBase64(privateKey), publicKey: keyToBase64(publicKeyOf(privateKey)) }
}

/** Files of one test, for keys and configurations: wg(8) takes no key as an argument. */
export class Files {
  readonly #dir = mkdtempSync(join(tmpdir(), 'nsm-wg-'))

  /** Writes a file only we may read; gives its path. */
  write(name: string, text: string): string {
    const path = join(this.#dir, name)
    writeFileSync(path, text, { mode: 0o600 })
    return path
  }

  get dir(): string {
    return this.#dir
  }

  remove(): void {
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

/** The command in a namespace, with its state in `dir`; gives exit code and both outputs. */
export async function nsmIn(namespace: string, dir: string, ...args: readonly string[]) {
  const places = { NSM_STATE_DIR: join(dir, 'state'), NSM_RUNTIME_DIR: join(dir, 'run') }
  const env = { ...process.env, ...places, NSM_RESOLV_CONF: join(dir, 'resolv.conf') }
  const result = promisify(execFile)('ip', ['netns', 'exec', namespace, nsmProgram, ...args], { env, encoding: 'utf8' })
  return result.then(
    ({ stdout, stderr }) => ({ code: 0, out: stdout, err: stderr }),
    ({ code, stdout, stderr }) => ({ code, out: String(stdout), err: String(stderr) }),
  )
}

/** A peer that runs in a namespace: interface, addresses, routes, set by wg(8) and ip(8). */
export class WireguardPeer {
  readonly #program: WireguardProgram
  readonly #namespace: string
  readonly #interfaceName: string
  #child: ChildProcess | undefined

  constructor(program: WireguardProgram, place: { readonly namespace: string; readonly interfaceName: string }) {
    this.#program = program
    this.#namespace = place.namespace
    this.#interfaceName = place.interfaceName
  }

  /** Starts it, then sets keys and peers, addresses and routes. */
  async start(config: string, addresses: readonly string[], routes: readonly string[]): Promise<void> {
    const name = this.#interfaceName
    await vi.waitFor(() => this.#answers(), { timeout: 120_000, interval: 100 })
    await this.wg('setconf', name, config)
    for (const address of addresses) await this.#ip('address', 'add', address, 'dev', name)
    await this.#ip('link', 'set', name, 'up', 'mtu', '1420')
    for (const route of routes) await this.#ip('route', 'add', route, 'dev', name)
  }

  /** One that ends at once, as while the interface of its predecessor is still there, is started again. */
  async #answers(): Promise<void> {
    if (!this.#child || this.#child.exitCode !== null) {
      rmSync(this.#socket, { force: true })
      const env = { ...process.env, WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD: '1', LOG_LEVEL: 'error' }
      const command = [this.#program.path ?? '', ...this.#program.args, this.#interfaceName]
      this.#child = spawn('ip', ['netns', 'exec', this.#namespace, ...command], { env, stdio: 'ignore' })
    }
    await this.wg('show', this.#interfaceName)
  }

  /** Runs wg(8) where the peer is. */
  wg(...args: readonly string[]): Promise<string> {
    return inside(this.#namespace, 'timeout', '60', 'wg', ...args)
  }

  /** Ends it and waits. */
  async stop(): Promise<void> {
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((settle) => child.once('exit', settle))
    child.kill('SIGTERM')
    const force = setTimeout(() => child.kill('SIGKILL'), 2_000)
    await gone
    clearTimeout(force)
    rmSync(this.#socket, { force: true })
  }

  get #socket(): string {
    return `/var/run/wireguard/${this.#interfaceName}.sock`
  }

  #ip(...args: readonly string[]): Promise<string> {
    return inside(this.#namespace, 'ip', ...args)
  }
}
