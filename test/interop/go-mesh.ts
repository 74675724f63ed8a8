import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import type { IdentitySource } from '../../src/identity/source.ts'
import { type Channel, openChannel, type Target } from '../../src/nsm/channel.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import { freePort } from '../support/free-port.ts'
import { type GoProcess, runGo, startGo } from './go-process.ts'

/** Identities that the small Workload API gives out: `spiffe://peers.test/NAME`. */
const identities = [
  ...['registry', 'nsmgr', 'forwarder', 'nsmgr-proxy', 'registry-proxy-dns', 'icmp', 'vl3', 'ipam'],
  ...['client', 'ours', 'theirs', 'laptop', 'stranger'],
]

type Flags = Readonly<Record<string, string | number>>

/** Where a Go program listens, and what ends it. */
export interface GoServer extends Target {
  readonly url: string
  stop(): Promise<number | null>
}

/**
 * NSM's own programs on this machine's loopback, each with an identity of one Workload API. `close` ends them in the
 * reverse order of their start, and everything handed to `onClose` with them.
 */
export class GoMesh {
  readonly #path: string
  readonly #dir: string
  readonly #closers: (() => unknown)[] = []
  readonly #sources = new Map<string, Promise<IdentitySource>>()

  private constructor(path: string, dir: string) {
    this.#path = path
    this.#dir = dir
  }

  /** Starts the Workload API. */
  static async start(path: string, life = '1h'): Promise<GoMesh> {
    const dir = await mkdtemp(join(tmpdir(), 'nsmi-'))
    const mesh = new GoMesh(path, dir)
    mesh.onClose(() => rm(dir, { recursive: true }))
    mesh.#keep(await startGo({ path, role: 'workloadapi', flags: { dir, life, names: identities.join(',') } }))
    return mesh
  }

  /** Starts a Workload API with identities that a server of ours gives: `enrol` writes each into its file. */
  static async startEnrolled(
    path: string,
    names: readonly string[],
    enrol: (name: string, file: string) => Promise<unknown>,
  ): Promise<GoMesh> {
    const dir = await mkdtemp(join(tmpdir(), 'nsmi-'))
    const mesh = new GoMesh(path, dir)
    mesh.onClose(() => rm(dir, { recursive: true }))
    for (const name of names) await enrol(name, join(dir, `${name}.json`))
    mesh.#keep(await startGo({ path, role: 'workloadapi', flags: { dir, enrolled: names.join(',') } }))
    return mesh
  }

  socketOf(name: string): string {
    return `unix://${join(this.#dir, `${name}.sock`)}`
  }

  /** The identity as our own Workload API client gets it. */
  source(name: string): Promise<IdentitySource> {
    const known = this.#sources.get(name)
    if (known) return known
    const opening = openWorkloadApi({ socket: this.socketOf(name), clock: systemClock, log: silentLog }).then(
      (source) => {
        this.onClose(() => source.close())
        return source
      },
    )
    this.#sources.set(name, opening)
    return opening
  }

  /** Starts a server role with the identity of the same name, on a free port or the one it had before. */
  async serve(role: string, flags: Flags = {}, before?: Target): Promise<GoServer> {
    const port = before?.port ?? (await freePort())
    const url = `tcp://127.0.0.1:${port}`
    const command = { path: this.#path, role, socket: this.socketOf(role), flags: { listen: url, ...flags } }
    const { stop } = this.#keep(await startGo(command))
    return { address: '127.0.0.1', port, url, stop }
  }

  /** A client that stays connected until it is stopped. */
  async connect(flags: Flags): Promise<GoProcess> {
    const process = await startGo({ path: this.#path, role: 'client', socket: this.socketOf('client'), flags })
    return this.#keep(process)
  }

  /** Runs a role that ends by itself, `find` or `record`, and gives what it printed. */
  run(role: string, flags: Flags): Promise<readonly string[]> {
    return runGo({ path: this.#path, role, socket: this.socketOf('client'), flags })
  }

  async channel(target: Target, identity = 'laptop'): Promise<Channel> {
    const channel = openChannel({ target, source: await this.source(identity), clock: systemClock })
    this.onClose(() => channel.close())
    return channel
  }

  async client(target: Target, identity = 'laptop') {
    return createNsmClient(await this.channel(target, identity))
  }

  onClose(closer: () => unknown): void {
    this.#closers.push(closer)
  }

  async close(): Promise<void> {
    for (const closer of this.#closers.splice(0).reverse()) await closer()
  }

  #keep(process: GoProcess): GoProcess {
    let stopping: Promise<number | null> | undefined
    const kept = {
      lines: process.lines,
      stop() {
        stopping ??= process.stop()
        return stopping
      },
    }
    this.onClose(kept.stop)
    return kept
  }
}
