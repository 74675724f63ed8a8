import { flushCompileCache } from 'node:module'
import { createInterface } from 'node:readline'
import { systemClock } from '../../src/base/clock.ts'
import { parseAddress, prefixOf } from '../../src/base/ip.ts'
import { createLog } from '../../src/base/log.ts'
import { serveGatewayTcp } from '../../src/endpoint/gateway-tcp.ts'
import { QueryRate } from '../../src/endpoint/query-rate.ts'
import { SiteNames } from '../../src/endpoint/site-names.ts'
import { openHub } from '../../src/tunnel/hub.ts'
import { configureInterface } from '../../src/tunnel/tun/host.ts'
import { openTunnel, type PeerConfig, type TunnelStats } from '../../src/tunnel/tunnels.ts'

/* One side of a tunnel as a process of its own, to be started inside a network namespace. Argument 1 is a JSON object;
 * keys are base64. Says `{"ready":...}`, then answers one line per line: `stats`, `handshake KEY`, `close`. */

interface PeerText extends Omit<PeerConfig, 'publicKey' | 'presharedKey'> {
  readonly publicKey: string
}
export interface ProgramConfig {
  readonly role: 'hub' | 'member'
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
  close(): Promise<void>
  readonly failed: Promise<{ readonly code: string; readonly message: string }>
}

async function startHub(): Promise<Side> {
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
  const isServing = Object.keys(config.names).length > 0
  const hub = await openHub({
    ...common,
    listenAddress: '::',
    gateways: config.gateways,
    localUdpPorts: [53],
    onLocalPacket: (packet) => (isServing ? names.take(packet) : hub.sendLocal(answerPacket(packet))),
  })
  if (isServing) await serveGatewayTcp(hub, { names, rate: new QueryRate(), gateways, clock: systemClock })
  for (const peer of peers) await hub.setPeer(peer)
  return { ...hub, handshake: async () => {} }
}

async function startMember(): Promise<Side> {
  const { interfaceName, mtuBytes, addresses, routes, singlePackets } = config
  const tunnel = await openTunnel({ ...common, interfaceName, mtuBytes, peers, singlePackets })
  await configureInterface({ interfaceName, addresses, routes, mtuBytes }, log)
  const handshake = (key: string) => tunnel.handshake(fromBase64(key), AbortSignal.timeout(10_000))
  const { listenPort, failed } = tunnel
  return { listenPort, failed, stats: () => tunnel.stats(), close: () => tunnel.close(), handshake }
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
  const [command, key = ''] = line.split(' ')
  if (command === 'stats') return { stats: await side.stats(), rssBytes: process.memoryUsage().rss }
  if (command === 'handshake') await side.handshake(key)
  if (command === 'close') await side.close()
  return { done: command }
}

try {
  const side = await (config.role === 'hub' ? startHub() : startMember())
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
