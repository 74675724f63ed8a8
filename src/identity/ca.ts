import { createPublicKey, type KeyObject } from 'node:crypto'
import type { Audit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { makePrivateDir } from '../base/files.ts'
import { type Log, silentLog } from '../base/log.ts'
import type { BundleDocument } from './bundle-document.ts'
import { backdateMs, loadRoot, makeRoot, newRoot, type Root, signerName } from './ca-root.ts'
import { bundleRefreshMs, createRotation, type Roots, type Rotation, type RotationView } from './ca-rotation.ts'
import {
  loadRotation,
  noRotationStore,
  type RotationState,
  type RotationStore,
  rotationStore,
} from './ca-rotation-file.ts'
import { readCertificate } from './certificate.ts'
import { type Issuer, writeCertificate } from './certificate-writer.ts'
import type { JwtBundles } from './jwt-bundles.ts'
import { jwtSignerOf } from './jwt-key.ts'
import { type JwtSvid, signJwtSvid } from './jwt-svid.ts'
import { generateKey, isP256, spkiPin } from './keys.ts'
import { refusal } from './refusal.ts'
import type { IssuedSvid, TrustBundles } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'

/** A certificate authority for one trust domain; what it says of its root is as of now. */
export interface Authority {
  readonly trustDomain: string
  /** The root that signs. */
  readonly rootDer: Uint8Array
  /** What a join string carries: `sha256-<base64url>` of the root that signs. */
  readonly rootSpkiPin: string
  /** The roots to believe, the one that signs first. */
  readonly bundles: TrustBundles
  /** The keys that its JWT-SVIDs are signed with. */
  readonly jwtBundles: JwtBundles
  /** The same for other domains. */
  readonly document: BundleDocument
  /**
   * Signs a leaf for a key whose holder is known: it never left this process, or `verifyCsr` gave it. Throws `IDENTITY`
   * (`CSR_INVALID` for a key of another kind, `ID_INVALID`).
   */
  issueForKey(wanted: { readonly publicKey: KeyObject; readonly spiffeId: string; readonly ttlMs: number }): IssuedSvid
  /** A token for whoever holds this ID until `untilMs`; throws `IDENTITY` (`ID_INVALID`). */
  issueJwt(wanted: JwtWanted): JwtSvid
  /** Replaces the root step by step. */
  readonly rotation: Pick<Rotation, 'begin' | 'finish' | 'view'>
  /** Calls the listener after each change of the roots; the result ends that. */
  onChange(listener: () => void): () => void
  close(): void
}

/** Whom a JWT-SVID is for, and to whom it is shown. */
export interface JwtWanted {
  readonly spiffeId: string
  readonly audience: readonly string[]
  /** Wall milliseconds. */
  readonly untilMs: number
}

export type { RotationView }

interface AuthoritySettings {
  readonly trustDomain?: string
  readonly clock: Clock
  readonly log?: Log
  readonly audit?: Audit
}

/** A new authority in memory; the trust domain defaults to `nsm-<10 random base32>.internal`. */
export function createAuthority(settings: AuthoritySettings): Authority {
  const current = newRoot(settings.trustDomain, settings.clock.wallMs())
  return authorityOf({ current, underWay: undefined, store: noRotationStore }, settings)
}

/**
 * The authority of a state directory, made at the first call and the same root until it is rotated. Throws `PERMISSION` when
 * others may write the files, `CONFLICT` when the directory belongs to another trust domain, `IDENTITY` when it is broken.
 */
export async function openAuthority(settings: AuthoritySettings & { readonly dir: string }): Promise<Authority> {
  const { dir } = settings
  const nowMs = settings.clock.wallMs()
  if (nowMs < plausibleTimeMs) {
    throw refusal('CLOCK_SKEW', 'the clock of this machine is years behind', { next: 'set the clock' })
  }
  await makePrivateDir(dir)
  const underWay = await loadRotation(dir)
  const stored = await loadRoot(dir)
  if (underWay && underWay.next.trustDomain !== stored?.trustDomain) {
    const next = 'put ca.pem and ca-key.pem back from a backup'
    throw refusal('STATE_INVALID', `${dir} holds a new root, and not the one that it follows`, { next })
  }
  const current = stored ?? (await makeRoot(dir, settings.trustDomain, nowMs))
  if (settings.trustDomain !== undefined && settings.trustDomain !== current.trustDomain) {
    throw new NsmError(
      'CONFLICT',
      `${dir} holds the authority of ${current.trustDomain}, not of ${settings.trustDomain}`,
      'leave the trust domain out, or use another state directory',
    )
  }
  return authorityOf({ current, underWay, store: rotationStore(dir) }, settings)
}

/** Ours: an intermediate is replaced at half life, so it always outlives the leaves below it. */
const intermediateLifeMs = 7 * 86_400_000
const leafLifeMaxMs = 86_400_000
/** Ours: no machine that runs this program lives before it; a clock there would make certificates nobody accepts. */
const plausibleTimeMs = Date.UTC(2026, 0, 1)

interface Intermediate extends Issuer {
  readonly der: Uint8Array
  readonly root: Root
  readonly replaceAtMs: number
}

function authorityOf(
  made: { readonly current: Root; readonly underWay: RotationState | undefined; readonly store: RotationStore },
  settings: AuthoritySettings,
): Authority {
  const { clock, audit } = settings
  const log = settings.log ?? silentLog
  const rotation = createRotation({ ...made, clock, log, ...(audit && { audit }) })
  const { trustDomain } = made.current
  let intermediate: Intermediate | undefined
  const issueForKey: Authority['issueForKey'] = ({ publicKey, spiffeId, ttlMs }) => {
    const nowMs = clock.wallMs()
    const roots = rotation.roots()
    checkId(roots.signing, { spiffeId, nowMs })
    if (!isP256(publicKey)) throw refusal('CSR_INVALID', 'the key is not ECDSA P-256')
    if (intermediate?.root !== roots.signing || nowMs >= intermediate.replaceAtMs) {
      intermediate = newIntermediate(roots.signing, nowMs)
    }
    const issued = issueLeaf(roots, intermediate, { publicKey, spiffeId, ttlMs, nowMs })
    log.info('certificate issued', { peer: spiffeId, expires: new Date(issued.notAfterMs).toISOString() })
    return issued
  }
  return {
    trustDomain,
    get rootDer() {
      return rotation.roots().signing.certificate.der
    },
    get rootSpkiPin() {
      return spkiPin(rotation.roots().signing.certificate.spki)
    },
    get bundles() {
      return bundlesOf(rotation.roots())
    },
    get jwtBundles() {
      return new Map([[trustDomain, rotation.roots().jwtKeys]])
    },
    get document() {
      return documentOf(rotation.roots())
    },
    issueForKey,
    issueJwt(wanted) {
      const nowMs = clock.wallMs()
      const { signing } = rotation.roots()
      checkId(signing, { ...wanted, nowMs })
      return signJwtSvid({ ...wanted, signer: jwtSignerOf(signing.privateKey), nowMs })
    },
    rotation,
    onChange: rotation.onChange,
    close: rotation.close,
  }
}

function checkId(root: Root, wanted: { readonly spiffeId: string; readonly nowMs: number }): void {
  const { trustDomain, path } = parseSpiffeId(wanted.spiffeId)
  if (trustDomain !== root.trustDomain || path === '') {
    throw refusal('ID_INVALID', `${wanted.spiffeId} is not an ID of ${root.trustDomain} with a path`)
  }
  if (wanted.nowMs >= root.certificate.notAfterMs) {
    const next = 'start the server with a new state directory and invite everybody again'
    throw refusal('SVID_EXPIRED', `the root of ${root.trustDomain} is expired`, { next })
  }
}

function issueLeaf(
  roots: Roots,
  intermediate: Intermediate,
  wanted: { readonly publicKey: KeyObject; readonly spiffeId: string; readonly ttlMs: number; readonly nowMs: number },
): IssuedSvid {
  const { signing, newWithOld } = roots
  const rootLeftMs = signing.certificate.notAfterMs - wanted.nowMs
  const ttlMs = Math.max(1000, Math.min(wanted.ttlMs, leafLifeMaxMs, rootLeftMs / 2))
  /** Whole seconds, as the certificate says them. */
  const notAfterMs = Math.floor((wanted.nowMs + ttlMs) / 1000) * 1000
  const template = { ...wanted, notBeforeMs: wanted.nowMs - backdateMs, notAfterMs }
  const leaf = writeCertificate(template, intermediate)
  const chain = [leaf, intermediate.der, ...(newWithOld ? [newWithOld] : [])]
  return { spiffeId: wanted.spiffeId, chain, bundles: bundlesOf(roots), notAfterMs }
}

function bundlesOf({ signing, believed }: Roots): TrustBundles {
  return new Map([[signing.trustDomain, believed]])
}

/** The sequence grows when a root comes and when one goes: two for each second of the newest root's begin, one more when it is alone. */
function documentOf({ believed, jwtKeys }: Roots): BundleDocument {
  const newestMs = Math.max(...believed.map((der) => readCertificate(der).notBeforeMs))
  const sequence = 2 * Math.floor(newestMs / 1000) + (believed.length === 1 ? 1 : 0)
  return { roots: believed, jwtKeys, sequence, refreshHintMs: bundleRefreshMs }
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
  return { name, privateKey, der, root, replaceAtMs: nowMs + intermediateLifeMs / 2 }
}
