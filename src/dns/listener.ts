import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, isIPv6, type Server, type Socket as TcpSocket } from 'node:net'
import { NsmError, systemCode } from '../base/errors.ts'
import { isLoopback } from './address-kind.ts'
import { portHolder } from './port-holder.ts'
import type { Peer } from './resolver.ts'
import { serveTcp } from './tcp-clients.ts'
import { literal } from './upstream-socket.ts'

/** An address and port to listen on. */
export interface ListenAddress {
  readonly address: string
  readonly port: number
}

/** The open listener. */
export interface Listener extends ListenAddress {
  /** How many datagrams and connections came from somebody who may not ask. */
  foreignPeers(): number
  close(): Promise<void>
}

/** Takes one client's message; `message` is the receiver's from here on. */
export type OnQuery = (message: Uint8Array, peer: Peer) => void

/** Ours: room for a burst of questions while the process is busy. */
const receiveBufferBytes = 2 * 1024 * 1024
/** Ours: with port 0, how often another UDP port is drawn when its TCP twin is taken. */
const freePortTries = 8

/**
 * Binds UDP and TCP of the first candidate that is free in both, never shared. Throws `PERMISSION` when the port needs a
 * right, `CONFLICT` with the holder's name when every candidate is taken.
 */
export async function openListener(candidates: readonly ListenAddress[], onQuery: OnQuery): Promise<Listener> {
  const failures: { readonly candidate: ListenAddress; readonly code: string }[] = []
  for (const candidate of candidates) {
    const tries = candidate.port === 0 ? freePortTries : 1
    for (let i = 0; i < tries; i++) {
      const opened = await open(candidate, onQuery)
      if (typeof opened !== 'string') return opened
      failures.push({ candidate, code: opened })
    }
  }
  throw await refused(failures)
}

/** True when somebody on this machine listens on UDP there (or nobody may). */
export async function isTaken({ address, port }: ListenAddress): Promise<boolean> {
  const socket = createSocket({ type: isIPv6(address) ? 'udp6' : 'udp4', lookup: literal })
  const bound = once(socket, 'listening').then(
    () => false,
    () => true,
  )
  socket.bind({ address, port, exclusive: true })
  const taken = await bound
  socket.close()
  return taken
}

async function open(candidate: ListenAddress, onQuery: OnQuery): Promise<Listener | string> {
  const udp = createSocket({
    type: isIPv6(candidate.address) ? 'udp6' : 'udp4',
    lookup: literal,
    recvBufferSize: receiveBufferBytes,
  })
  const tcp = createServer({ allowHalfOpen: true })
  try {
    const bound = once(udp, 'listening')
    udp.bind({ address: candidate.address, port: candidate.port, exclusive: true })
    await bound
    const { port } = udp.address()
    tcp.listen({ host: candidate.address, port, exclusive: true })
    await once(tcp, 'listening')
    return listen({ address: candidate.address, port, udp, tcp }, onQuery)
  } catch (error) {
    udp.close()
    tcp.close()
    return systemCode(error) ?? String(error)
  }
}

interface Sockets extends ListenAddress {
  readonly udp: Socket
  readonly tcp: Server
}

function listen(sockets: Sockets, onQuery: OnQuery): Listener {
  const { address, port, udp, tcp } = sockets
  let foreign = 0
  const mayEnter = (remote: string) => {
    const may = mayAsk(remote, address)
    if (!may) foreign++
    return may
  }
  udp.on('message', (message, from) => {
    if (mayEnter(from.address)) onQuery(message, new UdpPeer(udp, from))
  })
  // A client is gone or its queue is full: it asks again.
  udp.on('error', () => {})
  udp.unref()
  // Out of file descriptors: the client is turned away, the resolver goes on.
  tcp.on('error', () => {})
  const clients = serveTcp(tcp, mayEnter, onQuery)
  tcp.unref()
  return { address, port, foreignPeers: () => foreign, close: () => close({ udp, tcp }, clients) }
}

async function close({ udp, tcp }: Pick<Sockets, 'udp' | 'tcp'>, clients: ReadonlySet<TcpSocket>): Promise<void> {
  const closed = Promise.all([once(udp, 'close'), once(tcp, 'close')])
  udp.close()
  tcp.close()
  for (const client of clients) client.destroy()
  await closed
}

class UdpPeer implements Peer {
  readonly overTcp = false
  readonly port: number
  readonly #address: string
  readonly #socket: Socket

  constructor(socket: Socket, from: RemoteInfo) {
    this.#socket = socket
    this.#address = from.address
    this.port = from.port
  }

  send(message: Uint8Array): void {
    this.#socket.send(message, 0, message.length, this.port, this.#address)
  }
}

/** Only this machine may ask: from a loopback address or from the very address we listen on. */
function mayAsk(remote: string, listenAddress: string): boolean {
  return remote === listenAddress || remote === '127.0.0.1' || isLoopback(remote)
}

async function refused(failures: readonly { candidate: ListenAddress; code: string }[]): Promise<NsmError> {
  const where = failures.map(({ candidate }) => `${candidate.address}:${candidate.port}`)
  const first = failures[0]
  if (failures.length > 0 && failures.every(({ code }) => code === 'EACCES')) {
    return new NsmError(
      'PERMISSION',
      `no right to listen on ${where[0]}`,
      'run it as root or with CAP_NET_BIND_SERVICE',
    )
  }
  const holder = first && (await portHolder(first.candidate.port))
  const whose = holder ? `held by ${holder}` : failures.map(({ code }) => code).join(', ')
  const message = `the resolver cannot listen on ${[...new Set(where)].join(' or ')}: ${whose}`
  return new NsmError('CONFLICT', message, holder ? `stop ${holder}` : 'free one of these addresses')
}
