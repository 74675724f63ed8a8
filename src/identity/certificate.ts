import { type KeyObject, X509Certificate } from 'node:crypto'
import {
  type DerElement,
  derTag,
  expectTag,
  readBoolean,
  readElement,
  readElements,
  readSequence,
  readSmallInteger,
} from './der-reader.ts'
import { oid, signatureAlgorithms } from './oids.ts'
import { refusal } from './refusal.ts'

/** The fields of a certificate that SPIFFE verification looks at; times are wall milliseconds. */
export interface Certificate {
  readonly der: Uint8Array
  /** For name and signature checks; its `keyUsage` is the extended one, so nothing else is read from it. */
  readonly x509: X509Certificate
  readonly publicKey: KeyObject
  readonly spki: Uint8Array
  readonly notBeforeMs: number
  readonly notAfterMs: number
  readonly uris: readonly string[]
  readonly isCa: boolean
  readonly pathLength: number | undefined
  /** Undefined when the certificate does not restrict its use. */
  readonly keyUsage: KeyUsage | undefined
  /**
   * False when the certificate must not be used: a critical extension or name constraints that are not understood here
   * [RFC 5280 4.2], a signature algorithm that is too weak, or an RSA key below 2048 bits.
   */
  readonly isUsable: boolean
}

/** The uses of a key that decide between a leaf and a signer. */
export interface KeyUsage {
  readonly digitalSignature: boolean
  readonly certSign: boolean
  readonly crlSign: boolean
}

/** Reads one certificate strictly; throws `IDENTITY` (`CERTIFICATE_INVALID`). */
export function readCertificate(der: Uint8Array): Certificate {
  try {
    return fields(der, new X509Certificate(der))
  } catch (error) {
    const why = error instanceof Error ? error.message : 'unreadable'
    throw refusal('CERTIFICATE_INVALID', `the certificate cannot be read: ${why}`, { cause: error })
  }
}

/** The serial number of a certificate that was made here, as OpenSSL writes it: upper-case hexadecimal. */
export function serialNumberOf(der: Uint8Array): string {
  const [signed] = readSequence(der)
  const [, serial] = readElements(expectTag(signed, derTag.sequence).content)
  return hex(expectTag(serial, derTag.integer).content)
    .replace(/^00(?=.)/, '')
    .toUpperCase()
}

/** [RFC 5280 4.1] */
function fields(der: Uint8Array, x509: X509Certificate): Certificate {
  const [signed, algorithm] = readSequence(der)
  const all = readElements(expectTag(signed, derTag.sequence).content)
  const [version, ...rest] = all
  if (readSmallInteger(readElement(expectTag(version, 0xa0).content)) !== 2) throw malformed('not X.509 version 3')
  const [, , , validity, , spki, ...optional] = rest
  const [notBefore, notAfter] = readElements(expectTag(validity, derTag.sequence).content)
  const block = optional.find(({ tag }) => tag === 0xa3)
  const found = readExtensions(block)
  const { publicKey } = x509
  return {
    der,
    x509,
    publicKey,
    spki: expectTag(spki, derTag.sequence).raw,
    notBeforeMs: readTime(notBefore),
    notAfterMs: readTime(notAfter),
    uris: readUris(found.get(names.subjectAltName), x509),
    ...readBasicConstraints(found.get(names.basicConstraints)),
    keyUsage: readKeyUsage(found.get(names.keyUsage)),
    isUsable: isUnderstood(found) && isStrong(publicKey, algorithm),
  }
}

