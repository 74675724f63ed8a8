import type { Descriptors, InputRing } from './wireguard/engine.ts'

/** One UDP socket over the engine's memory; datagrams of one peer and size may cross as one segmented message. */
export interface UdpSocket {
  /** Fills slots 0.. of the ring and gives how many; 0 = nothing waits. */
  receive(ring: InputRing): number
  /** Sends the first `count` messages; what the network refuses is counted and dropped, never thrown. */
  send(messages: Descriptors, count: number): void
  /** What the socket did since it was opened. */
  counters(): UdpCounters
}

/** Messages are system messages; segments are the datagrams in them. */
export interface UdpCounters {
  readonly udpReceivedMessages: number
  readonly udpReceivedSegments: number
  /** Calls that brought something. */
  readonly udpReceiveCalls: number
  readonly udpSentMessages: number
  readonly udpSentSegments: number
  readonly udpSendCalls: number
  readonly udpSendErrors: number
  /** Messages the system could not segment and that were sent datagram by datagram. */
  readonly udpSplits: number
}
