import { execFile } from 'node:child_process'
import { existsSync, linkSync, mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from '../support/free-port.ts'
import { startProgram } from './go-process.ts'

const run = promisify(execFile)

/** The newest version that Go's module proxy gives. */
const version = '1.13.3'
const cache = resolve(import.meta.dirname, '../../node_modules/.cache/nsm-interop')
/** The server contains SQLite in C: a first build takes a quarter of an hour on 2 cores. */
const buildTimeoutMs = 3_600_000
const trustDomain = 'peers.test'

/** Both programs of SPIRE. */
export interface SpireBinaries {
  readonly server: string
  readonly agent: string
}

/** Both programs when they were built before. */
export function builtSpire(): SpireBinaries | undefined {
  const server = join(cache, `spire-${version}-server`)
  const agent = join(cache, `spire-${version}-agent`)
  return existsSync(server) && existsSync(agent) ? { server, agent } : undefined
}

/** Builds SPIRE inside its own module, so that its own list of checksums holds for everything in it. */
export async function buildSpire(): Promise<SpireBinaries> {
  mkdirSync(cache, { recursive: true })
  const server = join(cache, `spire-${version}-server`)
  const agent = join(cache, `spire-${version}-agent`)
  const built = builtSpire()
  if (built) return built
  const { stdout } = await run('go', ['mod', 'download', '-json', `github.com/spiffe/spire@v${version}`], {
    cwd: tmpdir(),
  })
  const { Dir: cwd }: { Dir?: string } = JSON.parse(stdout)
  const build = (output: string, command: string, cgo: string) =>
    run('go', ['build', '-trimpath', '-buildvcs=false', '-mod=readonly', '-ldflags=-s -w', '-o', output, command], {
      env: { ...process.env, CGO_ENABLED: cgo },
      timeout: buildTimeoutMs,
      ...(cwd === undefined ? {} : { cwd }),
    })
  if (!existsSync(agent)) await build(agent, './cmd/spire-agent', '0')
  if (!existsSync(server)) await build(server, './cmd/spire-server', '1')
  return { server, agent }
}

/** A SPIRE server and agent of one machine. */
export interface Spire {
  /** As in `SPIFFE_ENDPOINT_SOCKET`. */
  readonly socket: string
  /** Gives `spiffe://peers.test/NAME` to everything that runs from this path. */
  enrol(name: string, executable: string, hint?: string): Promise<void>
  /** Ends one of both; what it gives back starts it again. */
  interrupt(which: 'server' | 'agent'): Promise<() => Promise<void>>
  stop(): Promise<void>
}

/** Starts both; an SVID lives `lifeSeconds`. */
export async function startSpire(binaries: SpireBinaries, dir: string, lifeSeconds: number): Promise<Spire> {
  const port = await freePort()
  const serverSocket = join(dir, 'server.sock')
  const agentSocket = join(dir, 'agent.sock')
  for (const name of ['server', 'agent']) mkdirSync(join(dir, name))
  writeFileSync(join(dir, 'server.conf'), serverConfig({ dir, port, lifeSeconds }))
  writeFileSync(join(dir, 'agent.conf'), agentConfig({ dir, port }))
  const manage = (...args: string[]) => run(binaries.server, [...args, '-socketPath', serverSocket])
  const startServer = () =>
    startProgram(binaries.server, ['run', '-config', join(dir, 'server.conf')], () => manage('healthcheck'))
  const server = await startServer()
  const { stdout } = await manage('token', 'generate', '-spiffeID', `spiffe://${trustDomain}/node`)
  const token = /^Token: (\S+)$/m.exec(stdout)?.[1] ?? ''
  /** The token counts once; what the agent keeps is enough afterwards. */
  const startAgent = (...more: string[]) =>
    startProgram(binaries.agent, ['run', '-config', join(dir, 'agent.conf'), ...more], () =>
      run(binaries.agent, ['healthcheck', '-socketPath', agentSocket]),
    )
  const programs = { server, agent: await startAgent('-joinToken', token) }
  return {
    socket: `unix://${agentSocket}`,
    async enrol(name, executable, hint = '') {
      const entry = ['-parentID', `spiffe://${trustDomain}/node`, '-spiffeID', `spiffe://${trustDomain}/${name}`]
      await manage('entry', 'create', ...entry, '-selector', `unix:path:${executable}`, '-hint', hint)
    },
    async interrupt(which) {
      await programs[which].stop()
      return async () => {
        programs[which] = await { server: startServer, agent: startAgent }[which]()
      }
    },
    async stop() {
      await programs.agent.stop()
      await programs.server.stop()
    },
  }
}

/** The same program at a path of its own: SPIRE tells workloads apart by that. */
export function linkAs(program: string, path: string): string {
  linkSync(program, path)
  return path
}

function serverConfig({ dir, port, lifeSeconds }: { dir: string; port: number; lifeSeconds: number }): string {
  return `
server {
  bind_address = "127.0.0.1"
  bind_port = "${port}"
  socket_path = "${dir}/server.sock"
  trust_domain = "${trustDomain}"
  data_dir = "${dir}/server"
  log_level = "WARN"
  ca_ttl = "24h"
  default_x509_svid_ttl = "${lifeSeconds}s"
  experimental { cache_reload_interval = "500ms" }
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "${dir}/server/datastore.sqlite3"
    }
  }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { keys_path = "${dir}/server/keys.json" } }
}
`
}

function agentConfig({ dir, port }: { dir: string; port: number }): string {
  return `
agent {
  data_dir = "${dir}/agent"
  log_level = "WARN"
  trust_domain = "${trustDomain}"
  server_address = "127.0.0.1"
  server_port = ${port}
  socket_path = "${dir}/agent.sock"
  insecure_bootstrap = true
  experimental { sync_interval = "1s" }
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "${dir}/agent" } }
  WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }
}
`
}
