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
      pathLength: 1,
    },
    { name, privateKey },
  )
  return { trustDomain, name, privateKey, certificate: readCertificate(der) }
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
  await writeFileAtomic(join(dir, keyFile), root.privateKey.export({ type: 'pkcs8', format: 'pem' }))
  await writeFileAtomic(join(dir, certificateFile), certificatesToPem([root.certificate.der]))
  return root
}

/**
 * The root of a directory; undefined when there is none. The certificate is written last: a key alone is a start that was
 * cut off, and nobody has seen it. Throws `PERMISSION` when others may write the files, `IDENTITY` when they are broken.
 */
export async function loadRoot(dir: string): Promise<Root | undefined> {
  const pem = await readPrivateFile(join(dir, certificateFile))
  if (pem === undefined) return undefined
  const keyPem = await readPrivateFile(join(dir, keyFile))
  const [der] = certificatesFromPem(pem)
  const certificate = der && readCertificate(der)
  const [id = ''] = certificate?.uris ?? []
  const privateKey = keyPem === undefined ? undefined : readKey(keyPem, dir)
  if (!certificate?.isCa || !privateKey || !Buffer.from(certificate.spki).equals(spkiOf(privateKey))) throw broken(dir)
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
