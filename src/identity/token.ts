import { sign, verify, X509Certificate } from 'node:crypto'
import { isP256 } from './keys.ts'
import { refusal } from './refusal.ts'
import type { Svid } from './source.ts'

/** The claims of a hop token; `expMs` in wall milliseconds. */
export interface TokenClaims {
  readonly sub: string
  readonly aud: readonly string[]
  readonly expMs: number
}

/** Signs a hop token (JWT, ES256) that ends at `expiresMs` or with the SVID, whichever is first [NSM sdk spiffejwt]. */
export function signToken(wanted: {
  readonly svid: Svid
  readonly audience: string
  readonly expiresMs: number
}): string {
  const exp = Math.floor(Math.min(wanted.expiresMs, wanted.svid.notAfterMs) / 1000)
  const body = `${encode({ alg: 'ES256', typ: 'JWT' })}.${encode({ sub: wanted.svid.spiffeId, aud: [wanted.audience], exp })}`
  const signature = sign('sha256', Buffer.from(body), { key: wanted.svid.privateKey, dsaEncoding: 'ieee-p1363' })
  return `${body}.${signature.toString('base64url')}`
}

/**
 * Reads the claims WITHOUT checking the signature; throws `IDENTITY` (`TOKEN_INVALID`), never quoting the token. An `aud`
 * that is no list of texts names nobody: RFC 7519 allows a single text, NSM's policies do not. [NSM sdk tokens_chained]
 */
export function decodeToken(jwt: string): TokenClaims {
  const { payload } = split(jwt)
  const { sub, aud, exp } = parseObject(payload)
  if (typeof sub !== 'string' || sub === '') throw invalid('it has no "sub"')
  if (typeof exp !== 'number' || !Number.isFinite(exp)) throw invalid('it has no "exp"')
  return { sub, aud: isTextList(aud) ? aud : [], expMs: exp * 1000 }
}

/**
 * True when the token is ES256 and signed by the key of the certificate (DER). The algorithm is ours to choose: a header
 * that names another, also `none`, is false. Says nothing about `sub`, `aud` and `exp`.
 */
export function verifyToken(jwt: string, leafCertificate: Uint8Array): boolean {
  try {
    const { header, body, signature } = split(jwt)
    const { alg, crit } = parseObject(header)
    if (alg !== 'ES256' || crit !== undefined || signature.length !== es256SignatureBytes) return false
    const { publicKey } = new X509Certificate(leafCertificate)
    return isP256(publicKey) && verify('sha256', body, { key: publicKey, dsaEncoding: 'ieee-p1363' }, signature)
  } catch {
    return false
  }
}

/** Ours: NSM's hop tokens have about 300 bytes. */
const tokenMaxBytes = 16 * 1024
/** [RFC 7518 3.4] R and S, 32 bytes each; a DER signature has another length. */
const es256SignatureBytes = 64
const compactJws = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$/

function encode(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

function split(jwt: string) {
  if (jwt.length > tokenMaxBytes || !compactJws.test(jwt)) throw invalid('it is not a compact JWT')
  const [header = '', payload = '', signature = ''] = jwt.split('.')
  return { header, payload, body: Buffer.from(`${header}.${payload}`), signature: Buffer.from(signature, 'base64url') }
}

function parseObject(part: string): Record<string, unknown> {
  const value = parseJson(Buffer.from(part, 'base64url').toString('utf8'))
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid('a part is not a JSON object')
  return { ...value }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw invalid('a part is not JSON')
  }
}

function isTextList(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string')
}

function invalid(why: string) {
  return refusal('TOKEN_INVALID', `the token cannot be read: ${why}`, { next: 'check the program that sent it' })
}
