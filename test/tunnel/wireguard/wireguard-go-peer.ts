/* Runs inside a network namespace beside wireguard-go and is its only peer: the engine as a hub on a UDP socket.
 * usage: wireguard-go-peer.ts UAPI_SOCKET initiator|responder psk|plain ; prints one line of JSON. */
import { randomBytes } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import {
  createEngine,
  descriptorWords,
  generatePrivateKey,
  loadEngineModule,
  publicKeyOf,
  type WireGuardEngine,
} from '../../../src/tunnel/wireguard/engine.ts'
import { testedWideCipher } from '../../../src/tunnel/wireguard/self-test.ts'
import { readSockaddr, writeSockaddr } from '../../../src/tunnel/wireguard/sockaddr.ts'
import { udpPacket } from './packets.ts'

const [uapiPath = '', role = '', secret = ''] = process.argv.slice(2)
const addresses = { tun: '10.77.0.1', gateway: '10.77.0.2' } as const
/** Of both ends. */
const mtuBytes = 1_420
const ports = { wireguardGo: 51_820, engine: 51_999, echo: 53 } as const
/** Bytes of the last datagram from wireguard-go, and how many of ours with the same inner bytes had as many. */
const datagrams = { theirs: 0, equal: 0 }
const payloadSizes = Array.from({ length: 400 }, (_, i) => (i * 37) % 1_393)

process.stdout.write(`${JSON.stringify(await main())}\n`)
process.exit(0)

async function main() {
  const keys = [generatePrivateKey(), generatePrivateKey()] as const
  const presharedKey = secret === 'psk' ? randomBytes(32) : undefined
  await configure(keys[0], publicKeyOf(keys[1]), presharedKey)
  const module = await loadEngineModule()
  const engine = createEngine(module, {
    kind: 'hub',
    privateKey: keys[1],
    mtuBytes,
    wideCipher: testedWideCipher(module),
  })
  engine.setGateways([addresses.gateway], [ports.echo])
  engine.addPeer({
    publicKey: publicKeyOf(keys[0]),
    keepaliveSeconds: 0,
    allowedPrefixes: [addresses.tun],
    ...(presharedKey ? { presharedKey } : {}),
    ...(role === 'initiator' ? { endpoint: { address: '127.0.0.1', port: ports.wireguardGo } } : {}),
  })
  const socket = await bound(ports.engine, '127.0.0.1')
  socket.on('message', (datagram, from) => {
    place(engine, datagram, from)
    datagrams.theirs = datagram.length
    engine.fromNetwork(1, performance.now())
    serve(engine, socket)
  })
  setInterval(() => {
    engine.tick(performance.now())
    serve(engine, socket)
  }, 100)
  if (role === 'initiator') {
    engine.tick(performance.now())
    engine.handshake(0, performance.now())
    serve(engine, socket)
    // A packet sent before the session exists would make wireguard-go start a handshake of its own.
    while (engine.counters()['handshakesCompleted'] === 0) await once(socket, 'message')
  }
  const echoed = await countEchoes()
  return {
    echoed,
    equal: datagrams.equal,
    sent: payloadSizes.length,
    handshakes: engine.counters()['handshakesCompleted'],
  }
}

/** Sets wireguard-go up through its control socket. */
async function configure(privateKey: Uint8Array, peer: Uint8Array, presharedKey: Uint8Array | undefined) {
  const hex = (key: Uint8Array) => Buffer.from(key).toString('hex')
  const lines = [
    'set=1',
    `private_key=${hex(privateKey)}`,
    `listen_port=${ports.wireguardGo}`,
    'replace_peers=true',
    `public_key=${hex(peer)}`,
    ...(presharedKey ? [`preshared_key=${hex(presharedKey)}`] : []),
    `endpoint=127.0.0.1:${ports.engine}`,
    `allowed_ip=${addresses.gateway}/32`,
  ]
  const control = connect(uapiPath)
  control.write(`${lines.join('\n')}\n\n`)
  const [answer] = await once(control, 'data')
  control.end()
  if (!String(answer).includes('errno=0')) throw new Error(`wireguard-go refused: ${String(answer)}`)
}

async function bound(port: number, address: string): Promise<Socket> {
  const socket = createSocket('udp4')
  socket.bind(port, address)
  await once(socket, 'listening')
  return socket
}

function place(
  engine: WireGuardEngine,
  datagram: Uint8Array,
  from: { readonly address: string; readonly port: number },
) {
  const at = engine.received.offset / 4
  engine.u8.set(datagram, engine.u32[at])
  engine.u32[at + 1] = datagram.length
  engine.u32[at + 2] = 0
  writeSockaddr(engine.u8.subarray(at * 4 + 16, at * 4 + 48), from)
}

/** Sends what the engine wants sent and answers what it hands over with the same payload. */
function serve(engine: WireGuardEngine, socket: Socket): void {
  send(engine, socket)
  const locals = Array.from({ length: engine.result.locals }, (_, i) => {
    const at = engine.locals.offset / 4 + i * descriptorWords
    const [offset = 0, bytes = 0] = engine.u32.subarray(at, at + 2)
    return Buffer.from(engine.u8.slice(offset, offset + bytes))
  })
  for (const packet of locals) {
    const payload = packet.subarray(28)
    const plan = { from: addresses.gateway, to: addresses.tun, fromPort: ports.echo, toPort: packet.readUInt16BE(20) }
    engine.fromLocal(udpPacket({ ...plan, payload }), performance.now())
    if (engine.u32[engine.sends.offset / 4 + 1] === datagrams.theirs) datagrams.equal++
    send(engine, socket)
  }
}

function send(engine: WireGuardEngine, socket: Socket): void {
  for (let i = 0; i < engine.result.sends; i++) {
    const at = engine.sends.offset / 4 + i * descriptorWords
    const [offset = 0, bytes = 0, segment = 0] = engine.u32.subarray(at, at + 3)
    const to = readSockaddr(engine.u8.subarray(at * 4 + 16, at * 4 + 48))
    const stride = segment === 0 ? bytes : segment
    for (let from = offset; to && from < offset + bytes; from += stride) {
      const end = Math.min(from + stride, offset + bytes)
      socket.send(Buffer.from(engine.u8.slice(from, end)), to.port, to.address)
    }
  }
}

/** Sends each payload through wireguard-go's device until it comes back; gives how many did at the first try. */
async function countEchoes(): Promise<number> {
  const client = await bound(0, addresses.tun)
  let echoed = 0
  for (const size of payloadSizes) {
    const payload = randomBytes(size)
    const answer = once(client, 'message')
    client.send(payload, ports.echo, addresses.gateway)
    const first = await Promise.race([answer, delay(60_000)])
    if (first && payload.equals(first[0])) echoed++
  }
  return echoed
}
