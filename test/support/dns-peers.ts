import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { questionBytes } from './dns-client.ts'
import { freePort } from './free-port.ts'
import { killed } from './local-process.ts'

/** A server on 127.0.0.1. */
export interface LocalServer {
  readonly port: number
}

/** Another resolver that runs as a process of its own. */
export interface PeerResolver extends LocalServer {
  stop(): Promise<void>
}

/** A name that both upstreams of a peer must know. */
export const readyName = 'ready.case.test'

/** Resolvers of others that are asked the same questions. */
export type PeerName = 'dnsmasq' | 'unbound'

const starters: Readonly<Record<PeerName, (part: Start) => Promise<readonly string[]>>> = { dnsmasq, unbound }

interface Start {
  readonly dir: string
  readonly port: number
  readonly upstreams: readonly LocalServer[]
}

/** What the program says of its version; '' when it is not on this machine. */
export function versionText(name: PeerName): string {
  try {
    return execFileSync(name, [name === 'unbound' ? '-V' : '--version'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
  } catch {
    return ''
  }
}

/** Starts a resolver that forwards everything to both upstreams, and waits until it answers. */
export async function startPeer(name: PeerName, upstreams: readonly LocalServer[]): Promise<PeerResolver> {
  const dir = await mkdtemp(join(tmpdir(), `nsm-peer-${name}-`))
  const port = await freePort()
  const args = await starters[name]({ dir, port, upstreams })
  const child = spawn(name, args, { stdio: 'ignore' })
  await answers(port, child)
  return {
    port,
    async stop() {
      await killed(child)
      await rm(dir, { recursive: true, force: true })
    },
  }
}

async function dnsmasq({ port, upstreams }: Start): Promise<readonly string[]> {
  const quiet = [
    '--keep-in-foreground',
    '--conf-file=/dev/null',
    '--pid-file=',
    '--no-resolv',
    '--no-hosts',
    '--user=root',
  ]
  const listen = [`--port=${port}`, '--listen-address=127.0.0.1', '--bind-interfaces']
  return [...quiet, ...listen, '--all-servers', ...upstreams.map((upstream) => `--server=127.0.0.1#${upstream.port}`)]
}

async function unbound({ dir, port, upstreams }: Start): Promise<readonly string[]> {
  const conf = [
    'server:',
    '  interface: 127.0.0.1',
    `  port: ${port}`,
    '  access-control: 127.0.0.0/8 allow',
    '  do-not-query-localhost: no',
    '  do-daemonize: no',
    '  use-syslog: no',
    '  username: ""',
    '  chroot: ""',
    `  directory: "${dir}"`,
    `  pidfile: "${dir}/pid"`,
    '  module-config: "iterator"',
    '  qname-minimisation: no',
    '  local-zone: "test." nodefault',
    'remote-control:',
    '  control-enable: no',
    'forward-zone:',
    '  name: "."',
    ...upstreams.map((upstream) => `  forward-addr: 127.0.0.1@${upstream.port}`),
  ]
  await writeFile(join(dir, 'unbound.conf'), `${conf.join('\n')}\n`)
  return ['-d', '-c', join(dir, 'unbound.conf')]
}

/** Asks for a name that the upstreams know, until there is a reply. */
async function answers(port: number, child: ChildProcess): Promise<void> {
  const socket = createSocket('udp4')
  // While nobody listens yet, the system says so.
  socket.on('error', () => {})
  const answered = new Promise<true>((resolve) => socket.once('message', () => resolve(true)))
  socket.connect(port, '127.0.0.1')
  await once(socket, 'connect')
  try {
    do {
      if (child.exitCode !== null) throw new TypeError(`${child.spawnfile} ended before it answered`)
      socket.send(questionBytes(readyName))
    } while (!(await Promise.race([answered, pause(100, false)])))
  } finally {
    socket.close()
  }
}
