import { createPublicKey, type KeyObject } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { makePrivateDir } from '../base/files.ts'
import { type Log, silentLog } from '../base/log.ts'
import { backdateMs, loadRoot, makeRoot, newRoot, type Root, signerName } from './ca-root.ts'
import { type Issuer, writeCertificate } from './certificate-writer.ts'
import { verifyCsr } from './csr.ts'
import { generateKey, isP256, spkiPin } from './keys.ts'
import { refusal } from './refusal.ts'
import type { IssuedSvid, TrustBundles } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'

/** A certificate authority for one trust domain. */
export interface Authority {
  readonly trustDomain: string
  readonly rootDer: Uint8Array
  /** What a join string carries: `sha256-<base64url>`. */
  readonly rootSpkiPin: string
  readonly bundles: TrustBundles
  /** Checks the request and signs a leaf for the ID; throws `IDENTITY` (`CSR_INVALID`, `ID_INVALID`). */
  issue(wanted: { readonly csr: Uint8Array; readonly spiffeId: string; readonly ttlMs: number }): IssuedSvid
  /** Signs a leaf for a key that never left this process. */
  issueForKey(wanted: { readonly publicKey: KeyObject; readonly spiffeId: string; readonly ttlMs: number }): IssuedSvid
}

/** A new authority in memory; the trust domain defaults to `nsm-<10 random base32>.internal`. */
export function createAuthority(settings: {
  readonly trustDomain?: string
  readonly clock: Clock
  readonly log?: Log
}): Authority {
  return authorityOf(newRoot(settings.trustDomain, settings.clock.wallMs()), settings)
}

/**
 * The authority of a state directory, made at the first call and the same root ever after. Throws `PERMISSION` when
 * others may write the files, `CONFLICT` when the directory belongs to another trust domain, `IDENTITY` when it is broken.
 */
export async function openAuthority(settings: {
  readonly dir: string
  readonly trustDomain?: string
  readonly clock: Clock
  readonly log?: Log
}): Promise<Authority> {
  const nowMs = settings.clock.wallMs()
  if (nowMs < plausibleTimeMs) {
    throw refusal('SVID_NOT_YET_VALID', 'the clock of this machine is years behind', { next: 'set the clock' })
  }
  await makePrivateDir(settings.dir)
  const root = (await loadRoot(settings.dir)) ?? (await makeRoot(settings.dir, settings.trustDomain, nowMs))
  if (settings.trustDomain !== undefined && settings.trustDomain !== root.trustDomain) {
    throw new NsmError(
      'CONFLICT',
      `${settings.dir} holds the authority of ${root.trustDomain}, not of ${settings.trustDomain}`,
      'leave the trust domain out, or use another state directory',
    )
  }
  return authorityOf(root, settings)
}

/** Ours: an intermediate is replaced at half life, so it always outlives the leaves below it. */
const intermediateLifeMs = 7 * 86_400_000
const leafLifeMaxMs = 86_400_000
/** Ours: no machine that runs this program lives before it; a clock there would make certificates nobody accepts. */
const plausibleTimeMs = Date.UTC(2026, 0, 1)

interface Intermediate extends Issuer {
  readonly der: Uint8Array
  readonly replaceAtMs: number
}

function authorityOf(root: Root, settings: { readonly clock: Clock; readonly log?: Log }): Authority {
  const log = settings.log ?? silentLog
  let intermediate: Intermediate | undefined
  const issueForKey: Authority['issueForKey'] = ({ publicKey, spiffeId, ttlMs }) => {
    const nowMs = settings.clock.wallMs()
    checkWanted(root, { publicKey, spiffeId, nowMs })
    if (!intermediate || nowMs >= intermediate.replaceAtMs) intermediate = newIntermediate(root, nowMs)
    const issued = issueLeaf(root, intermediate, { publicKey, spiffeId, ttlMs, nowMs })
    log.info('certificate issued', { peer: spiffeId, expires: new Date(issued.notAfterMs).toISOString() })
    return issued
  }
  return {
    trustDomain: root.trustDomain,
    rootDer: root.certificate.der,
    rootSpkiPin: spkiPin(root.certificate.spki),
    bundles: bundlesOf(root),
    issueForKey,
    issue: ({ csr, spiffeId, ttlMs }) => issueForKey({ ...verifyCsr(csr), spiffeId, ttlMs }),
  }
}

function checkWanted(
  root: Root,
  wanted: { readonly publicKey: KeyObject; readonly spiffeId: string; readonly nowMs: number },
): void {
  const { trustDomain, path } = parseSpiffeId(wanted.spiffeId)
  if (trustDomain !== root.trustDomain || path === '') {
    throw refusal('ID_INVALID', `${wanted.spiffeId} is not an ID of ${root.trustDomain} with a path`)
  }
  if (!isP256(wanted.publicKey)) throw refusal('CSR_INVALID', 'the key is not ECDSA P-256')
  if (wanted.nowMs >= root.certificate.notAfterMs) {
    const next = 'start the server with a new state directory and invite everybody again'
    throw refusal('SVID_EXPIRED', `the root of ${root.trustDomain} is expired`, { next })
  }
}

function issueLeaf(
  root: Root,
  intermediate: Intermediate,
  wanted: { readonly publicKey: KeyObject; readonly spiffeId: string; readonly ttlMs: number; readonly nowMs: number },
): IssuedSvid {
  const rootLeftMs = root.certificate.notAfterMs - wanted.nowMs
  const ttlMs = Math.max(1000, Math.min(wanted.ttlMs, leafLifeMaxMs, rootLeftMs / 2))
  /** Whole seconds, as the certificate says them. */
  const notAfterMs = Math.floor((wanted.nowMs + ttlMs) / 1000) * 1000
  const template = { ...wanted, notBeforeMs: wanted.nowMs - backdateMs, notAfterMs }
  const leaf = writeCertificate(template, intermediate)
  return { spiffeId: wanted.spiffeId, chain: [leaf, intermediate.der], bundles: bundlesOf(root), notAfterMs }
}

function bundlesOf(root: Root): TrustBundles {
  return new Map([[root.trustDomain, [root.certificate.der]]])
}

function newIntermediate(root: Root, nowMs: number): Intermediate {
  const privateKey = generateKey()
  const name = signerName(root.trustDomain, 'intermediate')
  const der = writeCertificate(
    {
      name,
      publicKey: createPublicKey(privateKey),
      spiffeId: `spiffe://${root.trustDomain}`,
      notBeforeMs: nowMs - backdateMs,
      notAfterMs: Math.min(nowMs + intermediateLifeMs, root.certificate.notAfterMs),
      pathLength: 0,
    },
    root,
  )
  return { name, privateKey, der, replaceAtMs: nowMs + intermediateLifeMs / 2 }
}
