import type { KeyObject } from 'node:crypto'

/** An X.509-SVID with its private key (ECDSA P-256); certificates are DER, leaf first, without the root. */
export interface Svid {
  readonly spiffeId: string
  readonly chain: readonly Uint8Array[]
  readonly privateKey: KeyObject
  /** Wall milliseconds. */
  readonly notBeforeMs: number
  readonly notAfterMs: number
}

/** Roots (DER) of each trust domain; never merged: a root speaks for its own domain only. */
export type TrustBundles = ReadonlyMap<string, readonly Uint8Array[]>

/** Who we are and whom we believe, at one moment. */
export interface IdentityState {
  readonly svid: Svid
  readonly bundles: TrustBundles
}

/** What an authority gives for a request; the private key never travels. */
export interface IssuedSvid {
  readonly spiffeId: string
  readonly chain: readonly Uint8Array[]
  readonly bundles: TrustBundles
  readonly notAfterMs: number
}

/** Where the identity comes from: files, an enrolment, or the program's own authority. */
export interface IdentitySource {
  /** The state to use for the next handshake or token; throws `IDENTITY` when there is none or it is expired. */
  current(): IdentityState
  /** Calls the listener after each change; the result ends that. */
  onChange(listener: (state: IdentityState) => void): () => void
  close(): Promise<void>
}
