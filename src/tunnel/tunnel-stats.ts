/** What a tunnel or hub did and how its peers are. */
export interface TunnelStats {
  readonly peers: readonly TunnelPeerStats[]
  /** Packets, segments, drops by reason, handshakes since the start. */
  readonly counters: Readonly<Record<string, number>>
}

/** One peer; bytes are those of inner packets. */
export interface TunnelPeerStats {
  /** Base64. */
  readonly publicKey: string
  readonly lastHandshakeAgeMs: number | undefined
  readonly rttMs: number | undefined
  readonly receivedBytes: number
  readonly sentBytes: number
  /** Packets from a source outside its prefixes. */
  readonly spoofed: number
  readonly endpoint: { address: string; port: number } | undefined
}
