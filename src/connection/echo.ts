import { parseAddress } from '../base/ip.ts'
import { buildEchoRequest } from '../tunnel/ip-packet.ts'
import { libc } from '../tunnel/sys/libc.ts'
import { MessageHeaders } from '../tunnel/sys/message-headers.ts'
import { allocateNative } from '../tunnel/sys/native-buffer.ts'
import { MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, systemFamily } from '../tunnel/sys/socket-numbers.ts'
import { writeSockaddr } from '../tunnel/wireguard/sockaddr.ts'

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
  const fd = system.socket(systemFamily(to.family), SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)
  if (fd < 0) return undefined
  const device = native(Buffer.from(`${route.interfaceName}\0`))
  if (system.setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device.address, route.interfaceName.length + 1) !== 0) {
    system.close(fd)
    return undefined
  }
  const request = buildEchoRequest({ source: from, destination: to }, echoId)
  const packet = native(request)
  const name = allocateNative(32)
  writeSockaddr(name.bytes, { address: route.to, port: 0 })
  const message = new MessageHeaders(1)
  let isOpen = true
  return {
    send() {
      if (!isOpen) return
      // Said anew each time: so the memory they point to stays as long as this can be called.
      message.data(0, packet.address, request.length)
      message.name(0, name.address + 4, name.view.getUint32(0, true))
      system.sendmmsg(fd, message.address, 1, MSG_DONTWAIT)
    },
    close() {
      if (isOpen) system.close(fd)
      isOpen = false
    },
  }
}

function native(bytes: Uint8Array) {
  const buffer = allocateNative(bytes.length)
  buffer.bytes.set(bytes)
  return buffer
}

/** Identifier and sequence number; nobody reads them back. */
const echoId = [0x6e, 0x73, 0, 1] as const
/** [Linux include/uapi/linux/in.h] */
const IPPROTO_RAW = 255
const SO_BINDTODEVICE = 25
