import { type KeyObject, sign, verify, X509Certificate } from 'node:crypto'
import { isJsonObject, isTexts } from '../base/json.ts'
import { readSequence } from './der-reader.ts'
import { derSequence, derUnsigned } from './der-writer.ts'
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
  const body = `${ownHeader}.${encode({ sub: wanted.svid.spiffeId, aud: [wanted.audience], exp })}`
  const signature = fromDer(sign('sha256', Buffer.from(body), wanted.svid.privateKey))
  return `${body}.${signature.toString('base64url')}`
}

/**
 * Reads the claims WITHOUT checking the signature; throws `IDENTITY` (`TOKEN_INVALID`), never quoting the token. An `aud`
 * that is no list of texts names nobody: RFC 7519 allows a single text, NSM's policies do not. [NSM sdk tokens_chained]
 */
export function decodeToken(jwt: string): TokenClaims {
  const known = decoded.get(jwt) ?? olderDecoded.get(jwt)
  if (known) return known
  const claims = readClaims(split(jwt).payload)
  if (jwt.length <= memoMaxCharacters) remember(jwt, claims)
  return claims
}

/**
 * True when the token is ES256 and signed by the key of the certificate (DER). The algorithm is ours to choose: a header
 * that names another, also `none`, is false. Says nothing about `sub`, `aud` and `exp`. The certificate's key is read
 * once: its bytes must never be written to.
 */
export function verifyToken(jwt: string, leafCertificate: Uint8Array): boolean {
  try {
    const { header, body, signature } = split(jwt)
    if (header !== ownHeader && !isEs256(parseObject(header))) return false
    const key = signerKey(leafCertificate)
    return (
      key !== undefined && signature.length === es256SignatureBytes && verify('sha256', body, key, toDer(signature))
    )
  } catch {
    return false
  }
}

function readClaims(payload: string): TokenClaims {
  const { sub, aud, exp } = parseObject(payload)
  if (typeof sub !== 'string' || sub === '') throw invalid('it has no "sub"')
  if (typeof exp !== 'number' || !Number.isFinite(exp)) throw invalid('it has no "exp"')
  return { sub, aud: isTexts(aud) ? aud : [], expMs: exp * 1000 }
}

/**
 * The claims of tokens by their exact text, in two generations: the policies and the hops of one request read the same
 * few tokens five times. What a text says never changes, so nothing here expires; a signature's verdict is not kept.
 */
let decoded = new Map<string, TokenClaims>()
let olderDecoded = new Map<string, TokenClaims>()
/** Ours: tokens of one generation, those of a dozen requests; more would grow old before they are garbage. */
const memoMaxTokens = 32
/** Ours: a real token has about 350. */
const memoMaxCharacters = 1_024

function remember(jwt: string, claims: TokenClaims): void {
  if (decoded.size >= memoMaxTokens) {
    olderDecoded = decoded
    decoded = new Map()
  }
  decoded.set(jwt, claims)
}

/** By the array itself, which lives as long as its TLS connection: to read it again costs as much as a verification. */
const signerKeys = new WeakMap<Uint8Array, { readonly key: KeyObject | undefined }>()

/** Undefined for a key of another kind; throws for what is no certificate. */
function signerKey(leafCertificate: Uint8Array): KeyObject | undefined {
  const known = signerKeys.get(leafCertificate)
  if (known) return known.key
  const { publicKey } = new X509Certificate(leafCertificate)
  const key = isP256(publicKey) ? publicKey : undefined
  signerKeys.set(leafCertificate, { key })
  return key
}

function isEs256({ alg, crit }: Readonly<Record<string, unknown>>): boolean {
  return alg === 'ES256' && crit === undefined
}

/** [RFC 3279 2.2.3] Node spends 20 us on an option for R and S side by side, as a JWT has them, and none on this form. */
function toDer(signature: Uint8Array): Uint8Array {
  const half = es256SignatureBytes / 2
  return derSequence(derUnsigned(signature.subarray(0, half)), derUnsigned(signature.subarray(half)))
}

/** An INTEGER is as short as it can be, and has one more byte where its top bit is set. */
function fromDer(der: Uint8Array): Buffer {
  const half = es256SignatureBytes / 2
  const signature = Buffer.alloc(es256SignatureBytes)
  for (const [i, { content }] of readSequence(der).entries()) {
    const digits = content.subarray(-half)
    signature.set(digits, (i + 1) * half - digits.length)
  }
  return signature
}

/** Ours: NSM's hop tokens have about 300 bytes. */
const tokenMaxBytes = 16 * 1024
/** [RFC 7518 3.4] R and S, 32 bytes each; a DER signature has another length. */
const es256SignatureBytes = 64
/** The header of every token NSM's programs and ours sign. */
const ownHeader = encode({ alg: 'ES256', typ: 'JWT' })
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
  if (!isJsonObject(value)) throw invalid('a part is not a JSON object')
  return { ...value }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw invalid('a part is not JSON')
  }
}

function invalid(why: string) {
  return refusal('TOKEN_INVALID', `the token cannot be read: ${why}`, { next: 'check the program that sent it' })
}
