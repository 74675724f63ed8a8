import { hash } from 'node:crypto'

/** What is kept of a secret or a person's name: its SHA-256 in base64url, good for finding it again and nothing else. */
export function secretHash(secret: string | Uint8Array): string {
  return hash('sha256', secret, 'base64url')
}
