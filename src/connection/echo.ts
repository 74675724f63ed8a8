import { addressBytes, type IpAddress, parseAddress } from '../base/ip.ts'
import { AF_INET, AF_INET6 } from '../tunnel/sys/address-family.ts'
import { libc } from '../tunnel/sys/libc.ts'
import { MessageHeaders } from '../tunnel/sys/message-headers.ts'
import { allocateNative } from '../tunnel/sys/native-buffer.ts'

/** Asks an endpoint for a sign of life; whether it came is seen by the tunnel's counters. */
export interface Echo {
  /** Sends one ICMP echo request and waits for nothing. */
  send(): void
  close(): void
}

/** Who asks whom, through which interface. */
export interface EchoRoute {
  readonly interfaceName: string
  readonly from: string
  readonly to: string
}

/**
 * Opens a socket that only sends: with IPPROTO_RAW the system delivers no answer to it, the tunnel has counted them
 * before. Undefined where raw sockets are not allowed.
 */
export function openEcho(route: EchoRoute): Echo | undefined {
  const [from, to] = [parseAddress(route.from), parseAddress(route.to)]
  const system = libc()
  const fd = system.socket(to.family === 4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)
  if (fd < 0) return undefined
  const device = native(Buffer.from(`${route.interfaceName}\0`))
  if (system.setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device.address, route.interfaceName.length + 1) !== 0) {
    system.close(fd)
    return undefined
  }
  const packet = native(echoPacket(from, to))
  const name = native(socketAddress(to))
  const message = new MessageHeaders(1)
  message.data(0, packet.address, packetBytes(to))
  message.name(0, name.address, to.family === 4 ? 16 : 28)
  let isOpen = true
  return {
    send() {
      if (isOpen) system.sendmmsg(fd, message.address, 1, MSG_DONTWAIT)
    },
    close() {
      if (isOpen) system.close(fd)
      isOpen = false
      // The system reads these while the socket is open.
      void [packet, name, message]
    },
  }
}

/** A whole IP packet with an ICMP or ICMPv6 echo request without data. [RFC 792] [RFC 4443 4.1] */
export function echoPacket(from: IpAddress, to: IpAddress): Uint8Array {
  const addresses = Buffer.concat([addressBytes(from), addressBytes(to)])
  const bytes = packetBytes(to)
  if (to.family === 4) {
    const head = Uint8Array.of(0x45, 0, 0, bytes, 0, 0, 0, 0, hopsMax, icmp, 0, 0)
    const echo = withChecksum(Uint8Array.of(8, 0, 0, 0, ...echoId), new Uint8Array())
    return Buffer.concat([withChecksumAt(Buffer.concat([head, addresses]), 10), echo])
  }
  const head = Uint8Array.of(0x60, 0, 0, 0, 0, echoBytes, icmp6, hopsMax)
  const pseudoHeader = Buffer.concat([addresses, Uint8Array.of(0, 0, 0, echoBytes, 0, 0, 0, icmp6)])
  return Buffer.concat([head, addresses, withChecksum(Uint8Array.of(128, 0, 0, 0, ...echoId), pseudoHeader)])
}

function packetBytes({ family }: IpAddress): number {
  return (family === 4 ? 20 : 40) + echoBytes
}

function withChecksum(echo: Uint8Array, pseudoHeader: Uint8Array): Uint8Array {
  const sum = checksum(Buffer.concat([pseudoHeader, echo]))
  return Uint8Array.of(...echo.subarray(0, 2), sum >> 8, sum & 255, ...echo.subarray(4))
}

function withChecksumAt(header: Uint8Array, at: number): Uint8Array {
  new DataView(header.buffer, header.byteOffset).setUint16(at, checksum(header))
  return header
}

/** [RFC 1071] Of an even number of bytes. */
function checksum(bytes: Uint8Array): number {
  let sum = 0
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}

function socketAddress(to: IpAddress): Uint8Array {
  const bytes = new Uint8Array(28)
  bytes[0] = to.family === 4 ? AF_INET : AF_INET6
  bytes.set(addressBytes(to), to.family === 4 ? 4 : 8)
  return bytes
}

function native(bytes: Uint8Array) {
  const buffer = allocateNative(bytes.length)
  buffer.bytes.set(bytes)
  return buffer
}

const echoBytes = 8
/** Identifier and sequence number; nobody reads them back. */
const echoId = [0x6e, 0x73, 0, 1] as const
/** [RFC 1700] */
const hopsMax = 64
const icmp = 1
const icmp6 = 58
/** [Linux include/uapi/linux/in.h] */
const IPPROTO_RAW = 255
const SOCK_RAW = 3
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_BINDTODEVICE = 25
const MSG_DONTWAIT = 0x40
