import type { ErrorData } from '../base/errors.ts'

/** What the background process does with plain WireGuard tunnels. */
export interface TunnelApi {
  /** Opens a tunnel from a file's text; throws `USAGE` naming file and line, `CONFLICT` for a name that is taken. */
  tunnelUp(request: TunnelUpRequest, signal: AbortSignal): Promise<TunnelUpResult>
  /** Ends tunnels by name; one that is not there is no error. */
  tunnelDown(request: TunnelDownRequest): Promise<TunnelDownResult>
  /** The tunnels that are up. */
  tunnelStatus(): Promise<TunnelStatusResult>
}

/** What `nsm tunnel up` asks for. The file travels as text, never as a path [security L4]. */
export interface TunnelUpRequest {
  readonly interfaceName: string
  /** How errors call the file. */
  readonly fileName: string
  readonly text: string
}

/** Answer to `tunnelUp`. */
export interface TunnelUpResult {
  readonly apiVersion: 'nsm/tunnel-up/v1'
  readonly tunnel: TunnelView
}

/** What `nsm tunnel down` asks for. */
export interface TunnelDownRequest {
  readonly interfaceNames: readonly string[]
}

/** Answer to `tunnelDown`: the tunnels that were ended. */
export interface TunnelDownResult {
  readonly apiVersion: 'nsm/tunnel-down/v1'
  readonly ended: readonly string[]
}

/** Answer to `tunnelStatus`. */
export interface TunnelStatusResult {
  readonly apiVersion: 'nsm/tunnel-status/v1'
  readonly tunnels: readonly TunnelView[]
}

/** One plain tunnel; keys are public ones in base64. */
export interface TunnelView {
  readonly interfaceName: string
  readonly state: 'up' | 'failed'
  readonly publicKey: string
  readonly listenPort: number
  /** Absent: the program's own. */
  readonly fwmark?: number
  readonly addresses: readonly string[]
  readonly routes: readonly string[]
  readonly mtuBytes: number
  readonly peers: readonly TunnelPeerView[]
  /** Packets, drops by reason, handshakes, cookies since the start; empty once the tunnel failed. */
  readonly counters: Readonly<Record<string, number>>
  /** Socket of wg(8); absent when it could not be opened. */
  readonly controlSocket?: string
  readonly error?: ErrorData
}

/** One peer of a plain tunnel; bytes are those of inner packets. */
export interface TunnelPeerView {
  readonly publicKey: string
  readonly endpoint?: string
  readonly allowedPrefixes: readonly string[]
  readonly lastHandshakeAgeMs?: number
  readonly receivedBytes: number
  readonly sentBytes: number
}
