import type { OwnHop, PeerContext } from './peer.ts'

/** One call as a handler sees it; the caller may be anonymous. */
export interface Call {
  /** What TLS verified; undefined for a connection without a client certificate. */
  readonly peer: PeerContext | undefined
  readonly own: OwnHop
  /** The caller's IP address. */
  readonly address: string
  /** Aborted when the caller goes away or cancels, or its deadline has passed. */
  readonly signal: AbortSignal
  /** What is left of the call's deadline, 0 without one, in milliseconds. */
  remainingMs(nowMs: number): number
  /** The last text value of a metadata key. */
  metadata(key: string): string | undefined
  /** Sends a key in the response header; before the first answer only. */
  setHeader(key: string, value: string): void
}

/** A call of a peer that TLS verified. */
export interface PeerCall extends Call {
  readonly peer: PeerContext
}
