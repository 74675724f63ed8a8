import { createSocket, type Socket } from 'node:dgram'
import { isIPv6 } from 'node:net'
import { addressText } from '../base/address-text.ts'
import { random16 } from './random-id.ts'
import { read16, write16 } from './wire.ts'

/** Where an upstream is, and the address to speak from (the tunnel's own), so that a query never leaves another way. */
export interface UpstreamAddress {
  readonly address: string
  readonly port: number
  readonly localAddress?: string
}

/** An upstream for people: `address`, or `address:port` when it is not port 53. */
export function targetText(target: Pick<UpstreamAddress, 'address' | 'port'>): string {
  return target.port === 53 ? target.address : addressText(target)
}

/** One sent query that may still be answered. */
export interface Sent<W> {
  readonly waiter: W
  readonly message: Uint8Array
  readonly sentAtMs: number
  /** True once its silence was counted. */
  counted: boolean
}

/** What a socket reports; both are called from the event loop, never from inside a send. */
export interface SocketEvents<W> {
  /** True when the message was taken: then its id is free again. */
  onMessage(message: Buffer, sent: Sent<W>): boolean
  /** The network said that nobody is there: for these queries. */
  onUnreachable(waiters: readonly W[]): void
}

/** One connected UDP socket: the kernel lets only datagrams of the asked address and port through. */
export class UpstreamSocket<W> {
  readonly pending = new Map<number, Sent<W>>()
  readonly openedAtMs: number
  sends = 0
  /** True when the socket could not be bound or connected. */
  broken = false
  readonly #socket: Socket
  readonly #events: SocketEvents<W>

  constructor(target: UpstreamAddress, events: SocketEvents<W>, nowMs: number) {
    this.openedAtMs = nowMs
    this.#events = events
    const type = isIPv6(target.address) ? 'udp6' : 'udp4'
    this.#socket = createSocket({ type, lookup: literal, recvBufferSize: receiveBufferBytes })
    this.#socket.on('message', (message) => this.#onMessage(message))
    this.#socket.on('error', () => this.#onError())
    this.#open(target)
  }

  /** Sends one message under a fresh random id; false when the socket is of no use. */
  send(message: Buffer, waiter: W, nowMs: number): boolean {
    if (this.broken) return false
    let id = random16()
    while (this.pending.has(id)) id = random16()
    write16(message, 0, id)
    this.pending.set(id, { waiter, message, sentAtMs: nowMs, counted: false })
    this.sends++
    this.#socket.send(message, this.#onSent)
    return true
  }

  /** Closes the socket; late replies are lost. */
  close(): void {
    this.pending.clear()
    this.broken = true
    this.#socket.close()
  }

  #open(target: UpstreamAddress): void {
    try {
      this.#socket.bind({ port: 0, exclusive: true, ...(target.localAddress ? { address: target.localAddress } : {}) })
      if (this.broken) return
      this.#socket.connect(target.port, target.address)
      this.#socket.remoteAddress()
      this.#socket.unref()
    } catch {
      this.broken = true
    }
  }

  #onMessage(message: Buffer): void {
    const id = read16(message, 0)
    const sent = this.pending.get(id)
    if (sent !== undefined && this.#events.onMessage(message, sent)) this.pending.delete(id)
  }

  /** Without a callback Node is silent about a message that could not be sent: no route, or the own address is gone. */
  readonly #onSent = (error: Error | null): void => {
    if (error && !this.broken) this.#onError()
  }

  /** A connected socket reports ICMP errors; it stays good for the next query. */
  #onError(): void {
    this.broken = this.sends === 0
    const waiters = [...this.pending.values()].map((sent) => sent.waiter)
    this.pending.clear()
    if (waiters.length > 0) this.#events.onUnreachable(waiters)
  }
}

/** Ours: room for a burst of replies while the process is busy. */
const receiveBufferBytes = 1024 * 1024

/** Answers with the literal at once; the default goes through the system's resolver for every datagram. */
export function literal(
  address: string,
  _options: unknown,
  callback: (error: NodeJS.ErrnoException | null, address: string, family: number) => void,
): void {
  callback(null, address, address.includes(':') ? 6 : 4)
}
