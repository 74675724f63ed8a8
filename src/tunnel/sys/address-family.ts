/** Linux's number for IPv4. */
export const AF_INET = 2
/** Linux's number for IPv6. */
export const AF_INET6 = 10
/** Bytes of the largest socket address used here, sockaddr_in6. */
export const sockaddrMaxBytes = 28
