import type { Server, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Peer } from './resolver.ts'
import { framed } from './tcp-ask.ts'
import { read16 } from './wire.ts'

/** Ours: clients over TCP at once; the next one is closed. [RFC 7766 6.2.2] */
const connectionsMax = 64
/** Ours: questions of one connection in flight; reading stops until one is answered. */
const openQueriesMax = 16
/** Ours: a connection that says nothing is closed. [RFC 7766 6.2.3] */
export const idleMs = 10_000
/** Ours: answers a client has not taken; beyond it no further question is read until it takes them. */
const untakenMaxBytes = 256 * 1024
/** Ours: no question is longer. */
const messageMaxBytes = 4_096

/** Serves DNS over TCP: pipelined questions, answers in any order, one write each. Gives the set of open clients. */
export function serveTcp(
  server: Server,
  mayAsk: (remote: string) => boolean,
  onQuery: (message: Uint8Array, peer: Peer) => void,
): ReadonlySet<Socket> {
  const clients = new Set<Socket>()
  server.on('connection', (socket) => {
    const { remoteAddress } = socket
    if (clients.size >= connectionsMax || !remoteAddress || !mayAsk(remoteAddress)) return void socket.destroy()
    clients.add(socket)
    socket.on('close', () => clients.delete(socket))
    socket.unref()
    socket.setNoDelay(true)
    socket.setTimeout(idleMs, () => socket.destroy())
    serveStream(socket, onQuery)
  })
  return clients
}

/** Serves DNS over one connection; how long it may be idle is the caller's to say. */
export function serveStream(
  stream: Duplex & { readonly remotePort?: number | undefined },
  onQuery: (message: Uint8Array, peer: Peer) => void,
): void {
  new TcpClient(stream, onQuery)
}

class TcpClient implements Peer {
  readonly overTcp = true
  readonly port: number
  readonly #socket: Duplex
  readonly #onQuery: (message: Uint8Array, peer: Peer) => void
  #received = Buffer.alloc(0)
  #open = 0
  #ended = false
  #reading = false

  constructor(socket: Parameters<typeof serveStream>[0], onQuery: (message: Uint8Array, peer: Peer) => void) {
    this.#socket = socket
    this.#onQuery = onQuery
    this.port = socket.remotePort ?? 0
    socket.on('error', () => socket.destroy())
    socket.on('drain', () => this.#goOn())
    socket.on('data', (chunk) => {
      this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk])
      this.#read()
    })
    socket.on('end', () => {
      this.#ended = true
      this.#endWhenDone()
    })
  }

  send(message: Uint8Array): void {
    this.#open--
    if (!this.#socket.writable) return
    this.#socket.write(framed(message))
    this.#goOn()
    this.#endWhenDone()
  }

  #goOn(): void {
    if (this.#isFull()) return
    this.#socket.resume()
    this.#read()
  }

  #isFull(): boolean {
    return this.#open >= openQueriesMax || this.#socket.writableLength > untakenMaxBytes
  }

  /** Answers that are ready at once come back here through `send`: then the loop below goes on, one call deep. */
  #read(): void {
    if (this.#reading) return
    this.#reading = true
    this.#readMessages()
    this.#reading = false
    if (this.#isFull()) this.#socket.pause()
  }

  /** Takes whole messages; a length beyond the limit or below a header is a framing error. */
  #readMessages(): void {
    while (!this.#isFull() && this.#received.length >= 2) {
      const length = read16(this.#received, 0)
      if (length > messageMaxBytes || length < 12) return void this.#socket.destroy()
      if (this.#received.length < length + 2) return
      const message = Buffer.from(this.#received.subarray(2, length + 2))
      this.#received = this.#received.subarray(length + 2)
      if ((message.readUInt16BE(2) & 0x8000) !== 0) return void this.#socket.destroy()
      this.#open++
      this.#onQuery(message, this)
    }
  }

  /** A peer that closed its half still gets its answers. */
  #endWhenDone(): void {
    if (this.#ended && this.#open === 0) this.#socket.end()
  }
}
