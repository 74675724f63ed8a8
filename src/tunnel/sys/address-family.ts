import type { IpFamily } from '../../base/ip.ts'

/** Linux's number for IPv4. */
export const AF_INET = 2
/** Linux's number for IPv6. */
export const AF_INET6 = 10
/** Bytes of the largest socket address used here, sockaddr_in6. */
export const sockaddrMaxBytes = 28

/** Linux's number for a family. */
export function systemFamily(family: IpFamily): number {
  return family === 4 ? AF_INET : AF_INET6
}
