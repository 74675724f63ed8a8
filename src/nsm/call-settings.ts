import type { PeerIdentity } from '../identity/verify.ts'

/** Where to dial; the address is a host name or an IP address without brackets. */
export interface Target {
  readonly address: string
  readonly port: number
}

/** Settings of one call. */
export interface CallSettings {
  readonly signal?: AbortSignal
  /** From now, connecting included; servers take what is left of it off a lease, so keep it near the default. */
  readonly timeoutMs?: number
  readonly metadata?: Readonly<Record<string, string>>
  /** False: fail as soon as the server cannot be reached, not at the deadline. */
  readonly wait?: boolean
}

/** The answer of a unary call. */
export interface Answer<T> {
  readonly message: T
  /** The last text value of a key of the response header. */
  header(key: string): string | undefined
  /** The server of the connection that carried the call. */
  readonly server: PeerIdentity
}
