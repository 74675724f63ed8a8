import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { silentLog } from '../../src/base/log.ts'
import { openDns } from '../../src/dns/dns.ts'
import { random16 } from '../../src/dns/random-id.ts'
import { askUdp, questionBytes } from './dns-client.ts'
import { createFakeClock } from './fake-clock.ts'

/*
 * One process in a network of its own: the resolver asks a server that says nothing, 100,000 replies are forged, nearly all from
 * the server's own address and port. Then the server answers. Prints what came of it.
 */

/** Datagrams under way at a time: what the kernel's buffer holds for sure. */
const batch = 64

interface Forged {
  readonly id: number
  readonly port: number
  readonly question?: Buffer
}

async function bound(address: string): Promise<Socket> {
  const socket = createSocket('udp4')
  socket.bind(53, address)
  await once(socket, 'listening')
  return socket
}

const server = await bound('203.0.113.53')
const stranger = await bound('203.0.113.54')
const dns = await openDns({
  clock: createFakeClock(),
  log: silentLog,
  listen: [{ address: '127.0.0.1', port: 0 }],
  defaultUpstreams: [{ address: '203.0.113.53', port: 53 }],
})
const asked: Promise<[Buffer, RemoteInfo]> = new Promise((resolve) =>
  server.once('message', (message, from) => resolve([message, from])),
)
const answer = askUdp(dns.listening.port, questionBytes('bank.example'))
const [message, { port, address }] = await asked
const trueId = message.readUInt16BE(0)
const question = message.subarray(12, 12 + 'bank.example'.length + 6)
const otherName = Buffer.from(question)
otherName.write('shop', 1)

const forgeries = {
  wrongId: await flood(server, 65_535, (at) => ({ id: (trueId + 1 + at) & 0xffff, port })),
  wrongPort: await flood(server, 20_000, () => ({ id: random16(), port: otherPort() })),
  wrongSource: await flood(stranger, 10_000, () => ({ id: trueId, port })),
  otherName: await flood(server, 4_465, () => ({ id: trueId, port, question: otherName })),
}
const during = dns.status().upstreams[0]
server.send(replyOf({ id: trueId, port }, '192.0.2.1'), port, address)
const { answers } = await answer
const data = answers.map((record) => ('data' in record ? record.data : undefined))
process.stdout.write(`${JSON.stringify({ forgeries, during, after: dns.status().upstreams[0], data })}\n`)
await dns.close()
server.close()
stranger.close()

/** Sends so many and gives their number; waits for the resolver to have read them. */
async function flood(socket: Socket, count: number, make: (at: number) => Forged): Promise<number> {
  for (let at = 0; at < count; at += batch) {
    const sends = Array.from({ length: Math.min(batch, count - at) }, (_, next) => make(at + next))
    await Promise.all(sends.map((forged) => sent(socket, forged)))
    await nextTurn()
    await nextTurn()
  }
  return count
}

/** A port that nobody has is told of by the kernel, which is no matter. */
function sent(socket: Socket, forged: Forged): Promise<void> {
  return new Promise((resolve) => socket.send(replyOf(forged, '203.0.113.66'), forged.port, address, () => resolve()))
}

function replyOf({ id, question: about = question }: Forged, data: string): Buffer {
  const header = Buffer.from('000081800001000100000000', 'hex')
  header.writeUInt16BE(id)
  const record = Buffer.from('c00c00010001000000780004', 'hex')
  return Buffer.concat([header, about, record, Buffer.from(data.split('.').map(Number))])
}

function otherPort(): number {
  const other = 1_024 + (random16() % 64_512)
  return other === port ? otherPort() : other
}
