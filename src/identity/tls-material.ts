import { constants } from 'node:crypto'
import type { DetailedPeerCertificate, PeerCertificate, SecureContextOptions } from 'node:tls'
import { certificatesToPem } from './pem.ts'
import type { IdentityState, TrustBundles } from './source.ts'

/** What both sides of a connection present and accept at the TLS layer; the check per trust domain comes on top. */
export function tlsMaterial(state: IdentityState): SecureContextOptions {
  const { svid, bundles } = state
  return {
    ...trustMaterial(bundles),
    key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }),
    cert: certificatesToPem(svid.chain),
  }
}

/** The union of all bundles: enough to finish a handshake, never enough to believe a name. */
export function trustMaterial(bundles: TrustBundles): SecureContextOptions {
  return {
    ca: certificatesToPem([...bundles.values()].flat()),
    /** A root of a bundle need not be signed by itself: a new one may be known by the certificate that the old one gave it. */
    allowPartialTrustChain: true,
    minVersion: 'TLSv1.3',
    /** A resumed session would skip every check of the certificate, its expiry too. */
    secureOptions: constants.SSL_OP_NO_TICKET,
  }
}

/**
 * The certificates of `socket.getPeerCertificate(true)` as DER, leaf first; empty when the peer showed none. Not from
 * `getPeerX509Certificate`: that one takes a certificate away from the connection's list with each call (Node 24.21).
 */
export function chainOf(leaf: PeerCertificate | DetailedPeerCertificate | null): Uint8Array[] {
  const chain: Uint8Array[] = []
  let next = leaf ?? undefined
  while (next?.raw && chain.length < chainMax) {
    chain.push(next.raw)
    const issuer = issuerOf(next)
    next = issuer?.fingerprint256 === next.fingerprint256 ? undefined : issuer
  }
  return chain
}

function issuerOf(certificate: PeerCertificate | DetailedPeerCertificate): PeerCertificate | undefined {
  return isDetailed(certificate) ? certificate.issuerCertificate : undefined
}

function isDetailed(certificate: PeerCertificate | DetailedPeerCertificate): certificate is DetailedPeerCertificate {
  return 'issuerCertificate' in certificate
}

/** Ours: how many certificates of a chain are read: one more than a verified chain may have, so that a longer one is refused, not cut. */
export const chainMax = 9
