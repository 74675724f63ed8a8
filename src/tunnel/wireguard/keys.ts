import { createPrivateKey, createPublicKey, randomBytes } from 'node:crypto'
import { NsmError } from '../../base/errors.ts'

/** Bytes of every WireGuard key [WG 5.4]. */
export const keyBytes = 32

/** PKCS #8 of an X25519 private key without its last 32 bytes [RFC 8410 7]. */
const privateKeyHead = Buffer.from('302e020100300506032b656e04220420', 'hex')

/** The public key that belongs to a private key; throws `USAGE` unless it has 32 bytes. */
export function publicKeyOf(privateKey: Uint8Array): Uint8Array {
  requireKey(privateKey, 'private key')
  const der = Buffer.concat([privateKeyHead, privateKey])
  const spki = createPublicKey(createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })).export({
    format: 'der',
    type: 'spki',
  })
  der.fill(0)
  return Uint8Array.from(spki.subarray(-keyBytes))
}

/** A fresh private key. */
export function generatePrivateKey(): Uint8Array {
  return clamped(randomBytes(keyBytes))
}

/** A private key without the bits that X25519 passes over [RFC 7748 5]. */
export function clamped(random: Uint8Array): Uint8Array {
  const key = Uint8Array.from(random)
  key[0] = (key[0] ?? 0) & 248
  key[31] = ((key[31] ?? 0) & 127) | 64
  return key
}

/** Throws `USAGE` unless the key has 32 bytes; `what` names it in the message. */
export function requireKey(key: Uint8Array, what: string): void {
  if (key.length === keyBytes) return
  throw new NsmError('USAGE', `a WireGuard ${what} has ${keyBytes} bytes, not ${key.length}`, 'pass the raw key')
}
