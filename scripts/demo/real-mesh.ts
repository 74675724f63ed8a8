import { copyFileSync, linkSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { buildGoPeers } from '../../test/interop/go-peers.ts'
import { startGo } from '../../test/interop/go-process.ts'
import { builtSpire, type SpireBinaries, startSpire } from '../../test/interop/spire.ts'
import { freePort } from '../../test/support/free-port.ts'
import { nsmExecutable } from '../nsm-program.ts'

/* usage: real-mesh.ts DIR: starts NSM's own programs on the loopback of the network namespace it runs in, each with an
 * identity of a SPIFFE agent. Prints one line of JSON once a client can come, and ends all of them on SIGTERM. Sockets and
 * state are in DIR, which the caller removes. */

/** What a client must know of the mesh; the line that is printed. */
export interface RealMesh {
  /** Who gives identities. */
  readonly agent: string
  /** Its socket for the client, as in `SPIFFE_ENDPOINT_SOCKET`. */
  readonly socket: string
  /** `tcp://host:port` of the manager. */
  readonly manager: string
  /** The programs that run, with the address of each. */
  readonly programs: readonly string[]
}

/** Gives each program the socket at which its identity is to be had, and the path it must be started from. */
interface Identities {
  readonly agent: string
  prepare(role: string): Promise<{ readonly path: string; readonly socket: string }>
  readonly clientSocket: string
}

/** Ours: a refresh is due after about a seventh of it, so that one can be watched; NSM's programs use 10 minutes. */
const tokenLifetime = '60s'
const lifeSeconds = 3_600
const roles = ['registry', 'nsmgr', 'forwarder', 'icmp', 'vl3']

const closers: (() => unknown)[] = []
const stopped = new Promise((settle) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, settle)
})
try {
  const mesh = await startMesh()
  process.stdout.write(`${JSON.stringify(mesh)}\n`)
  await stopped
} catch (error) {
  process.stderr.write(`${error}\n`)
  process.exitCode = 1
} finally {
  for (const close of closers.reverse()) await close()
}
process.exit()

async function startMesh(): Promise<RealMesh> {
  const peers = await buildGoPeers()
  if (peers.path === undefined) throw new NsmError('NOT_READY', peers.why, 'install Go 1.24 or newer')
  const [, , dir] = process.argv
  if (dir === undefined) throw new NsmError('USAGE', 'no folder was named', 'real-mesh.ts DIR')
  await mkdir(dir, { recursive: true })
  /** The small agent can be asked for, as it is what a machine without SPIRE shows. */
  const spire = process.env['NSM_DEMO_SPIRE'] === '0' ? undefined : builtSpire()
  const identities = spire ? await withSpire(spire, peers.path, dir) : await withSmallAgent(peers.path, dir)
  const programs: string[] = []
  const serve = async (role: string, flags: Readonly<Record<string, string | number>> = {}) => {
    const { path, socket } = await identities.prepare(role)
    const url = `tcp://127.0.0.1:${await freePort()}`
    const all = { listen: url, 'token-lifetime': tokenLifetime, ...flags }
    const { stop } = await startGo({ path, role, socket, flags: all })
    closers.push(stop)
    programs.push(`${role} ${url}`)
    return url
  }
  const registry = await serve('registry')
  const manager = await serve('nsmgr', { registry })
  await serve('forwarder', { manager })
  await serve('icmp', { register: manager, 'wireguard-port': await freePort() })
  await serve('vl3', { register: manager, 'wireguard-port': await freePort() })
  return { agent: identities.agent, socket: identities.clientSocket, manager, programs }
}

/** SPIRE tells workloads apart by the program they run, so each role gets a path of its own; our client is Node, or the one file. */
async function withSpire(binaries: SpireBinaries, peersPath: string, dir: string): Promise<Identities> {
  const spire = await startSpire(binaries, dir, lifeSeconds)
  closers.push(() => spire.stop())
  await spire.enrol('laptop', nsmExecutable)
  return {
    agent: 'SPIRE server and agent 1.13.3',
    clientSocket: spire.socket,
    async prepare(role) {
      const path = ownPath(peersPath, join(dir, `nsm-${role}`))
      await spire.enrol(role, path)
      return { path, socket: spire.socket }
    },
  }
}

async function withSmallAgent(peersPath: string, dir: string): Promise<Identities> {
  const path = ownPath(peersPath, join(dir, 'nsm-peers'))
  const names = [...roles, 'laptop'].join(',')
  const { stop } = await startGo({ path, role: 'workloadapi', flags: { dir, life: `${lifeSeconds}s`, names } })
  closers.push(stop)
  const socketOf = (name: string) => `unix://${join(dir, `${name}.sock`)}`
  return {
    agent: 'a small Workload API of the tests (SPIRE counts once `npm run test:spire` has built it)',
    clientSocket: socketOf('laptop'),
    prepare: async (role) => ({ path, socket: socketOf(role) }),
  }
}

/** The same program at another path; a copy where the folder lies on another disk. */
function ownPath(program: string, path: string): string {
  try {
    linkSync(program, path)
  } catch {
    copyFileSync(program, path)
  }
  return path
}
