import { generateKeyPairSync } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { duplicateKey } from '../../src/base/json-keys.ts'
import { type BundleDocument, formatBundle, parseBundle, readBundle } from '../../src/identity/bundle-document.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { authorityOf, leafBelow, reasonOf, rootSigner } from './fixtures.ts'

const root = rootSigner().der
const other = rootSigner({ name: 'other root' }).der
const jwk = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' })
const x5c = (der: Uint8Array) => [Buffer.from(der).toString('base64')]
const whole = {
  keys: [
    { use: 'x509-svid', kty: 'EC', x5c: x5c(root) },
    { use: 'jwt-svid', kid: 'k1', ...jwk },
  ],
  spiffe_sequence: 7,
  spiffe_refresh_hint: 60,
}
const read = (change: object) => parseBundle(JSON.stringify({ ...whole, ...change }))
const keys = (...entries: unknown[]) => ({ keys: entries })

describe('parseBundle', () => {
  test('reads roots, keys of JWT-SVIDs, sequence and hint', () => {
    const bundle = parseBundle(JSON.stringify(whole))
    expect(bundle.roots.map((der) => Buffer.from(der).equals(root))).toEqual([true])
    expect(bundle.jwtKeys).toEqual([{ kid: 'k1', jwk: { kty: 'EC', crv: 'P-256', x: jwk.x, y: jwk.y } }])
    expect([bundle.sequence, bundle.refreshHintMs]).toEqual([7, 60_000])
  })

  test('needs neither sequence nor hint', () => {
    expect(parseBundle('{"keys":[]}')).toEqual({
      ...{ roots: [], jwtKeys: [], sequence: undefined, refreshHintMs: undefined },
    })
  })

  test.each<[string, object]>([
    ['another use', { use: 'sig', kty: 'EC', x5c: 'nonsense' }],
    ['no use', { kty: 'RSA' }],
    ['an empty x5c', { use: 'x509-svid', kty: 'EC', x5c: [] }],
    ['a kind of key that nobody knows', { use: 'jwt-svid', kty: 'OKP2', kid: 'k' }],
  ])('skips a key with %s', (_what, entry) => {
    expect(read(keys(entry, { use: 'x509-svid', kty: 'EC', x5c: x5c(root) })).roots).toHaveLength(1)
  })

  test.each<[string, object]>([
    ['no keys', { keys: undefined }],
    ['keys that are no list', { keys: {} }],
    ['a key that is no object', keys(1)],
    ['a null key', keys(null)],
    ['too many keys', { keys: Array.from({ length: 65 }, () => ({})) }],
    ['a root with a kid', keys({ use: 'x509-svid', kid: 'k', x5c: x5c(root) })],
    ['a root without x5c', keys({ use: 'x509-svid' })],
    ['two certificates in one x5c', keys({ use: 'x509-svid', x5c: [...x5c(root), ...x5c(other)] })],
    ['an x5c of a number', keys({ use: 'x509-svid', x5c: [1] })],
    ['an x5c in base64url', keys({ use: 'x509-svid', x5c: [Buffer.from(root).toString('base64url')] })],
    ['an x5c with blanks', keys({ use: 'x509-svid', x5c: [`${x5c(root)} `] })],
    ['a certificate that is none', keys({ use: 'x509-svid', x5c: ['AAAA'] })],
    ['a leaf as root', keys({ use: 'x509-svid', x5c: x5c(leafBelow(rootSigner()).der) })],
    ['a JWT key without kid', keys({ use: 'jwt-svid', ...jwk })],
    ['a JWT key with an empty kid', keys({ use: 'jwt-svid', kid: '', ...jwk })],
    ['a JWT key that is none', keys({ use: 'jwt-svid', kid: 'k', kty: 'EC', crv: 'P-256', x: 'AA', y: 'AA' })],
    ['a negative sequence', { spiffe_sequence: -1 }],
    ['a fraction as sequence', { spiffe_sequence: 1.5 }],
    ['a text as sequence', { spiffe_sequence: '7' }],
    ['a text as hint', { spiffe_refresh_hint: '60' }],
    ['a hint without end', { spiffe_refresh_hint: 1e306 }],
  ])('refuses %s', (_what, change) => {
    expect(reasonOf(() => read(change))).toBe('BUNDLE_INVALID')
  })

  test.each(['', 'null', '[]', '"a"', '{"keys":[],"keys":[]}', '{"keys":[{"use":"x","\\u0075se":"y"}]}', '{'])(
    'refuses %j',
    (text) => {
      expect(reasonOf(() => parseBundle(text))).toBe('BUNDLE_INVALID')
    },
  )

  test('gives the private half of a key to nobody', () => {
    const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' })
    const bundle = read(keys({ use: 'jwt-svid', kid: 'k', ...key }))
    expect(formatBundle(bundle)).not.toContain(key.d)
  })

  test('of 10,000 random and damaged documents none is more than a refusal, and what is taken can be written again', () => {
    const text = JSON.stringify(whole)
    const damaged = fc
      .tuple(fc.nat(text.length - 1), fc.nat(6), fc.string({ maxLength: 4 }))
      .map(([at, gone, put]) => text.slice(0, at) + put + text.slice(at + gone))
    const made = fc.record(
      {
        keys: fc.array(fc.oneof(fc.constantFrom(...whole.keys), fc.object({ maxDepth: 2 }), fc.jsonValue())),
        spiffe_sequence: fc.oneof(fc.nat(), fc.jsonValue()),
        spiffe_refresh_hint: fc.oneof(fc.nat(), fc.jsonValue()),
      },
      { requiredKeys: [] },
    )
    const any = fc.oneof(
      damaged,
      fc.json(),
      fc.string(),
      made.map((value) => JSON.stringify(value)),
    )
    let taken = 0
    fc.assert(
      fc.property(any, (document) => {
        let bundle: BundleDocument | undefined
        const verdict = reasonOf(() => {
          bundle = parseBundle(document)
        })
        expect(['nothing', 'BUNDLE_INVALID']).toContain(verdict)
        if (!bundle) return
        taken++
        expect(parseBundle(formatBundle(bundle))).toEqual(bundle)
      }),
      { numRuns: 10_000 },
    )
    expect(taken).toBeGreaterThan(100)
  }, 120_000)
})

describe('formatBundle', () => {
  test('writes what parseBundle reads', () => {
    const { document } = authorityOf('a.example')
    const again = parseBundle(formatBundle(document))
    expect(again.roots.map((der) => Buffer.from(der).equals(document.roots[0] ?? new Uint8Array()))).toEqual([true])
    expect([again.sequence, again.refreshHintMs]).toEqual([document.sequence, 300_000])
  })
})

describe('readBundle', () => {
  test('takes PEM too', () => {
    expect(readBundle(certificatesToPem([root, other])).roots).toHaveLength(2)
    expect(reasonOf(() => readBundle(certificatesToPem([leafBelow(rootSigner()).der])))).toBe('BUNDLE_INVALID')
  })
})

describe('duplicateKey', () => {
  test('finds a name that stands twice in one object, however it is written', () => {
    expect(duplicateKey('{"a":{"b":1},"b":[{"a":"b\\":","c":"{"}]}')).toBeUndefined()
    expect(duplicateKey('{"a":1,"b":{"c":1,"c" :2}}')).toBe('c')
    expect(duplicateKey('[{"a":1},{"a":2}]')).toBeUndefined()
    expect(duplicateKey('{"a":1,"\\u0061":2}')).toBe('a')
  })

  test('finds none in what JSON.stringify writes', () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => duplicateKey(JSON.stringify(value)) === undefined))
  })
})
