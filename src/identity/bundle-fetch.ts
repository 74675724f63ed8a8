import { hash } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { createSecureContext, rootCertificates } from 'node:tls'
import type { Clock } from '../base/clock.ts'
import { systemCode } from '../base/errors.ts'
import { type BundleDocument, parseBundle, readBundle } from './bundle-document.ts'
import type { BundleOrigin } from './federated-domain.ts'
import { fetchDocument } from './fetch-document.ts'
import { refusal } from './refusal.ts'
import type { TrustBundles } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'
import { createClientSecurity } from './tls-client.ts'

/** What a fetch goes by. */
export interface FetchAround {
  /** All bundles that are held now: the endpoint of a bundle is believed by these. */
  readonly bundles: TrustBundles
  /** PEM of authorities that count for https_web beside the web's own. */
  readonly webRoots?: string | undefined
  readonly clock: Clock
  readonly signal: AbortSignal
}

const next = 'check the url in the policy file, and that this server reaches it'

/**
 * The bundle from the endpoint of another domain. With https_spiffe the endpoint shows an SVID of exactly the configured ID,
 * verified with the newest bundle of that ID's domain; with https_web the web's authorities vouch for its host.
 * Throws `IDENTITY`, `UNREACHABLE`. [SPIFFE Federation 5]
 */
export async function fetchBundle(
  origin: Extract<BundleOrigin, { readonly url: string }>,
  around: FetchAround,
): Promise<BundleDocument> {
  const { signal } = around
  const trust = origin.profile === 'https_web' ? webTrust(around) : spiffeTrust(origin.endpointId, around)
  const bytes = await fetchDocument(origin.url, { next, signal, trust })
  return parseBundle(bytes.toString('utf8'))
}

/** A bundle in a file, with the hash of the file; throws `IDENTITY` when it is absent or broken. */
export async function readBundleFile(
  path: string,
): Promise<{ readonly document: BundleDocument; readonly hash: string }> {
  const text = await readText(path)
  return { document: readBundle(text), hash: hash('sha256', text, 'base64url') }
}

/** Ours, as for a document that is fetched. */
const fileMaxBytes = 1_048_576

async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path)
    if (size <= fileMaxBytes) return await readFile(path, 'utf8')
  } catch (cause) {
    const why = systemCode(cause) ?? 'unreadable'
    throw refusal('BUNDLE_INVALID', `the trust bundle ${path} cannot be read: ${why}`, {
      next: 'check the path',
      cause,
    })
  }
  throw refusal('BUNDLE_INVALID', `the trust bundle ${path} is longer than ${fileMaxBytes} bytes`)
}

function webTrust({ webRoots }: FetchAround) {
  return webRoots === undefined
    ? undefined
    : { secureContext: createSecureContext({ ca: [...rootCertificates, webRoots] }) }
}

function spiffeTrust(endpointId: string, { bundles, clock }: FetchAround) {
  const { trustDomain } = parseSpiffeId(endpointId)
  const roots = bundles.get(trustDomain) ?? []
  if (roots.length === 0) {
    throw refusal('SVID_UNKNOWN_DOMAIN', `${endpointId} cannot be believed: there is no bundle of ${trustDomain} yet`, {
      next: 'give its first bundle in the policy file: bundle_file',
    })
  }
  const { secureContext, verifyOptions } = createClientSecurity({
    as: { bundles: new Map([[trustDomain, roots]]) },
    clock,
    expect: (spiffeId) => spiffeId === endpointId,
  })
  return { secureContext, checkServerIdentity: verifyOptions.checkServerIdentity }
}
