import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import dnsPacket from 'dns-packet'
import { parseAddress } from '../../src/base/ip.ts'
import type { Connection, Mechanism } from '../../src/nsm/generated/connection_pb.js'
import { wireGuardMechanism } from '../../src/nsm/wireguard-mechanism.ts'
import { buildEchoRequest, buildUdp, parseUdp } from '../../src/tunnel/ip-packet.ts'
import {
  join as addPeer,
  collect,
  createNode,
  datagramsOf,
  deviceReads,
  inner,
  type Node,
  receiveBytes,
} from '../tunnel/wireguard/wire.ts'

/* Our WireGuard engine as the client's end of a tunnel, on a UDP socket of the loopback: no TUN, no root. */

/** The client's end of one connection. */
export interface Member {
  /** What to ask for. */
  readonly preference: Mechanism
  /** Takes the endpoint of an answer as the other end. */
  use(answer: Connection): void
  /** Sends a ping; resolves with the address that answers. */
  ping(address: string): Promise<string>
  /** Asks a name server for the IPv4 addresses of a name. */
  lookUp(server: string, name: string): Promise<readonly string[]>
  /** Sends a text to port 7 and resolves with what comes back. */
  echo(address: string, text: string): Promise<string>
  close(): void
}

const loopback = '127.0.0.1'
/** [RFC 862] */
const echoPort = 7
const dnsPort = 53
/** Of the engine's timers; the answer to nothing, so no test depends on it. */
const tickMs = 100
/** The header of a TUN read in front of each packet (virtio_net_hdr). */
const deviceHeaderBytes = 10

/** Opens the socket and makes a key. */
export async function openMember(): Promise<Member> {
  const socket = createSocket('udp4')
  socket.bind(0, loopback)
  await once(socket, 'listening')
  const node = createNode('member', loopback)
  const tunnel = runTunnel(socket, node)
  let own = ''
  const datagram = (to: string, port: number, payload: Uint8Array) =>
    buildUdp({
      ...{
        source: parseAddress(own),
        sourcePort: 5_353,
        destination: parseAddress(to),
        destinationPort: port,
        payload,
      },
    })
  return {
    preference: wireGuardMechanism({
      srcIp: loopback,
      srcPort: socket.address().port,
      srcPublicKey: node.publicKey,
      mtuBytes: 1_440,
    }),
    use(answer) {
      own = answer.context?.ipContext?.srcIpAddrs[0]?.split('/')[0] ?? ''
      tunnel.use(answer)
    },
    async ping(address) {
      const answered = tunnel.next(isEchoReply)
      tunnel.send(buildEchoRequest({ source: parseAddress(own), destination: parseAddress(address) }))
      return [...(await answered).subarray(12, 16)].join('.')
    },
    async lookUp(server, name) {
      const answered = tunnel.next((packet) => parseUdp(packet)?.sourcePort === dnsPort)
      const query = dnsPacket.encode({ type: 'query', id: 1, questions: [{ name, type: 'A' }] })
      tunnel.send(datagram(server, dnsPort, query))
      const { answers = [] } = dnsPacket.decode(Buffer.from(parseUdp(await answered)?.payload ?? []))
      return answers.map((answer) => (answer.type === 'A' ? answer.data : answer.type))
    },
    async echo(address, text) {
      const answered = tunnel.next((packet) => parseUdp(packet)?.sourcePort === echoPort)
      tunnel.send(datagram(address, echoPort, Buffer.from(text)))
      return Buffer.from(parseUdp(await answered)?.payload ?? []).toString()
    },
    close() {
      tunnel.stop()
      socket.close()
    },
  }
}

const isEchoReply = (packet: Buffer) => packet[9] === 1 && packet[20] === 0

function runTunnel(socket: Socket, node: Node) {
  const waiting: { wanted: (packet: Buffer) => boolean; resolve: (packet: Buffer) => void }[] = []
  let remote = { address: loopback, port: 0 }
  const emit = (outputs: ReturnType<typeof collect>) => {
    for (const bytes of outputs.flatMap(datagramsOf)) socket.send(bytes, remote.port, remote.address)
    for (const packet of node.writes.splice(0).map(inner)) {
      const at = waiting.findIndex(({ wanted }) => wanted(packet))
      if (at >= 0) waiting.splice(at, 1)[0]?.resolve(packet)
    }
  }
  socket.on('message', (bytes, from) => {
    emit(receiveBytes(node, bytes, { address: from.address, port: from.port }, performance.now()))
  })
  const timer = setInterval(() => {
    node.engine.tick(performance.now())
    emit(collect(node, performance.now()))
  }, tickMs)
  return {
    use({ mechanism }: Connection) {
      const { dst_ip: address = '', dst_port: port = '', dst_public_key: key = '' } = mechanism?.parameters ?? {}
      remote = { address, port: Number(port) }
      const publicKey = Buffer.from(key, 'base64')
      if (node.engine.peerOf(publicKey) !== undefined) return
      addPeer(node, { publicKey, endpoint: remote, allowedPrefixes: ['0.0.0.0/0', '::/0'] })
    },
    send(packet: Uint8Array) {
      emit(deviceReads(node, [Buffer.concat([Buffer.alloc(deviceHeaderBytes), packet])], performance.now()))
    },
    next: (wanted: (packet: Buffer) => boolean) => new Promise<Buffer>((resolve) => waiting.push({ wanted, resolve })),
    stop: () => clearInterval(timer),
  }
}
