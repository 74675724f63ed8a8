import { createSecureContext, type PeerCertificate, type SecureContext } from 'node:tls'
import { type Clock, systemClock } from '../base/clock.ts'
import { type NsmError, toNsmError } from '../base/errors.ts'
import { refusal } from './refusal.ts'
import type { IdentitySource, Svid, TrustBundles } from './source.ts'
import { chainOf, tlsMaterial, trustMaterial } from './tls-material.ts'
import { type PeerIdentity, verifyPeer } from './verify.ts'

/** What a TLS client needs to dial one server with one SVID; a new SVID needs a new one. */
export interface ClientSecurity {
  readonly secureContext: SecureContext
  /** The check replaces the host name check; TLS ends the handshake when it gives an error. */
  readonly verifyOptions: {
    readonly checkServerIdentity: (host: string, certificate: PeerCertificate) => Error | undefined
    readonly rejectUnauthorized: true
  }
  /** Name to send, whatever the target is: an IP address is not allowed there [RFC 6066 3]. */
  readonly serverName: string
  /** The SVID presented, whose key signs the tokens of this connection; undefined when anonymous. */
  readonly svid: Svid | undefined
  /** The server of the last handshake that was believed. */
  serverIdentity(): PeerIdentity | undefined
  /** Why the last handshake was not believed: TLS libraries tell their callers less. */
  refusal(): NsmError | undefined
}

/** Whom to present and whom to believe. `expect` narrows the believed servers to some SPIFFE IDs. */
export interface ClientSecuritySettings {
  /** A source: mutual TLS with its current SVID. Bundles alone: anonymous. */
  readonly as: { readonly source: IdentitySource } | { readonly bundles: TrustBundles }
  readonly clock?: Clock
  readonly expect?: (spiffeId: string) => boolean
}

/** Security for one channel; throws `IDENTITY` when the source has no usable SVID. */
export function createClientSecurity(settings: ClientSecuritySettings): ClientSecurity {
  const { as } = settings
  const state = 'source' in as ? as.source.current() : undefined
  const material = state ? tlsMaterial(state) : trustMaterial('source' in as ? new Map() : as.bundles)
  let server: PeerIdentity | undefined
  let refused: NsmError | undefined
  const checkServerIdentity = (_host: string, certificate: PeerCertificate) => {
    try {
      const bundles = 'source' in as ? as.source.current().bundles : as.bundles
      server = verifyServer(certificate, { ...settings, bundles })
      refused = undefined
      return undefined
    } catch (error) {
      server = undefined
      refused = toNsmError(error)
      return refused
    }
  }
  return {
    secureContext: createSecureContext(material),
    verifyOptions: { checkServerIdentity, rejectUnauthorized: true },
    serverName,
    svid: state?.svid,
    serverIdentity: () => server,
    refusal: () => refused,
  }
}

const serverName = 'registry.nsm.internal'

function verifyServer(
  certificate: PeerCertificate,
  settings: Pick<ClientSecuritySettings, 'clock' | 'expect'> & { readonly bundles: TrustBundles },
): PeerIdentity {
  const chain = chainOf(certificate)
  const peer = verifyPeer({ chain, bundles: settings.bundles, nowMs: (settings.clock ?? systemClock).wallMs() })
  if (settings.expect && !settings.expect(peer.spiffeId)) {
    throw refusal('SVID_UNEXPECTED', `the server is ${peer.spiffeId}, another one was expected`, {
      next: 'check the address of the server',
    })
  }
  return peer
}
