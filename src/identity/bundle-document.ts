import { createPublicKey, type JsonWebKey } from 'node:crypto'
import { isJsonObject, type JsonObject } from '../base/json.ts'
import { duplicateKey } from '../base/json-keys.ts'
import { readCertificate } from './certificate.ts'
import { certificatesFromPem } from './pem.ts'
import { refusal } from './refusal.ts'

/** What one trust domain believes in; the document itself does not say which domain [SPIFFE Trust Domain and Bundle 4]. */
export interface BundleDocument {
  /** DER; none: everything of the domain is revoked. */
  readonly roots: readonly Uint8Array[]
  readonly jwtKeys: readonly JwtKey[]
  /** Grows with each change; undefined when the domain does not count. */
  readonly sequence: number | undefined
  /** How often the domain wants to be asked. */
  readonly refreshHintMs: number | undefined
}

/** A public key that signs JWT-SVIDs. */
export interface JwtKey {
  readonly kid: string
  readonly jwk: JsonWebKey
}

/** Ours: a domain in the middle of a change has two or three. */
const keysMax = 64

/** Reads SPIFFE's JSON, or PEM certificates; throws `IDENTITY` (`BUNDLE_INVALID`). */
export function readBundle(text: string): BundleDocument {
  if (!text.includes('-----BEGIN CERTIFICATE-----')) return parseBundle(text)
  const roots = certificatesFromPem(text)
  if (roots.length > keysMax) throw invalid(`it has more than ${keysMax} certificates`)
  return { roots: roots.map(checkedRoot), jwtKeys: [], sequence: undefined, refreshHintMs: undefined }
}

/**
 * Reads a JWK set. Entries of a use or kind that is not known are skipped, as the standard wants; one that says it is a root
 * or a key of JWT-SVIDs and is not makes the whole document invalid. Throws `IDENTITY` (`BUNDLE_INVALID`).
 */
export function parseBundle(text: string): BundleDocument {
  const { keys, spiffe_sequence: sequence, spiffe_refresh_hint: hintSeconds } = parseObject(text)
  if (!Array.isArray(keys)) throw invalid('it has no list "keys"')
  if (keys.length > keysMax) throw invalid(`it has more than ${keysMax} keys`)
  const entries = keys.map((key: unknown) => {
    if (!isJsonObject(key)) throw invalid('a key is not an object')
    return key
  })
  const hint = count(hintSeconds, 'spiffe_refresh_hint', hintMaxSeconds)
  return {
    roots: entries.filter(({ use }) => use === 'x509-svid').flatMap(rootOf),
    jwtKeys: entries.filter(({ use, kty }) => use === 'jwt-svid' && (kty === 'EC' || kty === 'RSA')).map(jwtKeyOf),
    sequence: count(sequence, 'spiffe_sequence'),
    refreshHintMs: hint === undefined ? undefined : hint * 1_000,
  }
}

/** The same as text; the roots must be readable. */
export function formatBundle({ roots, jwtKeys, sequence, refreshHintMs }: BundleDocument): string {
  const document = {
    keys: [
      ...roots.map((der) => ({
        use: 'x509-svid',
        ...publicPart(readCertificate(der).x509.publicKey.export({ format: 'jwk' })),
        x5c: [Buffer.from(der).toString('base64')],
      })),
      ...jwtKeys.map(({ kid, jwk }) => ({ use: 'jwt-svid', kid, ...publicPart(jwk) })),
    ],
    ...(sequence === undefined ? {} : { spiffe_sequence: sequence }),
    ...(refreshHintMs === undefined ? {} : { spiffe_refresh_hint: Math.round(refreshHintMs / 1_000) }),
  }
  return `${JSON.stringify(document, undefined, 2)}\n`
}

function parseObject(text: string): JsonObject {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw invalid('it is not JSON', cause)
  }
  const twice = duplicateKey(text)
  if (twice !== undefined) throw invalid(`${JSON.stringify(twice.slice(0, 40))} stands twice in it`)
  if (!isJsonObject(value)) throw invalid('it is not a JSON object')
  return value
}

/** An empty `x5c` is no certificate, and several are a chain: neither is a root. */
function rootOf({ kid, x5c }: JsonObject): Uint8Array[] {
  if (kid !== undefined) throw invalid('a key for X.509-SVIDs has a "kid"')
  if (!Array.isArray(x5c)) throw invalid('a key for X.509-SVIDs has no "x5c"')
  if (x5c.length === 0) return []
  const [text]: readonly unknown[] = x5c
  if (x5c.length > 1 || typeof text !== 'string') throw invalid('an "x5c" does not hold one certificate')
  const der = Buffer.from(text, 'base64')
  if (der.toString('base64') !== text) throw invalid('an "x5c" is not base64')
  return [checkedRoot(der)]
}

function checkedRoot(der: Uint8Array): Uint8Array {
  let isCa: boolean
  try {
    ;({ isCa } = readCertificate(der))
  } catch (cause) {
    throw invalid('a certificate cannot be read', cause)
  }
  if (!isCa) throw invalid('a certificate may not sign others')
  return der
}

function jwtKeyOf(entry: JsonObject): JwtKey {
  const { kid } = entry
  if (typeof kid !== 'string' || kid === '') throw invalid('a key for JWT-SVIDs has no "kid"')
  const jwk = publicPart(entry)
  try {
    createPublicKey({ key: jwk, format: 'jwk' })
  } catch (cause) {
    throw invalid('a key for JWT-SVIDs cannot be read', cause)
  }
  return { kid, jwk }
}

/** What of a JWK is the public key; nothing else is kept. [RFC 7518 6] */
function publicPart(from: JsonObject | JsonWebKey): JsonWebKey {
  const names = ['kty', 'crv', 'x', 'y', 'n', 'e'] as const
  const read = new Map<string, unknown>(Object.entries(from))
  const parts = names.flatMap((name) => {
    const value = read.get(name)
    return typeof value === 'string' ? [[name, value] as const] : []
  })
  return Object.fromEntries(parts)
}

/** Beyond it milliseconds are no whole numbers. */
const hintMaxSeconds = Number.MAX_SAFE_INTEGER / 1_000

function count(value: unknown, name: string, max = Number.MAX_VALUE): number | undefined {
  if (value === undefined) return undefined
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max) return value
  throw invalid(`"${name}" is not a whole number`)
}

function invalid(why: string, cause?: unknown) {
  const next = 'ask whoever runs the trust domain for its bundle in the SPIFFE format'
  return refusal('BUNDLE_INVALID', `the trust bundle cannot be used: ${why}`, { next, cause })
}
