/** Words of one descriptor, by name; the layout is the engine's (see `descriptorWords`). */
export const word = {
  /** Byte offset of the data in the engine's memory. */
  offset: 0,
  /** Bytes of data. */
  bytes: 1,
  /** Bytes of each segment; 0 = one datagram. */
  segmentBytes: 2,
  /** Handle of the peer. */
  peer: 3,
  /** Bytes of the socket address. */
  sockaddrBytes: 4,
  /** First of seven words of sockaddr_in or sockaddr_in6. */
  sockaddr: 5,
} as const

/** The engine's memory as a device or a socket sees it. */
export interface EngineMemory {
  readonly u8: Uint8Array
  readonly u32: Uint32Array
}
