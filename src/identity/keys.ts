import { createPublicKey, generateKeyPairSync, hash, type KeyObject } from 'node:crypto'
import { refusal } from './refusal.ts'

/** A new ECDSA P-256 private key: the only kind NSM's token policies accept. */
export function generateKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
}

/** True for an ECDSA P-256 key, public or private. */
export function isP256(key: KeyObject): boolean {
  return key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === 'prime256v1'
}

/** A key never changes, and writing it out takes as long as a signature. */
const writtenKeys = new WeakMap<KeyObject, Uint8Array>()

/** The SubjectPublicKeyInfo (DER) of a public key, or of the public half of a private key; the same array each time. */
export function spkiOf(key: KeyObject): Uint8Array {
  const known = writtenKeys.get(key)
  if (known) return known
  const publicKey = key.type === 'private' ? createPublicKey(key) : key
  const spki = publicKey.export({ type: 'spki', format: 'der' })
  writtenKeys.set(key, spki)
  return spki
}

/** The P-256 public key of a SubjectPublicKeyInfo in its only accepted shape, uncompressed; throws `IDENTITY`. */
export function readP256Spki(spki: Uint8Array): KeyObject {
  const head = Buffer.from(spki.subarray(0, p256SpkiHead.length))
  if (spki.length !== p256SpkiBytes || !head.equals(p256SpkiHead)) throw notP256()
  try {
    // As text: of an options object Node first finds out, by four errors with their stacks, that it is no key itself.
    const key = createPublicKey(`-----BEGIN PUBLIC KEY-----\n${base64(spki)}\n-----END PUBLIC KEY-----\n`)
    // Of this head there is one way to write a key: what was read.
    writtenKeys.set(key, new Uint8Array(spki))
    return key
  } catch (error) {
    throw notP256(error)
  }
}

/** `sha256-<base64url>` of a SubjectPublicKeyInfo: how a join string names a root. */
export function spkiPin(spki: Uint8Array): string {
  return `sha256-${hash('sha256', spki, 'base64url')}`
}

/** SEQUENCE { SEQUENCE { ecPublicKey, prime256v1 }, BIT STRING { 04 ... } } up to the point [RFC 5480 2]. */
const p256SpkiHead = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d03010703420004', 'hex')
const p256SpkiBytes = 91

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}

function notP256(cause?: unknown) {
  return refusal('CERTIFICATE_INVALID', 'the public key is not ECDSA P-256', {
    next: 'make the key on the P-256 curve (openssl ecparam -name prime256v1)',
    cause,
  })
}
