import { createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createCsr, verifyCsr } from '../../src/identity/csr.ts'
import { readElements, readSequence } from '../../src/identity/der-reader.ts'
import { derBitString, derElement, derSequence, derUnsigned } from '../../src/identity/der-writer.ts'
import { generateKey, spkiOf } from '../../src/identity/keys.ts'
import { ecdsaWithSha256 } from '../../src/identity/oids.ts'
import { reasonOf, temporaryDir } from './fixtures.ts'
import { openssl, opensslMissing } from './openssl.ts'

const key = generateKey()

describe('certificate request', () => {
  test('gives back the key it was made for', () => {
    const { publicKey } = verifyCsr(createCsr(key))
    expect(createPublicKey(key).equals(publicKey)).toBe(true)
    expect(spkiOf(publicKey)).toEqual(new Uint8Array(publicKey.export({ type: 'spki', format: 'der' })))
  })

  test.each([
    ['signed by another key', () => request({ signer: generateKey() })],
    ['of version 2', () => request({ version: 1 })],
    ['without attributes', () => request({ attributes: [] })],
    ['with fields after the attributes', () => request({ attributes: [derElement(0xa0), derElement(0xa1)] })],
    ['with another algorithm named', () => request({ algorithm: derSequence() })],
    ['followed by a byte', () => Buffer.concat([createCsr(key), Uint8Array.of(0)])],
    ['with an element more', () => withElementMore(createCsr(key))],
    ['that is a certificate-sized block of zeros', () => new Uint8Array(500)],
    ['that is empty', () => new Uint8Array()],
    ['longer than 4 KiB', () => request({ attributes: [derElement(0xa0, new Uint8Array(4096))] })],
    ['for a P-384 key', () => request({ signer: generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey })],
    ['for an RSA key', () => request({ signer: generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey })],
    ['for a compressed point', () => request({ spki: compressed() })],
    [
      'for a point that is not on the curve',
      () => request({ spki: Buffer.concat([spkiOf(key).subarray(0, 90), Uint8Array.of(0)]) }),
    ],
  ])('%s is refused', (_name, make) => {
    expect(reasonOf(() => verifyCsr(make()))).toBe('CSR_INVALID')
  })

  test.skipIf(opensslMissing !== '')(`is accepted by openssl, and openssl's is accepted here ${opensslMissing}`, () => {
    expect(openssl(['req', '-inform', 'DER', '-verify', '-noout', '-text'], createCsr(key))).toContain('prime256v1')
    const keyPath = join(temporaryDir(), 'key.pem')
    const csrPath = `${keyPath}.csr`
    writeFileSync(keyPath, key.export({ type: 'pkcs8', format: 'pem' }))
    openssl([
      'req',
      '-new',
      '-key',
      keyPath,
      '-subj',
      '/CN=ignored',
      '-addext',
      'subjectAltName=DNS:ignored',
      '-outform',
      'DER',
      '-out',
      csrPath,
    ])
    const { publicKey } = verifyCsr(Buffer.from(openssl(['base64', '-in', csrPath]), 'base64'))
    expect(Buffer.from(spkiOf(publicKey)).equals(spkiOf(key))).toBe(true)
  })
})

/** A request for `key` with one thing changed, signed anew. */
function request(change: {
  readonly signer?: typeof key
  readonly version?: number
  readonly attributes?: readonly Uint8Array[]
  readonly algorithm?: Uint8Array
  readonly spki?: Uint8Array
}): Uint8Array {
  const signer = change.signer ?? key
  const ownSpki =
    signer.asymmetricKeyType === 'ec' && signer.asymmetricKeyDetails?.namedCurve === 'prime256v1' ? key : signer
  const info = derSequence(
    derUnsigned(Uint8Array.of(change.version ?? 0)),
    derSequence(),
    change.spki ?? spkiOf(ownSpki),
    ...(change.attributes ?? [derElement(0xa0)]),
  )
  return derSequence(info, change.algorithm ?? ecdsaWithSha256, derBitString(sign('sha256', info, signer)))
}

function withElementMore(csr: Uint8Array): Uint8Array {
  return derSequence(...readSequence(csr).map(({ raw }) => raw), derSequence())
}

/** The same point with one coordinate and a sign. */
function compressed(): Uint8Array {
  const [algorithm] = readElements(readSequence(derSequence(spkiOf(key)))[0]?.content ?? new Uint8Array())
  const point = spkiOf(key).subarray(-65)
  const sign = (point[64] ?? 0) % 2 === 0 ? 2 : 3
  return derSequence(
    algorithm?.raw ?? new Uint8Array(),
    derBitString(Buffer.concat([Uint8Array.of(sign), point.subarray(1, 33)])),
  )
}
