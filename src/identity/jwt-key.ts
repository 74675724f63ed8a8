import { createECDH, createPrivateKey, hash, hkdfSync, type JsonWebKey, type KeyObject } from 'node:crypto'
import type { JwtKey } from './bundle-document.ts'

/** The key that signs JWT-SVIDs, and its public half as others get it. */
export interface JwtSigner {
  readonly privateKey: KeyObject
  readonly published: JwtKey
}

/**
 * The key for JWT-SVIDs that belongs to a root: derived from the root's key, so that it comes, is kept and goes with it. Whoever
 * gets hold of it alone learns nothing of the root.
 */
export function jwtSignerOf(rootKey: KeyObject): JwtSigner {
  const known = signers.get(rootKey) ?? derive(rootKey)
  signers.set(rootKey, known)
  return known
}

const signers = new WeakMap<KeyObject, JwtSigner>()

/** Ours: names what is derived; another text is another key. */
const purpose = 'nsm JWT-SVID ES256 v1'
/** [FIPS 186-5 A.2.1] 128 bits more than the order has, so that the remainder favours no key. */
const materialBytes = 48
/** [FIPS 186-5 SP 800-186] Of the group P-256. */
const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n

function derive(rootKey: KeyObject): JwtSigner {
  const secret = Buffer.from(rootKey.export({ format: 'jwk' }).d ?? '', 'base64url')
  const material = Buffer.from(hkdfSync('sha256', secret, '', purpose, materialBytes)).toString('hex')
  const scalar = (BigInt(`0x${material}`) % (order - 1n)) + 1n
  const ecdh = createECDH('prime256v1')
  ecdh.setPrivateKey(scalar.toString(16).padStart(64, '0'), 'hex')
  const point = ecdh.getPublicKey()
  const [x, y] = [base64url(point.subarray(1, 33)), base64url(point.subarray(33))]
  const jwk = { kty: 'EC', crv: 'P-256', x, y }
  const privateKey = createPrivateKey({ key: { ...jwk, d: base64url(ecdh.getPrivateKey()) }, format: 'jwk' })
  return { privateKey, published: { kid: thumbprint(jwk), jwk } }
}

/** [RFC 7638 3] */
function thumbprint({ crv, kty, x, y }: JsonWebKey): string {
  return hash('sha256', JSON.stringify({ crv, kty, x, y }), 'base64url')
}

/** A coordinate has all its bytes: ECDH leaves leading zeros of the private key out. [RFC 7518 6.2] */
function base64url(bytes: Uint8Array): string {
  return Buffer.concat([Buffer.alloc(32 - bytes.length), bytes]).toString('base64url')
}
