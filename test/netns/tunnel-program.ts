import { once } from 'node:events'
import { flushCompileCache } from 'node:module'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import type { Duplex } from 'node:stream'
import { systemClock } from '../../src/base/clock.ts'
import { parseAddress, prefixOf } from '../../src/base/ip.ts'
import { createLog } from '../../src/base/log.ts'
import { type Hub, openHub } from '../../src/tunnel/hub.ts'
import { openRootlessTunnel } from '../../src/tunnel/rootless.ts'
import { configureInterface } from '../../src/tunnel/tun/host.ts'
import { openTunnel, type PeerConfig, type TunnelStats } from '../../src/tunnel/tunnels.ts'

/* One side of a tunnel as a process of its own, to be started inside a network namespace. Argument 1 is a JSON object;
 * keys are base64. Says `{"ready":...}`, then answers one line per line: `stats`, `handshake KEY`, `sink PORT` (takes one TCP
 * connection), `sunk` (what it took), `send ADDRESS PORT SECONDS`, `close`. */

interface PeerText extends Omit<PeerConfig, 'publicKey' | 'presharedKey'> {
  readonly publicKey: string
}
export interface ProgramConfig {
  readonly role: 'hub' | 'member' | 'rootless'
  readonly privateKey: string
  readonly listenPort: number
  readonly peers: readonly PeerText[]
  readonly gateways: readonly string[]
  /** Names that a hub serves at its gateways; without any it sends datagrams to port 53 back. */
  readonly names: Readonly<Record<string, readonly string[]>>
  readonly interfaceName: string
  readonly addresses: readonly string[]
  readonly routes: readonly string[]
  readonly mtuBytes: number
  readonly singlePackets: boolean
}

const config: ProgramConfig = JSON.parse(process.argv[2] ?? '{}')
const write = (value: object) => process.stdout.write(`${JSON.stringify(value)}\n`)
const fromBase64 = (text: string) => new Uint8Array(Buffer.from(text, 'base64'))
const log = createLog({
  level: 'info',
  format: 'text',
  wallMs: () => Date.now(),
  write: (line) => process.stderr.write(`${line}\n`),
})
const peers = config.peers.map((peer) => ({ ...peer, publicKey: fromBase64(peer.publicKey) }))
const common = { privateKey: fromBase64(config.privateKey), listenPort: config.listenPort }

interface Side {
  readonly listenPort: number
  stats(): Promise<TunnelStats>
  handshake(key: string): Promise<void>
  connect(to: { readonly address: string; readonly port: number }): Promise<Duplex>
  close(): Promise<void>
  readonly failed: Promise<{ readonly code: string; readonly message: string }>
}

async function startHub(): Promise<Side> {
  const isServing = Object.keys(config.names).length > 0
  let onLocalPacket = (packet: Uint8Array) => hub.sendLocal(answerPacket(packet))
  const hub = await openHub({
    ...common,
    listenAddress: '::',
    gateways: config.gateways,
    localUdpPorts: [53],
    onLocalPacket: (packet) => onLocalPacket(packet),
  })
  if (isServing) onLocalPacket = await serveNames(hub)
  for (const peer of peers) await hub.setPeer(peer)
  return { ...hub, handshake: async () => {}, connect: connectBySystem }
}

/** Loads a name server only where there are names: what a hub of nothing else takes is measured. */
async function serveNames(hub: Hub): Promise<(packet: Uint8Array) => void> {
  const [{ SiteNames }, { QueryRate }, { serveGatewayTcp }] = await Promise.all([
    import('../../src/endpoint/site-names.ts'),
    import('../../src/endpoint/query-rate.ts'),
    import('../../src/endpoint/gateway-tcp.ts'),
  ])
  const gateways = config.gateways.map(parseAddress)
  const zone = {
    dnsDomain: 'blue.nsm.internal',
    prefixes: gateways.map((address) => prefixOf(address, address.family === 4 ? 16 : 64)),
    gateways,
    addressesOf: (label: string) => config.names[label],
    labelOf: () => undefined,
  }
  const send = (packet: Uint8Array) => hub.sendLocal(packet)
  const names = new SiteNames({ zone, others: () => [], port: 1, send, clock: systemClock })
  await serveGatewayTcp(hub, { names, rate: new QueryRate(), gateways, clock: systemClock })
  return (packet) => names.take(packet)
}

