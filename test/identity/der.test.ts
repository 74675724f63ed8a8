import { createPublicKey, X509Certificate } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { readCertificate } from '../../src/identity/certificate.ts'
import { createCsr, verifyCsr } from '../../src/identity/csr.ts'
import {
  derTag,
  readBoolean,
  readElement,
  readElements,
  readSmallInteger,
  splitDer,
} from '../../src/identity/der-reader.ts'
import { derBitString, derElement, derOid, derSequence, derTime, derUnsigned } from '../../src/identity/der-writer.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { verifyPeer } from '../../src/identity/verify.ts'
import { leafBelow, reasonOf, rootSigner, testNowMs } from './fixtures.ts'

const bytes = (hex: string) => Buffer.from(hex, 'hex')

describe('DER reader', () => {
  test.each([
    ['empty input', ''],
    ['a tag alone', '30'],
    ['content cut short', '300302'],
    ['the indefinite length', '30800201010000'],
    ['a long form for a short length', '30810100'],
    ['a length with a leading zero', `30820080${'00'.repeat(128)}`],
    ['a length of four bytes', '30840000000100'],
    ['a length above 64 KiB', `308301000100`],
    ['a length that is cut', '3082'],
    ['a long tag', '1f810100'],
    ['trailing bytes', '02010100'],
  ])('refuses %s', (_name, hex) => {
    expect(reasonOf(() => readElement(bytes(hex)))).toBe('DER_INVALID')
  })

  test('reads elements that follow each other and splits certificates the same way', () => {
    const [one, two] = [derSequence(derUnsigned(Uint8Array.of(1))), derSequence()]
    expect(readElements(Buffer.concat([one, two])).map(({ raw }) => Buffer.from(raw))).toEqual(
      [one, two].map((der) => Buffer.from(der)),
    )
    expect(splitDer(Buffer.concat([one, two])).length).toBe(2)
    expect(reasonOf(() => splitDer(derUnsigned(Uint8Array.of(1))))).toBe('DER_INVALID')
  })

  test.each([
    ['020100', 0],
    ['02017f', 127],
    ['02020080', 128],
    ['0203010000', 65_536],
  ])('reads INTEGER %s as %i', (hex, value) => {
    expect(readSmallInteger(readElement(bytes(hex)))).toBe(value)
  })

  test.each([['0200'], ['0201ff'], ['02020001'], [`0207${'01'.repeat(7)}`], ['0101ff']])(
    'refuses %s as a small INTEGER',
    (hex) => {
      expect(reasonOf(() => readSmallInteger(readElement(bytes(hex))))).toBe('DER_INVALID')
    },
  )

  test('knows two BOOLEAN values only', () => {
    expect([readBoolean(readElement(bytes('0101ff'))), readBoolean(readElement(bytes('010100')))]).toEqual([
      true,
      false,
    ])
    expect(reasonOf(() => readBoolean(readElement(bytes('010101'))))).toBe('DER_INVALID')
  })

  test('throws nothing but NsmError on any bytes, in every parser above it', () => {
    const roots = [rootSigner().der]
    const parsers: ((input: Uint8Array) => unknown)[] = [
      readElement,
      readElements,
      splitDer,
      readCertificate,
      verifyCsr,
      (input) => verifyPeer({ chain: [input], bundles: new Map([['a.example', roots]]), nowMs: testNowMs }),
    ]
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (input) => {
        for (const parse of parsers) expectOnlyNsmError(() => parse(input))
      }),
      { numRuns: 2000 },
    )
  })

  test('throws nothing but NsmError on a good certificate or request with some bytes changed, and believes none of them', () => {
    const root = rootSigner()
    const leaf = leafBelow(root).der
    const csr = createCsr(generateKey())
    const bundles = new Map([['a.example', [root.der]]])
    const change = fc.tuple(fc.nat({ max: 2000 }), fc.integer({ min: 1, max: 255 }))
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        const damagedLeaf = damage(leaf, changes)
        const damagedCsr = damage(csr, changes)
        if (!damagedLeaf.equals(leaf)) {
          expect(expectOnlyNsmError(() => verifyPeer({ chain: [damagedLeaf], bundles, nowMs: testNowMs }))).toBe(
            'refused',
          )
        }
        if (!damagedCsr.equals(csr)) expect(expectOnlyNsmError(() => verifyCsr(damagedCsr))).toBe('refused')
      }),
      { numRuns: 1000 },
    )
  })
})

