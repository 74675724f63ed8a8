/** A token one hop presents to the next, and when it ends (wall milliseconds). */
export interface HopToken {
  readonly token: string
  readonly expiresMs: number
}

/** Who calls: what TLS verified and what the call carried. Everything else a caller says is only a claim. */
export interface PeerContext {
  /** From the verified TLS certificate, never from a token or a name. */
  readonly spiffeId: string
  /** DER of the leaf of this TLS connection; hop tokens must be signed with its key. */
  readonly certificate: Uint8Array
  /** DER of what the peer sent between its leaf and the root. */
  readonly intermediates?: readonly Uint8Array[]
  /** Call metadata `nsm-client-token`, not verified. */
  readonly token: string | undefined
  /** Call metadata `nsm-client-token-expires`, wall milliseconds. */
  readonly tokenExpiresMs: number | undefined
  /** The caller's IP address. */
  readonly address: string
  /** Our IP address on that connection: the one the caller reaches us by. */
  readonly localAddress: string
  /** Whom a relay says it asks for: the SPIFFE ID in the path's first token, which nobody here has verified. */
  readonly origin?: string
}

/** The server's own side of one TLS connection: its tokens are signed with the key of the certificate the peer saw. */
export interface OwnHop {
  readonly spiffeId: string
  token(audience: string): HopToken
}

/** Call metadata that carry a hop's token, [NSM sdk token/context.go]. */
export const tokenMetadataKey = 'nsm-client-token'
/** RFC 3339 text of the token's end; a token without it counts as no token. */
export const tokenExpiresMetadataKey = 'nsm-client-token-expires'
/** [NSM sdk] Default life of a hop token: it bounds a lease and, at 0.2 of it, paces the refreshes. */
export const tokenLifetimeMs = 600_000
