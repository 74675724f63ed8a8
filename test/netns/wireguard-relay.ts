import { createSocket, type RemoteInfo } from 'node:dgram'

/* A bad path between two WireGuard ports, as a process in a namespace: each datagram goes on twice, every second one behind its
 * successor, and every 16th again 64 datagrams later. usage: wireguard-relay.ts PORT ADDRESS:PORT ADDRESS:PORT */

const [port = '', ...ends] = process.argv.slice(2)
const [first, second] = ends.map((end) => {
  const [address = '', text = ''] = end.split(':')
  return { address, port: Number(text) }
})
/** Datagrams that are kept to be sent again. */
const keptMax = 64
/** Ours: a datagram that waits for a successor goes on without one after this long. */
const heldMaxMs = 30

interface Way {
  readonly to: { readonly address: string; readonly port: number }
  held: Uint8Array | undefined
  readonly kept: Uint8Array[]
  count: number
}

if (!first || !second) throw new Error('two ends are needed')
const socket = createSocket('udp4')
const ways = new Map<string, Way>([
  [first.address, { to: second, held: undefined, kept: [], count: 0 }],
  [second.address, { to: first, held: undefined, kept: [], count: 0 }],
])
socket.on('message', (datagram, from: RemoteInfo) => {
  const way = ways.get(from.address)
  if (way) carry(way, datagram)
})
socket.bind(Number(port), () => process.stdout.write('ready\n'))

function carry(way: Way, datagram: Uint8Array): void {
  const send = (bytes: Uint8Array) => socket.send(bytes, way.to.port, way.to.address)
  way.count++
  way.kept.push(datagram)
  const old = way.kept.length > keptMax ? way.kept.shift() : undefined
  if (old && way.count % 16 === 0) send(old)
  if (way.held) {
    for (const bytes of [datagram, way.held, datagram, way.held]) send(bytes)
    way.held = undefined
    return
  }
  way.held = datagram
  setTimeout(() => {
    if (way.held !== datagram) return
    way.held = undefined
    send(datagram)
    send(datagram)
  }, heldMaxMs)
}