describe('DER writer', () => {
  test('writes what the reader reads, at every length class', () => {
    for (const size of [0, 1, 127, 128, 255, 256, 65_535, 65_536]) {
      const { tag, content } = readElement(derElement(derTag.octetString, new Uint8Array(size)))
      expect([tag, content.length]).toEqual([derTag.octetString, size])
    }
  })

  test('writes unsigned INTEGERs in the shortest form, never negative', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 20 }), (value) => {
        const { content } = readElement(derUnsigned(value), derTag.integer)
        expect(BigInt(`0x${Buffer.from(content).toString('hex')}`)).toBe(
          BigInt(`0x${Buffer.from(value).toString('hex')}`),
        )
        const [first = 0, second = 0] = content
        expect(first < 0x80 && (content.length === 1 || first !== 0 || second >= 0x80)).toBe(true)
      }),
    )
  })

  test.each([
    ['1.2.840.10045.4.3.2', '06082a8648ce3d040302'],
    ['2.5.29.17', '0603551d11'],
    ['1.3.6.1.5.5.7.3.1', '06082b06010505070301'],
  ])('writes %s as %s', (dotted, hex) => {
    expect(Buffer.from(derOid(dotted)).toString('hex')).toBe(hex)
  })

  test.each([
    [Date.UTC(2026, 10, 21, 12, 34, 56, 999), '170d3236313132313132333435365a'],
    [Date.UTC(2049, 11, 31, 23, 59, 59), '170d3439313233313233353935395a'],
    [Date.UTC(2050, 0, 1), '180f32303530303130313030303030305a'],
  ])('writes time %i as UTCTime until 2049 and as GeneralizedTime after', (wallMs, hex) => {
    expect(Buffer.from(derTime(wallMs)).toString('hex')).toBe(hex)
  })

  test('writes a BIT STRING with its count of unused bits', () => {
    expect(Buffer.from(derBitString(Uint8Array.of(0x80), 7)).toString('hex')).toBe('03020780')
  })
})

describe('certificate reader', () => {
  test('reads the times of a certificate as node:crypto does, also beyond 2049', () => {
    for (const notAfterMs of [testNowMs + 1_000, Date.UTC(2051, 5, 1)]) {
      const { der } = rootSigner({ notAfterMs })
      const { validTo, validFrom } = new X509Certificate(der)
      const read = readCertificate(der)
      expect([read.notBeforeMs, read.notAfterMs]).toEqual([Date.parse(validFrom), Date.parse(validTo)])
    }
  })

  test('reads the key of a certificate unchanged', () => {
    const { der, privateKey } = leafBelow(rootSigner())
    const spki = createPublicKey(privateKey).export({ type: 'spki', format: 'der' })
    expect(Buffer.from(readCertificate(der).spki).equals(spki)).toBe(true)
  })
})

function damage(der: Uint8Array, changes: readonly (readonly [number, number])[]): Buffer {
  const damaged = Buffer.from(der)
  for (const [at, by] of changes) damaged[at % damaged.length] = (damaged[at % damaged.length] ?? 0) ^ by
  return damaged
}

function expectOnlyNsmError(body: () => unknown): 'refused' | 'accepted' {
  try {
    body()
    return 'accepted'
  } catch (error) {
    expect(error).toBeInstanceOf(NsmError)
    return 'refused'
  }
}
