import type { IpFamily } from '../../base/ip.ts'

/** Linux's number for IPv4. */
export const AF_INET = 2
/** Linux's number for IPv6. */
export const AF_INET6 = 10
/* [Linux include/linux/socket.h, include/uapi/asm-generic/socket.h, include/uapi/linux/udp.h] */
export const SOCK_DGRAM = 2
export const SOCK_RAW = 3
export const SOCK_NONBLOCK = 0o4000
export const SOCK_CLOEXEC = 0o2000000
export const SOL_SOCKET = 1
export const SOL_UDP = 17
export const MSG_DONTWAIT = 0x40
export const UDP_GRO = 104

/** Bytes of the largest socket address used here, sockaddr_in6. */
export const sockaddrMaxBytes = 28

/** Linux's number for a family. */
export function systemFamily(family: IpFamily): number {
  return family === 4 ? AF_INET : AF_INET6
}
