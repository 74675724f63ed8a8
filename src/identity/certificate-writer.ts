import { hash, type KeyObject, randomBytes, sign } from 'node:crypto'
import {
  derBitString,
  derElement,
  derOctetString,
  derSequence,
  derSetOf,
  derText,
  derTime,
  derTrue,
  derUnsigned,
} from './der-writer.ts'
import { spkiOf } from './keys.ts'
import { ecdsaWithSha256, oid } from './oids.ts'

/** The signer of a certificate: its subject's common name and its private key. */
export interface Issuer {
  readonly name: string
  readonly privateKey: KeyObject
}

/** What a certificate says; times are wall milliseconds and lose their fraction of a second. */
export interface CertificateTemplate {
  /** Common name of the subject; an SVID needs none. */
  readonly name?: string
  readonly publicKey: KeyObject
  readonly spiffeId: string
  readonly notBeforeMs: number
  readonly notAfterMs: number
  /** Present for a signing certificate: how many more signing certificates may follow below it. */
  readonly pathLength?: number
}

/** Signs an X.509 v3 certificate in the shape of an X.509-SVID or its signer, as DER [SPIFFE X509-SVID 4]. */
export function writeCertificate(template: CertificateTemplate, issuer: Issuer): Uint8Array {
  const signed = derSequence(
    derElement(0xa0, derUnsigned(Uint8Array.of(version3))),
    derUnsigned(randomBytes(serialBytes)),
    ecdsaWithSha256,
    distinguishedName(issuer.name),
    derSequence(derTime(template.notBeforeMs), derTime(template.notAfterMs)),
    distinguishedName(template.name),
    spkiOf(template.publicKey),
    derElement(0xa3, derSequence(...extensions(template, issuer))),
  )
  return derSequence(signed, ecdsaWithSha256, derBitString(sign('sha256', signed, issuer.privateKey)))
}

/** The number that stands for X.509 version 3. */
const version3 = 2
/** [RFC 5280 4.1.2.2] at most 20 bytes; 128 random bits cannot be guessed or met twice. */
const serialBytes = 16

function distinguishedName(commonName: string | undefined): Uint8Array {
  const organization = derSetOf(derSequence(oid.organization, derText('nsm')))
  if (commonName === undefined) return derSequence(organization)
  return derSequence(organization, derSetOf(derSequence(oid.commonName, derText(commonName))))
}

function extensions(template: CertificateTemplate, issuer: Issuer): Uint8Array[] {
  const uri = derElement(0x86, Buffer.from(template.spiffeId, 'ascii'))
  const always = [
    extension(oid.subjectKeyId, derOctetString(keyId(template.publicKey))),
    extension(oid.authorityKeyId, derSequence(derElement(0x80, keyId(issuer.privateKey)))),
    extension(oid.subjectAltName, derSequence(uri)),
  ]
  return [...always, ...(template.pathLength === undefined ? leafExtensions : signerExtensions(template.pathLength))]
}

const leafExtensions = [
  critical(oid.basicConstraints, derSequence()),
  /** digitalSignature is bit 0. */
  critical(oid.keyUsage, derBitString(Uint8Array.of(0x80), 7)),
  extension(oid.extendedKeyUsage, derSequence(oid.serverAuth, oid.clientAuth)),
]

function signerExtensions(pathLength: number): Uint8Array[] {
  return [
    critical(oid.basicConstraints, derSequence(derTrue, derUnsigned(Uint8Array.of(pathLength)))),
    /** keyCertSign is bit 5, cRLSign bit 6. */
    critical(oid.keyUsage, derBitString(Uint8Array.of(0x06), 1)),
  ]
}

function extension(id: Uint8Array, value: Uint8Array): Uint8Array {
  return derSequence(id, derOctetString(value))
}

function critical(id: Uint8Array, value: Uint8Array): Uint8Array {
  return derSequence(id, derTrue, derOctetString(value))
}

/** [RFC 7093 2] method 1: the left 160 bits of SHA-256 over the key bits. */
function keyId(key: KeyObject): Uint8Array {
  const point = spkiOf(key).subarray(-65)
  return hash('sha256', point, 'buffer').subarray(0, 20)
}
