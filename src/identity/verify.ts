import { type Certificate, readCertificate } from './certificate.ts'
import { isKnownSigner, readSigner, rememberSigner } from './known-signers.ts'
import { refusal } from './refusal.ts'
import type { TrustBundles } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'

/** A peer as its verified certificate names it; `certificate` is the leaf (DER), the expiry in wall milliseconds. */
export interface PeerIdentity {
  readonly spiffeId: string
  readonly certificate: Uint8Array
  /** What it sent between its leaf and the root, DER. */
  readonly intermediates: readonly Uint8Array[]
  readonly notAfterMs: number
}

/**
 * Verifies an X.509-SVID (DER, leaf first) against the bundle of the leaf's own trust domain, never against another
 * domain's root; throws `IDENTITY` with a reason [SPIFFE X509-SVID 5].
 */
export function verifyPeer(peer: {
  readonly chain: readonly Uint8Array[]
  readonly bundles: TrustBundles
  readonly nowMs: number
}): PeerIdentity {
  if (peer.chain.length > chainMax) throw refusal('SVID_UNTRUSTED', `more than ${chainMax} certificates were sent`)
  const [sentLeaf, ...signers] = peer.chain
  if (!sentLeaf) throw refusal('SVID_NO_ID', 'no certificate was sent')
  const leaf = readCertificate(sentLeaf)
  const intermediates = signers.map(readSigner)
  const { spiffeId, trustDomain } = leafIdentity(leaf)
  checkLeaf(leaf, peer.nowMs)
  const bundle = peer.bundles.get(trustDomain)
  if (!bundle) {
    const known = [...peer.bundles.keys()].join(', ') || 'a known domain'
    const next = `use an identity of ${known}, or federate with that domain in the policy file of the server`
    throw refusal('SVID_UNKNOWN_DOMAIN', `the trust domain ${trustDomain} of ${spiffeId} is not known here`, { next })
  }
  if (!rootOf(leaf, intermediates, { roots: bundle.map(readRoot), nowMs: peer.nowMs })) {
    throw untrusted(peer, { leaf, intermediates, spiffeId, trustDomain })
  }
  const { der: certificate, notAfterMs } = leaf
  return { spiffeId, certificate, intermediates: intermediates.map(({ der }) => der), notAfterMs }
}

/** Ours: NSM sites send one to three; the search below stays small. */
export const chainMax = 8
/** Ours: signature checks for one peer, about 0.2 ms each; certificates that all sign each other cannot cost more. */
const signatureChecksMax = 32
/** Ours: a clock this far behind the authority's still accepts a fresh certificate. */
const notBeforeSkewMs = 60_000

function leafIdentity(leaf: Certificate): { readonly spiffeId: string; readonly trustDomain: string } {
  const [spiffeId, ...more] = leaf.uris
  if (spiffeId === undefined || more.length > 0) {
    throw refusal('SVID_NO_ID', `the certificate has ${leaf.uris.length} URI names, an SVID has exactly one`)
  }
  const { trustDomain, path } = parseSpiffeId(spiffeId)
  if (path === '') throw refusal('SVID_NO_ID', `${spiffeId} has no path: it names a trust domain, not a peer`)
  return { spiffeId, trustDomain }
}

function checkLeaf(leaf: Certificate, nowMs: number): void {
  if (leaf.isCa || leaf.keyUsage?.certSign || leaf.keyUsage?.crlSign) {
    throw refusal('SVID_IS_CA', 'the certificate may sign others, so it cannot be a peer')
  }
  if (!leaf.isUsable || leaf.keyUsage?.digitalSignature === false)
    throw refusal(
      'CERTIFICATE_INVALID',
      'the certificate has an extension, an algorithm or a use of its key not supported here',
    )
  if (nowMs >= leaf.notAfterMs) {
    throw refusal('SVID_EXPIRED', `the certificate expired at ${isoTime(leaf.notAfterMs)}`, { next: renewNext })
  }
  if (nowMs + notBeforeSkewMs < leaf.notBeforeMs) {
    const aheadMs = leaf.notBeforeMs - nowMs
    const what = `the certificate begins at ${isoTime(leaf.notBeforeMs)}, ${Math.round(aheadMs / 1_000)} s from now`
    throw refusal('CLOCK_SKEW', what, { next: clockNext })
  }
}

const renewNext = 'renew the identity: `nsm invite` on the server, then `nsm connect --join FILE`'
const clockNext = 'check the clocks of both machines'

/** Roots stay the same for many peers; without it a stranger would have those of all domains read anew. */
const readRoots = new WeakMap<Uint8Array, Certificate>()

function readRoot(der: Uint8Array): Certificate {
  const known = readRoots.get(der)
  if (known) return known
  const root = readCertificate(der)
  readRoots.set(der, root)
  return root
}

interface Search {
  readonly roots: readonly Certificate[]
  readonly nowMs: number
}

/** [RFC 5280 6.1] depth first over what was sent; the root in which a path ends. */
function rootOf(leaf: Certificate, sent: readonly Certificate[], search: Search): Certificate | undefined {
  let checksLeft = signatureChecksMax
  const signs = (issuer: Certificate, subject: Certificate, signersBelow: number): boolean => {
    if (!maySign(issuer, signersBelow, search.nowMs) || !subject.x509.checkIssued(issuer.x509)) return false
    if (isKnownSigner(subject, issuer)) return true
    return checksLeft-- > 0 && subject.x509.verify(issuer.publicKey)
  }
  const climb = (
    subject: Certificate,
    unused: readonly Certificate[],
    signersBelow: number,
  ): Certificate | undefined => {
    const root = search.roots.find((one) => signs(one, subject, signersBelow))
    if (root && subject !== leaf) rememberSigner(subject, root)
    if (root) return root
    for (const issuer of unused) {
      if (!signs(issuer, subject, signersBelow)) continue
      const others = unused.filter((other) => other !== issuer)
      const found = climb(issuer, others, signersBelow + 1)
      if (found) return found
    }
    return undefined
  }
  return climb(leaf, sent, 0)
}

function maySign(issuer: Certificate, signersBelow: number, nowMs: number): boolean {
  if (!issuer.isCa || !issuer.isUsable || issuer.keyUsage?.certSign === false) return false
  if (issuer.pathLength !== undefined && signersBelow > issuer.pathLength) return false
  return nowMs < issuer.notAfterMs && nowMs + notBeforeSkewMs >= issuer.notBeforeMs
}

/** Tells a forgery (another domain's root signed it) from an unknown or broken chain: the audit log needs to know. */
function untrusted(
  peer: { readonly bundles: TrustBundles; readonly nowMs: number },
  found: {
    readonly leaf: Certificate
    readonly intermediates: readonly Certificate[]
    readonly spiffeId: string
    readonly trustDomain: string
  },
) {
  const others = [...peer.bundles].filter(([domain]) => domain !== found.trustDomain)
  const domainOf = new Map(others.flatMap(([domain, bundle]) => bundle.map((der) => [readRoot(der), domain] as const)))
  const root = rootOf(found.leaf, found.intermediates, { roots: [...domainOf.keys()], nowMs: peer.nowMs })
  if (root) {
    return refusal('SVID_WRONG_DOMAIN', `${found.spiffeId} was signed by the authority of ${domainOf.get(root)}`)
  }
  return refusal(
    'SVID_UNTRUSTED',
    `the certificate of ${found.spiffeId} does not end in a root of ${found.trustDomain}`,
  )
}

function isoTime(wallMs: number): string {
  return Number.isFinite(wallMs) ? new Date(wallMs).toISOString() : 'an unreadable time'
}