async function startMember(): Promise<Side> {
  const { interfaceName, mtuBytes, addresses, routes, singlePackets } = config
  const tunnel = await openTunnel({ ...common, interfaceName, mtuBytes, peers, singlePackets })
  await configureInterface({ interfaceName, addresses, routes, mtuBytes }, log)
  const handshake = (key: string) => tunnel.handshake(fromBase64(key), AbortSignal.timeout(120_000))
  const { listenPort, failed } = tunnel
  const connect = connectBySystem
  return { listenPort, failed, stats: () => tunnel.stats(), close: () => tunnel.close(), handshake, connect }
}

async function startRootless(): Promise<Side> {
  const { mtuBytes, addresses } = config
  const tunnel = await openRootlessTunnel({ ...common, mtuBytes, peers, addresses })
  const handshake = (key: string) => tunnel.handshake(fromBase64(key), AbortSignal.timeout(120_000))
  return { ...tunnel, handshake, connect: (to) => tunnel.net.connect(to) }
}

async function connectBySystem({
  address,
  port,
}: {
  readonly address: string
  readonly port: number
}): Promise<Duplex> {
  const socket = connect(port, address)
  await once(socket, 'connect')
  return socket
}

/** Sends for so long, waits until the other end has it all, and gives the number of bytes. */
async function send(stream: Duplex, seconds: number): Promise<number> {
  const chunk = Buffer.alloc(256 * 1024)
  const endMs = performance.now() + seconds * 1_000
  let total = 0
  for (; performance.now() < endMs; total += chunk.length) {
    if (!stream.write(chunk)) await once(stream, 'drain')
  }
  stream.end()
  await once(stream.resume(), 'end')
  return total
}

let sunk: Promise<object> | undefined

/** Takes one connection; `sunk` is what it brought and in how long. */
async function sink(port: number): Promise<void> {
  const server = createServer()
  server.listen(port)
  await once(server, 'listening')
  sunk = once(server, 'connection').then(async ([socket]) => {
    const startedMs = performance.now()
    let bytes = 0
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length
    })
    await once(socket, 'end')
    server.close()
    return { bytes, seconds: (performance.now() - startedMs) / 1_000 }
  })
}

/** Sends an IPv4 UDP packet back: addresses and ports change sides, so no checksum changes. */
function answerPacket(packet: Uint8Array): Uint8Array {
  const answer = packet.slice()
  answer.set(packet.subarray(12, 16), 16)
  answer.set(packet.subarray(16, 20), 12)
  answer.set(packet.subarray(20, 22), 22)
  answer.set(packet.subarray(22, 24), 20)
  return answer
}

async function answer(side: Side, line: string): Promise<object> {
  const [command, key = '', port = '', seconds = ''] = line.split(' ')
  if (command === 'stats') return { stats: await side.stats(), rssBytes: process.memoryUsage().rss }
  if (command === 'handshake') await side.handshake(key)
  if (command === 'sink') await sink(Number(key))
  if (command === 'sunk') return { sunk: await sunk }
  if (command === 'send') {
    const stream = await side.connect({ address: key, port: Number(port) })
    return { done: command, bytes: await send(stream, Number(seconds)) }
  }
  if (command === 'close') await side.close()
  return { done: command }
}

try {
  const side = await { hub: startHub, member: startMember, rootless: startRootless }[config.role]()
  void side.failed.then((error) => write({ failed: { code: error.code, message: error.message } }))
  write({ ready: { listenPort: side.listenPort } })
  // It is killed more often than it ends, and only an end would write the cache.
  flushCompileCache()
  const lines = createInterface({ input: process.stdin })
  for await (const line of lines) {
    write(await answer(side, line))
    if (line === 'close') lines.close()
  }
  await side.close()
} catch (error) {
  const { code, message } = { code: 'BUG', message: String(error), ...(error instanceof Error ? error : {}) }
  write({ failed: { code, message: error instanceof Error ? error.message : message } })
}
