import { addressBytes, addressFromBytes, formatAddress, parseAddress } from '../../base/ip.ts'
import { controlAt, type EngineParts } from './engine-layout.ts'
import { readSockaddr, type SocketAddress } from './sockaddr.ts'

/** What a socket can do more than before, or what became of it; the same bits in wasm/engine/src/stack_entry.rs. */
export const socketNews = {
  connected: 1,
  readable: 2,
  writable: 4,
  /** The other end sends no more, and all it sent was read. */
  ended: 8,
  reset: 16,
  /** The other end does not answer. */
  lost: 32,
  accepted: 64,
  closed: 128,
} as const

/** News of one socket. */
export interface SocketEvent {
  readonly socket: number
  /** Bits of `socketNews`. */
  readonly news: number
  /** Own port of a connection that a peer opened. */
  readonly port: number
  /** The other end of a connection. */
  readonly remote: SocketAddress | undefined
}

/** A datagram, or the echo message of a reply. */
export interface Datagram {
  readonly address: string
  readonly port: number
  readonly bytes: Uint8Array
}

/** Ours: what one call takes over; more is left for the next. */
export const stackBytesMax = 64 * 1024

/** Sockets of the TCP/IP stack behind the device's own addresses. Outputs are those of the calls that move packets. */
export type EngineStack = ReturnType<typeof createStack>

/** The engine's calls for sockets; `moved` reads what a call produced. */
export function createStack(
  { exports, layout, u8, u32 }: EngineParts,
  moment: (nowMs: number) => number,
  moved: () => void,
) {
  const bytesAt = layout.control + controlAt.stackBytes
  const target = (address: string, port: number) => {
    const parsed = parseAddress(address)
    const record = u8.subarray(layout.control, layout.control + controlAt.stackBytes)
    record.fill(0)
    record.set([parsed.family, parsed.family === 4 ? 32 : 128, 0, 0, ...addressBytes(parsed)])
    record.set([port & 0xff, port >> 8], controlAt.stackPort)
  }
  const then = <Result>(result: Result): Result => {
    moved()
    return result
  }
  const idOf = (result: number) => (result < 0 ? undefined : result)
  let eventsAt = 0
  return {
    /** Takes connections to a port of the own addresses, or no more; those that are there stay. */
    listenTcp: (port: number, listens: boolean) => exports.stack_listen(port, Number(listens)),
    /** The new connection; undefined without room, or without an own address of the family. */
    connectTcp(to: SocketAddress, nowMs: number) {
      target(to.address, to.port)
      return idOf(then(exports.stack_connect(moment(nowMs))))
    },
    /** A socket for datagrams; undefined without room or when the port is taken. */
    openUdp: (port: number) => idOf(exports.stack_udp(port)),
    /** A socket for echo requests; undefined without room. */
    openEcho: () => idOf(exports.stack_echo()),
    /** Own port of a socket for datagrams, identifier of one for echo requests. */
    socketPort: (socket: number) => exports.stack_port(socket),
    /** How many of the bytes the connection took; undefined when it takes no more at all. */
    sendTcp(socket: number, bytes: Uint8Array, nowMs: number) {
      const part = bytes.subarray(0, stackBytesMax)
      u8.set(part, bytesAt)
      return idOf(then(exports.stack_send(socket, part.length, moment(nowMs))))
    },
    /** A copy of what came, `most` bytes at most; empty when nothing waits. */
    receiveTcp(socket: number, most: number, nowMs: number) {
      const bytes = then(exports.stack_receive(socket, Math.min(most, stackBytesMax), moment(nowMs)))
      return u8.slice(bytesAt, bytesAt + bytes)
    },
    /** False without an own address of the family or room for the datagram in the socket's buffer. An echo request's port is its number. */
    sendTo(socket: number, { address, port, bytes }: Datagram, nowMs: number) {
      if (bytes.length > stackBytesMax) return false
      target(address, port)
      u8.set(bytes, bytesAt)
      return then(exports.stack_send_to(socket, bytes.length, moment(nowMs))) === 0
    },
    /** The oldest datagram that waits. */
    receiveFrom(socket: number): (Datagram & { readonly bytes: Uint8Array<ArrayBuffer> }) | undefined {
      const bytes = exports.stack_receive_from(socket)
      if (bytes < 0) return undefined
      const record = u8.subarray(layout.control, layout.control + controlAt.stackBytes)
      const address = formatAddress(addressFromBytes(record.subarray(4, record[0] === 4 ? 8 : 20)))
      const port = (record[controlAt.stackPort] ?? 0) | ((record[controlAt.stackPort + 1] ?? 0) << 8)
      return { address, port, bytes: u8.slice(bytesAt, bytesAt + bytes) }
    },
    /** Sends no more on a connection. */
    endTcp: (socket: number, nowMs: number) => then(exports.stack_end(socket, moment(nowMs))),
    /** Gives a socket back: what a connection was given still arrives, unless it is broken off. */
    release: (socket: number, breaks: boolean, nowMs: number) =>
      then(exports.stack_release(socket, Number(breaks), moment(nowMs))),
    /** Copies the first `count` events. */
    socketEvents(count: number): SocketEvent[] {
      eventsAt ||= exports.stack_events()
      return Array.from({ length: count }, (_, i) => {
        const at = eventsAt / 4 + i * 16
        const remote = readSockaddr(u8.subarray(at * 4 + 16, at * 4 + 48))
        return { socket: u32[at] ?? 0, news: u32[at + 1] ?? 0, port: u32[at + 2] ?? 0, remote }
      })
    },
  }
}
