import { type KeyObject, sign, verify } from 'node:crypto'
import { derTag, expectTag, readBitString, readElements, readSequence, readSmallInteger } from './der-reader.ts'
import { derBitString, derElement, derSequence, derUnsigned } from './der-writer.ts'
import { readP256Spki, spkiOf } from './keys.ts'
import { ecdsaWithSha256 } from './oids.ts'
import { refusal } from './refusal.ts'

/** A PKCS #10 request (DER) with an empty subject, signed by the key it is for [RFC 2986 4]. */
export function createCsr(privateKey: KeyObject): Uint8Array {
  const info = derSequence(derUnsigned(Uint8Array.of(0)), derSequence(), spkiOf(privateKey), derElement(attributesTag))
  return derSequence(info, ecdsaWithSha256, derBitString(sign('sha256', info, privateKey)))
}

/**
 * Checks a PKCS #10 request: strict DER, P-256 only, signed by its own key. Subject and attributes are ignored: the
 * server alone names the holder. Throws `IDENTITY` (`CSR_INVALID`).
 */
export function verifyCsr(der: Uint8Array): { readonly publicKey: KeyObject } {
  if (der.length > csrMaxBytes) throw invalid(`longer than ${csrMaxBytes} bytes`)
  try {
    return { publicKey: readSelfSigned(der) }
  } catch (error) {
    throw invalid(error instanceof Error ? error.message : 'unreadable', error)
  }
}

/** Ours: a P-256 request has about 200 bytes; the rest is room for attributes that other tools add. */
const csrMaxBytes = 4096
/** attributes [0] IMPLICIT SET OF Attribute. */
const attributesTag = 0xa0

function readSelfSigned(der: Uint8Array): KeyObject {
  const [info, algorithm, signature, ...more] = readSequence(der)
  const signed = expectTag(info, derTag.sequence)
  const [version, subject, spki, attributes, ...others] = readElements(signed.content)
  if (readSmallInteger(version) !== 0 || more.length > 0 || others.length > 0) throw invalid('not PKCS #10 version 1')
  expectTag(subject, derTag.sequence)
  expectTag(attributes, attributesTag)
  if (!Buffer.from(expectTag(algorithm, derTag.sequence).raw).equals(ecdsaWithSha256)) {
    throw invalid('not signed with ECDSA and SHA-256')
  }
  const publicKey = readP256Spki(expectTag(spki, derTag.sequence).raw)
  if (!verify('sha256', signed.raw, publicKey, readBitString(signature))) throw invalid('the signature does not match')
  return publicKey
}

function invalid(why: string, cause?: unknown) {
  return refusal('CSR_INVALID', `the certificate request is refused: ${why}`, {
    next: 'send a PKCS #10 request in DER for an ECDSA P-256 key, signed by that key',
    cause,
  })
}
