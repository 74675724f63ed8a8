import { addressBytes, addressFromBytes, formatAddress, parseAddress } from '../../base/ip.ts'

/** Linux values; hosts with other ones translate at their sockets. */
const addressFamily = { 4: 2, 6: 10 } as const
/** Bytes of sockaddr_in and sockaddr_in6. */
const sockaddrBytes = { 4: 16, 6: 28 } as const
/** Where the address lies: behind family and port, for IPv6 also behind the flow label. */
const addressAt = { 4: 4, 6: 8 } as const

/** Address and port of a UDP socket. */
export interface SocketAddress {
  readonly address: string
  readonly port: number
}

/**
 * Writes a Linux sockaddr with its length in front (the words from 4 on of a descriptor).
 *
 * @param target  at least 32 bytes; all are written
 */
export function writeSockaddr(target: Uint8Array, from: SocketAddress): void {
  const parsed = parseAddress(from.address)
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength)
  target.fill(0)
  view.setUint32(0, sockaddrBytes[parsed.family], true)
  view.setUint16(4, addressFamily[parsed.family], true)
  view.setUint16(6, from.port)
  target.set(addressBytes(parsed), 4 + addressAt[parsed.family])
}

/** Reads what `writeSockaddr` wrote; undefined when the length is none of a sockaddr. */
export function readSockaddr(source: Uint8Array): SocketAddress | undefined {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength)
  const length = view.getUint32(0, true)
  if (length !== sockaddrBytes[4] && length !== sockaddrBytes[6]) return undefined
  const family = length === sockaddrBytes[4] ? 4 : 6
  const start = 4 + addressAt[family]
  const address = formatAddress(addressFromBytes(source.subarray(start, start + (family === 4 ? 4 : 16))))
  return { address, port: view.getUint16(6) }
}
