import { keyBytes } from './wireguard/keys.ts'

/** A key as wg(8) and its files write it; undefined for what is none. */
export function keyFromBase64(text: string): Uint8Array | undefined {
  return /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/.test(text) ? Uint8Array.from(Buffer.from(text, 'base64')) : undefined
}

/** A key in base64. */
export function keyToBase64(key: Uint8Array): string {
  return Buffer.from(key).toString('base64')
}

/** A key as the control protocol writes it; undefined for what is none. */
export function keyFromHex(text: string): Uint8Array | undefined {
  return text.length === 2 * keyBytes && /^[0-9a-f]+$/i.test(text)
    ? Uint8Array.from(Buffer.from(text, 'hex'))
    : undefined
}

/** A key in lower-case hexadecimal digits. */
export function keyToHex(key: Uint8Array): string {
  return Buffer.from(key).toString('hex')
}