interface Extension {
  readonly isCritical: boolean
  readonly value: Uint8Array
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
const names = {
  subjectAltName: hex(oid.subjectAltName),
  basicConstraints: hex(oid.basicConstraints),
  keyUsage: hex(oid.keyUsage),
} as const
/** SPIFFE allows any extended key usage [go-spiffe x509svid/verify.go]. */
const understood = new Set<string>([...Object.values(names), hex(oid.extendedKeyUsage)])
const nameConstraints = hex(oid.nameConstraints)
const strongAlgorithms = new Set<string>(signatureAlgorithms.map(hex))
const rsaMinBits = 2048

function isUnderstood(found: ReadonlyMap<string, Extension>): boolean {
  if (found.has(nameConstraints)) return false
  return [...found].every(([id, { isCritical }]) => !isCritical || understood.has(id))
}

function isStrong(publicKey: KeyObject, algorithm: DerElement | undefined): boolean {
  const [id] = readElements(expectTag(algorithm, derTag.sequence).content)
  const { modulusLength } = publicKey.asymmetricKeyDetails ?? {}
  return strongAlgorithms.has(hex(expectTag(id, derTag.oid).raw)) && (modulusLength ?? rsaMinBits) >= rsaMinBits
}

function readExtensions(block: DerElement | undefined): Map<string, Extension> {
  const found = new Map<string, Extension>()
  if (!block) return found
  for (const { raw } of readSequence(block.content)) {
    const [id, ...rest] = readSequence(raw)
    const name = hex(expectTag(id, derTag.oid).raw)
    const isCritical = rest.length === 2 && readBoolean(rest[0])
    if (found.has(name)) throw malformed('an extension appears twice')
    if (rest.length > 2) throw malformed('an extension has too many parts')
    found.set(name, { isCritical, value: expectTag(rest.at(-1), derTag.octetString).content })
  }
  return found
}

/** [RFC 5280 4.2.1.6] uniformResourceIdentifier is [6] IA5String; the other kinds play no part in identity. */
function readUris(extension: Extension | undefined, { subjectAltName }: X509Certificate): string[] {
  if (!extension) return []
  // One broken name makes all of them void, for every other reader too.
  if (subjectAltName === undefined) throw malformed('subjectAltName cannot be read')
  return readSequence(extension.value)
    .filter(({ tag }) => tag === 0x86)
    .map(({ content }) => Buffer.from(content).toString('latin1'))
}

/** [RFC 5280 4.2.1.9] */
function readBasicConstraints(extension: Extension | undefined): Pick<Certificate, 'isCa' | 'pathLength'> {
  if (!extension) return { isCa: false, pathLength: undefined }
  const [first, second, ...more] = readSequence(extension.value)
  if (more.length > 0) throw malformed('basicConstraints has too many parts')
  const isCa = first !== undefined && readBoolean(first)
  return { isCa, pathLength: second && readSmallInteger(second) }
}

/** [RFC 5280 4.2.1.3] bit 0 is the highest bit of the first byte. */
function readKeyUsage(extension: Extension | undefined): KeyUsage | undefined {
  if (!extension) return undefined
  const { content } = readElement(extension.value, derTag.bitString)
  const [unusedBits = 8, bits = 0] = content
  const last = content.length > 1 ? (content.at(-1) ?? 0) : 0
  if (unusedBits > 7 || (last & ((1 << unusedBits) - 1)) !== 0) throw malformed('keyUsage is not a BIT STRING')
  return { digitalSignature: (bits & 0x80) !== 0, certSign: (bits & 0x04) !== 0, crlSign: (bits & 0x02) !== 0 }
}

/** [RFC 5280 4.1.2.5] always with seconds and always UTC; a two-digit year from 50 on is of the last century. */
function readTime(element: DerElement | undefined): number {
  const text = Buffer.from(element?.content ?? []).toString('latin1')
  const isUtc = element?.tag === derTag.utcTime
  if (!isUtc && element?.tag !== derTag.generalizedTime) throw malformed('a time expected')
  const full = isUtc ? `${text < '50' ? '20' : '19'}${text}` : text
  const found = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(full)
  if (!found) throw malformed('a time in UTC with seconds expected')
  const [, year, month, day, hour, minute, second] = found.map(Number)
  const wallMs = Date.UTC(year ?? 0, (month ?? 0) - 1, day, hour, minute, second)
  // A month 13 or an hour 24 would be the next one.
  if (
    new Date(wallMs)
      .toISOString()
      .replace(/[^0-9]/g, '')
      .slice(0, 14) !== full.slice(0, 14)
  )
    throw malformed('a time')
  return wallMs
}

function malformed(why: string) {
  return refusal('CERTIFICATE_INVALID', why)
}
