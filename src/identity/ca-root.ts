import { createPrivateKey, createPublicKey, type KeyObject, randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { NsmError } from '../base/errors.ts'
import { readPrivateFile, writeFileAtomic } from '../base/files.ts'
import { type Certificate, readCertificate } from './certificate.ts'
import { writeCertificate } from './certificate-writer.ts'
import { generateKey, spkiOf } from './keys.ts'
import { certificatesFromPem, certificatesToPem } from './pem.ts'
import { refusal } from './refusal.ts'
import { isTrustDomain, parseSpiffeId } from './spiffe-id.ts'

/** The root of an authority: the key that a join string pins. */
export interface Root {
  readonly trustDomain: string
  readonly name: string
  readonly privateKey: KeyObject
  readonly certificate: Certificate
}

/** Ours: the time a peer's clock may be behind. */
export const backdateMs = 60_000
/** Ours: as long as a server may live without a new invitation of every member. */
const rootLifeMs = 10 * 365 * 86_400_000
const keyFile = 'ca-key.pem'
const certificateFile = 'ca.pem'

/** A new root in memory; the trust domain defaults to `nsm-<10 random base32>.internal`; throws `USAGE` for a bad name. */
export function newRoot(wantedDomain: string | undefined, nowMs: number): Root {
  const trustDomain = wantedDomain ?? randomTrustDomain()
  if (!isTrustDomain(trustDomain)) {
    throw new NsmError('USAGE', `"${trustDomain}" is not a trust domain`, 'use a-z, 0-9, ".", "-" and "_" only')
  }
  const privateKey = generateKey()
  const name = signerName(trustDomain, 'root')
  const der = writeCertificate(
    {
      name,
      publicKey: createPublicKey(privateKey),
      spiffeId: `spiffe://${trustDomain}`,
      notBeforeMs: nowMs - backdateMs,
      notAfterMs: nowMs + rootLifeMs,
      pathLength: rootPathLength,
    },
    { name, privateKey },
  )
  return { trustDomain, name, privateKey, certificate: readCertificate(der) }
}

/** An intermediate, and between them the certificate of the root that follows this one. */
const rootPathLength = 2

/**
 * The certificate of a new root by the old one, "new with old": who knows only the old one finds the way from what the new one
 * signs. [RFC 4210 4.4]
 */
export function certifyNewWithOld(next: Root, old: Root): Uint8Array {
  const template = {
    name: next.name,
    publicKey: createPublicKey(next.privateKey),
    spiffeId: `spiffe://${next.trustDomain}`,
    notBeforeMs: next.certificate.notBeforeMs,
    notAfterMs: Math.min(next.certificate.notAfterMs, old.certificate.notAfterMs),
    pathLength: 1,
  }
  return writeCertificate(template, old)
}

/** Common name of a signer, at most 64 characters [RFC 5280 A.1]; a long domain is cut, the URI name holds all of it. */
export function signerName(trustDomain: string, role: 'root' | 'intermediate'): string {
  return `${trustDomain.slice(0, 50)} ${role}`
}

function randomTrustDomain(): string {
  const letters = [...randomBytes(10)].map((byte) => 'abcdefghijklmnopqrstuvwxyz234567'[byte % 32])
  return `nsm-${letters.join('')}.internal`
}

/** A new root whose key is kept in the directory, readable by its owner only. */
export async function makeRoot(dir: string, trustDomain: string | undefined, nowMs: number): Promise<Root> {
  const root = newRoot(trustDomain, nowMs)
  await saveRoot(dir, root)
  return root
}

/** Writes the key, then the certificate. */
export async function saveRoot(dir: string, root: Root): Promise<void> {
  const { key, certificate } = rootToPem(root)
  await writeFileAtomic(join(dir, keyFile), key)
  await writeFileAtomic(join(dir, certificateFile), certificate)
}

/** Both parts of a root as PEM. */
export interface RootPem {
  readonly key: string
  readonly certificate: string
}

/** A root as text; the key is a secret. */
export function rootToPem({ privateKey, certificate }: Root): RootPem {
  const key = String(privateKey.export({ type: 'pkcs8', format: 'pem' }))
  return { key, certificate: certificatesToPem([certificate.der]) }
}

/**
 * The root of a directory; undefined when there is none. The certificate is written last: a key alone is a start that was
 * cut off, and nobody has seen it. Throws `PERMISSION` when others may write the files, `IDENTITY` when they are broken.
 */
export async function loadRoot(dir: string): Promise<Root | undefined> {
  const pem = await readPrivateFile(join(dir, certificateFile))
  if (pem === undefined) return undefined
  const keyPem = await readPrivateFile(join(dir, keyFile))
  if (keyPem === undefined) throw broken(dir)
  return rootFromPem({ key: keyPem, certificate: pem }, dir)
}

/** A root from its text; `where` is for the message. Throws `IDENTITY` when the parts do not belong together. */
export function rootFromPem(pem: RootPem, where: string): Root {
  const [der] = certificatesFromPem(pem.certificate)
  const certificate = der && readCertificate(der)
  const [id = ''] = certificate?.uris ?? []
  const privateKey = readKey(pem.key, where)
  if (!certificate?.isCa || !Buffer.from(certificate.spki).equals(spkiOf(privateKey))) throw broken(where)
  const { trustDomain } = parseSpiffeId(id)
  return { trustDomain, name: signerName(trustDomain, 'root'), privateKey, certificate }
}

function readKey(pem: string, dir: string): KeyObject {
  try {
    return createPrivateKey(pem)
  } catch (error) {
    throw broken(dir, error)
  }
}

function broken(dir: string, cause?: unknown) {
  return refusal('STATE_INVALID', `${dir} holds a certificate and a key that do not belong together`, {
    next: `put back ${certificateFile} and ${keyFile} from a backup, or use another state directory`,
    cause,
  })
}
