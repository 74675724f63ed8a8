import { derOid, derSequence } from './der-writer.ts'

/** Object identifiers of the certificates written here, as DER [RFC 5280 4.2, RFC 5758 3.2]. */
export const oid = {
  organization: derOid('2.5.4.10'),
  commonName: derOid('2.5.4.3'),
  subjectKeyId: derOid('2.5.29.14'),
  keyUsage: derOid('2.5.29.15'),
  subjectAltName: derOid('2.5.29.17'),
  basicConstraints: derOid('2.5.29.19'),
  nameConstraints: derOid('2.5.29.30'),
  authorityKeyId: derOid('2.5.29.35'),
  extendedKeyUsage: derOid('2.5.29.37'),
  serverAuth: derOid('1.3.6.1.5.5.7.3.1'),
  clientAuth: derOid('1.3.6.1.5.5.7.3.2'),
} as const

/** AlgorithmIdentifier ecdsa-with-SHA256, without parameters. */
export const ecdsaWithSha256: Uint8Array = derSequence(derOid('1.2.840.10045.4.3.2'))

/** Signature algorithms accepted in a chain: SHA-2 with ECDSA, RSA (PKCS #1 and PSS), and Ed25519. */
export const signatureAlgorithms: readonly Uint8Array[] = [
  '1.2.840.10045.4.3.2',
  '1.2.840.10045.4.3.3',
  '1.2.840.10045.4.3.4',
  '1.2.840.113549.1.1.10',
  '1.2.840.113549.1.1.11',
  '1.2.840.113549.1.1.12',
  '1.2.840.113549.1.1.13',
  '1.3.101.112',
].map(derOid)
