import { generateKeyPairSync } from 'node:crypto'
import { access, mkdir } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { join, resolve } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { execute, type Machine } from '../demo/lab.ts'
import { need } from './joined-lab.ts'

const cacheDir = resolve(import.meta.dirname, '../../node_modules/.cache/nsm-bench')
/** Ours: the first build downloads and compiles. */
const buildTimeoutMs = 180_000
/** [WG 5.4] A key is 32 bytes; in DER it is the tail of both encodings. */
const keyBytes = 32

/** A built wireguard-go and its version, or why there is none. */
export type WireguardGo = { readonly program: string; readonly version: string } | { readonly missing: string }

/** Builds the newest wireguard-go with the Go toolchain of the machine, once. */
export async function buildWireguardGo(): Promise<WireguardGo> {
  await mkdir(cacheDir, { recursive: true })
  const program = join(cacheDir, 'wireguard')
  const environment = { ...process.env, GOBIN: cacheDir }
  const built = await execute('go', ['install', 'golang.zx2c4.com/wireguard@latest'], {
    timeoutMs: buildTimeoutMs,
    environment,
  })
  const found = await access(program).then(
    () => true,
    () => false,
  )
  if (!found)
    return { missing: `wireguard-go could not be built (apt-get install golang): ${built.err.trim().slice(0, 200)}` }
  const facts = await execute('go', ['version', '-m', program])
  return { program, version: /mod\s+\S+\s+(\S+)/.exec(facts.out)?.[1] ?? 'unknown' }
}

/** A point-to-point wireguard-go tunnel between two machines; `addresses` are inside it. */
export interface PeerTunnel {
  readonly addresses: readonly [string, string]
  readonly pids: readonly number[]
  close(): void
}

/** Starts wireguard-go on both machines with the defaults of its own interface, MTU 1420. */
export async function openPeerTunnel(program: string, machines: readonly [Machine, Machine]): Promise<PeerTunnel> {
  const names = [`wgb${process.pid % 100_000}a`, `wgb${process.pid % 100_000}b`] as const
  const keys = [keyPair(), keyPair()] as const
  const addresses = ['198.51.100.1', '198.51.100.2'] as const
  const children = machines.map((machine, index) => machine.start(program, ['-f', names[index] ?? '']))
  await Promise.all(names.map(waitForSocket))
  for (const own of [0, 1] as const) {
    const other = own === 0 ? 1 : 0
    await configure(names[own], [
      `private_key=${keys[own].privateHex}`,
      'listen_port=51900',
      `public_key=${keys[other].publicHex}`,
      `endpoint=${machines[other].address}:51900`,
      `allowed_ip=${addresses[other]}/32`,
    ])
    need(await machines[own].run('ip', ['addr', 'add', `${addresses[own]}/30`, 'dev', names[own]]))
    need(await machines[own].run('ip', ['link', 'set', names[own], 'mtu', '1420', 'up']))
  }
  return {
    addresses,
    pids: children.flatMap(({ pid }) => pid ?? []),
    close() {
      for (const child of children) child.kill()
    },
  }
}

function keyPair(): { readonly privateHex: string; readonly publicHex: string } {
  const { privateKey, publicKey } = generateKeyPairSync('x25519')
  const tail = (der: Buffer) => der.subarray(-keyBytes).toString('hex')
  return {
    privateHex: tail(privateKey.export({ format: 'der', type: 'pkcs8' })),
    publicHex: tail(publicKey.export({ format: 'der', type: 'spki' })),
  }
}

const socketPath = (name: string) => `/var/run/wireguard/${name}.sock`
/** Ours: tries of 50 ms for the control socket. */
const socketTries = 100

async function waitForSocket(name: string): Promise<void> {
  for (let tries = 0; tries < socketTries; tries++) {
    const found = await access(socketPath(name)).then(
      () => true,
      () => false,
    )
    if (found) return
    await new Promise((settle) => setTimeout(settle, 50))
  }
  throw new NsmError('NOT_READY', `wireguard-go made no socket for ${name}`, '')
}

/** Speaks the cross-platform configuration protocol of WireGuard: `set=1`, lines, an empty line. */
function configure(name: string, lines: readonly string[]): Promise<void> {
  return new Promise((settle, reject) => {
    const socket = createConnection(socketPath(name))
    let answer = ''
    socket.on('error', reject)
    socket.on('data', (part) => {
      answer += part
      if (!answer.includes('\n\n')) return
      socket.end()
      if (answer.includes('errno=0')) settle()
      else reject(new NsmError('BUG', `wireguard-go refused its settings: ${answer.trim()}`, ''))
    })
    socket.write(`set=1\n${lines.join('\n')}\n\n`)
  })
}
