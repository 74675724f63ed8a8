import { NsmError } from '../base/errors.ts'
import { becauseOf, errno, errnoName, systemError } from './sys/errno.ts'
import { libc } from './sys/libc.ts'
import { allocateNative, type NativeBuffer } from './sys/native-buffer.ts'
import {
  AF_INET,
  AF_INET6,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOL_SOCKET,
  SOL_UDP,
  sockaddrMaxBytes,
  UDP_GRO,
} from './sys/socket-numbers.ts'
import { tableNumber } from './tun/host-network.ts'
import { readSockaddr, writeSockaddr } from './wireguard/sockaddr.ts'

/** An open, bound UDP socket. */
export interface OpenUdp {
  readonly fd: number
  readonly port: number
  /** Marks all that is sent from now on; 0 is the program's own mark. Throws `PERMISSION` without CAP_NET_ADMIN. */
  setMark(fwmark: number): void
  /** Closes the socket. */
  close(): void
}

interface Listen {
  readonly address: string
  readonly port: number
  /** Of all that is sent; 0 is the program's own mark. */
  readonly fwmark?: number
}

/** Binds a socket; `::` serves both families. Throws `CONFLICT` naming the port when it is taken. Port 0 = any free one. */
export function openUdp(listen: Listen): OpenUdp {
  const buffer = allocateNative(128)
  const fd = bindAny(listen, buffer)
  setNumber(fd, { level: SOL_UDP, option: UDP_GRO }, buffer, 1)
  for (const direction of [receiveBuffer, sendBuffer]) {
    const forced = setNumber(fd, { level: SOL_SOCKET, option: direction.force }, buffer, socketBufferBytes)
    if (!forced) setNumber(fd, { level: SOL_SOCKET, option: direction.plain }, buffer, socketBufferBytes)
  }
  // Without the right to mark there are no tunnel routes of ours to keep away from either.
  mark(fd, buffer, listen.fwmark ?? 0)
  return {
    fd,
    port: boundPort(fd, buffer),
    setMark(fwmark) {
      if (mark(fd, buffer, fwmark)) return
      throw systemError(`cannot mark packets with ${fwmark}`, libc().errno())
    },
    close: () => void libc().close(fd),
  }
}

function mark(fd: number, buffer: NativeBuffer, fwmark: number): boolean {
  return setNumber(fd, { level: SOL_SOCKET, option: SO_MARK }, buffer, fwmark || tableNumber)
}

/** Both families in one socket where the system has IPv6, IPv4 alone where it has not. */
function bindAny(listen: Listen, buffer: NativeBuffer): number {
  const fd = tryBind(listen, buffer)
  if (fd >= 0) return fd
  const fallback = listen.address === '::' && (fd === -errno.EAFNOSUPPORT || fd === -errno.EADDRNOTAVAIL)
  const second = fallback ? tryBind({ address: '0.0.0.0', port: listen.port }, buffer) : fd
  if (second >= 0) return second
  throw bindError(listen, -second)
}

/** A descriptor, or a negative error number. */
function tryBind(listen: Listen, buffer: NativeBuffer): number {
  const family = listen.address.includes(':') ? AF_INET6 : AF_INET
  const fd = libc().socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  if (fd < 0) return -libc().errno()
  if (family === AF_INET6) {
    const only = listen.address === '::' ? 0 : 1
    setNumber(fd, { level: IPPROTO_IPV6, option: IPV6_V6ONLY }, buffer, only)
  }
  writeSockaddr(buffer.bytes.subarray(0, 32), listen)
  if (libc().bind(fd, buffer.address + 4, buffer.view.getUint32(0, true)) >= 0) return fd
  const number = libc().errno()
  libc().close(fd)
  return -number
}

function bindError(listen: Listen, number: number): NsmError {
  if (number !== errno.EADDRINUSE) {
    return systemError(`cannot listen on ${listen.address}, UDP port ${listen.port}`, number)
  }
  const message = `UDP port ${listen.port} is taken by another program (${errnoName(number)})`
  const next = `see who holds it: ss -ulpn 'sport = :${listen.port}'`
  return new NsmError('CONFLICT', message, next, { cause: becauseOf(number) })
}

function boundPort(fd: number, buffer: NativeBuffer): number {
  buffer.view.setUint32(0, sockaddrMaxBytes, true)
  libc().getsockname(fd, buffer.address + 4, buffer.address)
  return readSockaddr(buffer.bytes.subarray(0, 32))?.port ?? 0
}

function setNumber(fd: number, at: { level: number; option: number }, buffer: NativeBuffer, value: number): boolean {
  buffer.view.setUint32(0, value, true)
  return libc().setsockopt(fd, at.level, at.option, buffer.address, 4) >= 0
}

/** Ours: 7 MiB each way, as wireguard-go has it; 5 ms of 10 Gbit/s. Without the right to force it, what the system allows. */
const socketBufferBytes = 7 * 1024 * 1024
const receiveBuffer = { force: 33, plain: 8 }
const sendBuffer = { force: 32, plain: 7 }
const SO_MARK = 36
const IPPROTO_IPV6 = 41
const IPV6_V6ONLY = 26
