import { constants } from 'node:crypto'
import type { DetailedPeerCertificate, PeerCertificate, SecureContextOptions, TLSSocket } from 'node:tls'
import { certificatesToPem } from './pem.ts'
import type { IdentityState, TrustBundles } from './source.ts'
import { chainMax } from './verify.ts'

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

/** The certificates of `socket.getPeerCertificate(true)` as DER, leaf first; empty when the peer showed none. */
export function chainOf(leaf: PeerCertificate | DetailedPeerCertificate | null): Uint8Array[] {
  const chain: Uint8Array[] = []
  let next = leaf ?? undefined
  while (next?.raw && chain.length < readMax) {
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

/**
 * What a client showed a server, as `chainOf` has it, without Node's description of every field. All of it comes with the
 * first call for a connection (Node 24.21): a second one gives the leaf alone.
 */
export function chainOfClient(socket: TLSSocket): Uint8Array[] {
  const chain: Uint8Array[] = []
  for (let next = socket.getPeerX509Certificate(); next && chain.length < readMax; next = next.issuerCertificate) {
    chain.push(next.raw)
  }
  return chain
}

/** One more than a verified chain may have, so that a longer one is refused, not cut. */
const readMax = chainMax + 1
