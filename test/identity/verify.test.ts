import { generateKeyPairSync, sign } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { writeCertificate } from '../../src/identity/certificate-writer.ts'
import { readElements, readSequence } from '../../src/identity/der-reader.ts'
import {
  derBitString,
  derElement,
  derOctetString,
  derOid,
  derSequence,
  derTrue,
} from '../../src/identity/der-writer.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { ecdsaWithSha256 } from '../../src/identity/oids.ts'
import { refusalReason } from '../../src/identity/refusal.ts'
import type { TrustBundles } from '../../src/identity/source.ts'
import { verifyPeer } from '../../src/identity/verify.ts'
import { leafBelow, reasonOf, rootSigner, type Signer, signerBelow, testNowMs } from './fixtures.ts'

const root = rootSigner({ spiffeId: 'spiffe://a.example' })
const otherRoot = rootSigner({ spiffeId: 'spiffe://b.example' })
const bundles: TrustBundles = new Map([
  ['a.example', [root.der]],
  ['b.example', [otherRoot.der]],
])
const verdict = (chain: readonly Uint8Array[], nowMs = testNowMs, trusted = bundles) =>
  reasonOf(() => verifyPeer({ chain, bundles: trusted, nowMs }))

describe('verifyPeer', () => {
  test('names the peer of a leaf directly below the root and below an intermediate', () => {
    const direct = leafBelow(root)
    expect(verifyPeer({ chain: [direct.der], bundles, nowMs: testNowMs })).toEqual({
      spiffeId: 'spiffe://a.example/client',
      certificate: direct.der,
      intermediates: [],
      notAfterMs: testNowMs + 3_600_000,
    })
    const intermediate = signerBelow(root)
    expect(verdict([leafBelow(intermediate).der, intermediate.der])).toBe('nothing')
  })

  test('accepts the root in the chain, other certificates beside, and any order of the intermediates', () => {
    const [upper] = [signerBelow(root, { pathLength: 1, name: 'upper' })]
    const wideRoot = rootSigner({ pathLength: 2 })
    const high = signerBelow(wideRoot, { pathLength: 1, name: 'high' })
    const low = signerBelow(high, { name: 'low' })
    const { der } = leafBelow(low)
    const trusted: TrustBundles = new Map([['a.example', [wideRoot.der]]])
    expect(verdict([der, high.der, low.der], testNowMs, trusted)).toBe('nothing')
    expect(verdict([der, upper.der, low.der, otherRoot.der, high.der, wideRoot.der], testNowMs, trusted)).toBe(
      'nothing',
    )
  })

  test('accepts any root of the domain while two are in the bundle', () => {
    const next = rootSigner()
    const both: TrustBundles = new Map([['a.example', [root.der, next.der]]])
    expect([verdict([leafBelow(root).der], testNowMs, both), verdict([leafBelow(next).der], testNowMs, both)]).toEqual([
      'nothing',
      'nothing',
    ])
  })

  test('refuses a name of one domain signed by the authority of another, and says so', () => {
    const intermediate = signerBelow(otherRoot)
    expect(verdict([leafBelow(otherRoot).der])).toBe('SVID_WRONG_DOMAIN')
    expect(verdict([leafBelow(intermediate).der, intermediate.der])).toBe('SVID_WRONG_DOMAIN')
  })

  test('refuses an unknown domain, an empty bundle and a root that only shares the name', () => {
    const { der } = leafBelow(root)
    expect(verdict([der], testNowMs, new Map([['b.example', [otherRoot.der]]]))).toBe('SVID_UNKNOWN_DOMAIN')
    expect(verdict([der], testNowMs, new Map())).toBe('SVID_UNKNOWN_DOMAIN')
    expect(verdict([der], testNowMs, new Map([['a.example', []]]))).toBe('SVID_UNTRUSTED')
    expect(verdict([der], testNowMs, new Map([['a.example', [rootSigner().der]]]))).toBe('SVID_UNTRUSTED')
  })

  test.each([
    ['an expired leaf', testNowMs + 3_600_000, 'SVID_EXPIRED'],
    ['a leaf in its last millisecond', testNowMs + 3_599_999, 'nothing'],
    ['a leaf that begins in 60 s', testNowMs - 120_000, 'nothing'],
    ['a leaf that begins in 61 s', testNowMs - 121_000, 'CLOCK_SKEW'],
  ])('judges %s', (_name, nowMs, expected) => {
    const wide = rootSigner({ notBeforeMs: testNowMs - 86_400_000, notAfterMs: testNowMs + 86_400_000 })
    expect(verdict([leafBelow(wide).der], nowMs, new Map([['a.example', [wide.der]]]))).toBe(expected)
  })

  test('refuses an expired intermediate and an expired root', () => {
    const late = signerBelow(root, { notAfterMs: testNowMs - 1000 })
    expect(verdict([leafBelow(late).der, late.der])).toBe('SVID_UNTRUSTED')
    const gone = rootSigner({ notAfterMs: testNowMs - 1000 })
    expect(verdict([leafBelow(gone).der], testNowMs, new Map([['a.example', [gone.der]]]))).toBe('SVID_UNTRUSTED')
  })

  test('judges a signer that it knows again for each peer: its end, its root, and what else it may sign', () => {
    const signer = signerBelow(root, { notAfterMs: testNowMs + 1_000 })
    const chainOf = (leaf: { readonly der: Uint8Array }) => [leaf.der, new Uint8Array(signer.der)]
    const later = leafBelow(signer)
    expect([verdict(chainOf(leafBelow(signer))), verdict(chainOf(later))]).toEqual(['nothing', 'nothing'])
    expect(verdict(chainOf(later), testNowMs + 1_000)).toBe('SVID_UNTRUSTED')
    expect(verdict(chainOf(later), testNowMs, new Map([['a.example', [rootSigner().der]]]))).toBe('SVID_UNTRUSTED')
    expect(verdict(chainOf(leafBelow(signerBelow(signer))))).toBe('SVID_UNTRUSTED')
    const claimed = leafBelow({ ...signer, privateKey: generateKey() })
    expect(verdict(chainOf(claimed))).toBe('SVID_UNTRUSTED')
    const next = rootSigner()
    const both: TrustBundles = new Map([['a.example', [next.der, root.der]]])
    expect(verdict(chainOf(later), testNowMs, both)).toBe('nothing')
  })

  test('knows a signer by all of its bytes: one with another signature is not it', () => {
    const signer = signerBelow(root)
    const { der } = leafBelow(signer)
    expect(verdict([der, signer.der])).toBe('nothing')
    const forged = new Uint8Array(signer.der)
    forged[forged.length - 1] = (forged.at(-1) ?? 0) ^ 1
    expect(verdict([der, forged])).toBe('SVID_UNTRUSTED')
  })

  test('still judges right when many signers came between', () => {
    const signer = signerBelow(root)
    const { der } = leafBelow(signer)
    expect(verdict([der, signer.der])).toBe('nothing')
    for (let i = 0; i < 70; i++) {
      const other = signerBelow(root)
      expect(verdict([leafBelow(other).der, other.der])).toBe('nothing')
    }
    expect([verdict([der, signer.der]), verdict([der])]).toEqual(['nothing', 'SVID_UNTRUSTED'])
  })

  test('refuses a leaf that may sign', () => {
    expect(verdict([leafBelow(root, { pathLength: 0 }).der])).toBe('SVID_IS_CA')
    expect(verdict([withExtensions(root, [keyUsage(0x04, 2)])])).toBe('SVID_IS_CA')
    expect(verdict([withExtensions(root, [keyUsage(0x02, 1)])])).toBe('SVID_IS_CA')
    expect(verdict([withExtensions(root, [keyUsage(0x80, 7)])])).toBe('nothing')
  })

  test('refuses a leaf as signer of another, and a path longer than a signer allows', () => {
    const leaf = leafBelow(root)
    const fake: Signer = { name: 'fake', privateKey: leaf.privateKey, der: leaf.der }
    expect(verdict([leafBelow(fake).der, leaf.der])).toBe('SVID_UNTRUSTED')
    const first = signerBelow(root)
    const second = signerBelow(first, { name: 'second' })
    expect(verdict([leafBelow(second).der, second.der, first.der])).toBe('SVID_UNTRUSTED')
  })

  test.each([
    ['no URI', []],
    ['two URIs', ['spiffe://a.example/client', 'spiffe://a.example/admin']],
    ['the same URI twice', ['spiffe://a.example/client', 'spiffe://a.example/client']],
  ])('refuses a leaf with %s', (_name, uris) => {
    expect(verdict([withExtensions(root, [], uris)])).toBe('SVID_NO_ID')
  })

  test('refuses a leaf whose ID has no path or is no SPIFFE ID', () => {
    expect(verdict([leafBelow(root, { spiffeId: 'spiffe://a.example' }).der])).toBe('SVID_NO_ID')
    expect(verdict([leafBelow(root, { spiffeId: 'https://a.example/client' }).der])).toBe('ID_INVALID')
    expect(verdict([leafBelow(root, { spiffeId: 'spiffe://A.example/client' }).der])).toBe('ID_INVALID')
  })

  test('reads no URI out of a DNS name that looks like one', () => {
    const dns = derElement(0x82, Buffer.from('x, URI:spiffe://a.example/admin'))
    const uri = derElement(0x86, Buffer.from('spiffe://a.example/client'))
    const names = extension('2.5.29.17', derSequence(dns, uri))
    expect(verifyPeer({ chain: [withExtensions(root, [names], undefined)], bundles, nowMs: testNowMs }).spiffeId).toBe(
      'spiffe://a.example/client',
    )
  })

  test('refuses unknown critical extensions, name constraints and an extension that appears twice', () => {
    const id = ['spiffe://a.example/client']
    expect(verdict([withExtensions(root, [extension('1.2.3.4', derSequence())], id)])).toBe('nothing')
    expect(verdict([withExtensions(root, [extension('1.2.3.4', derSequence(), true)], id)])).toBe('CERTIFICATE_INVALID')
    expect(verdict([withExtensions(root, [extension('2.5.29.30', derSequence())], id)])).toBe('CERTIFICATE_INVALID')
    expect(verdict([withExtensions(root, [keyUsage(0x80, 7), keyUsage(0x80, 7)], id)])).toBe('CERTIFICATE_INVALID')
  })

  test('accepts a leaf with an RSA key of 2048 bits and refuses one of 1024', () => {
    const leafOf = (modulusLength: number) => {
      const { publicKey } = generateKeyPairSync('rsa', { modulusLength })
      const times = { notBeforeMs: testNowMs - 1000, notAfterMs: testNowMs + 1000 }
      return writeCertificate({ publicKey, spiffeId: 'spiffe://a.example/rsa', ...times }, root)
    }
    expect([verdict([leafOf(2048)]), verdict([leafOf(1024)])]).toEqual(['nothing', 'CERTIFICATE_INVALID'])
  })

  test('refuses no certificate, garbage, trailing bytes and too many certificates', () => {
    const { der } = leafBelow(root)
    expect(verdict([])).toBe('SVID_NO_ID')
    expect(verdict([Buffer.from('garbage')])).toBe('CERTIFICATE_INVALID')
    expect(verdict([Buffer.concat([der, Uint8Array.of(0)])])).toBe('CERTIFICATE_INVALID')
    expect(verdict([der, ...Array.from({ length: 8 }, () => root.der)])).toBe('SVID_UNTRUSTED')
  })

  test('ends soon when the sent certificates all sign each other', () => {
    const shared = rootSigner({ name: 'knot', pathLength: 100 })
    const knot = Array.from(
      { length: 7 },
      () => signerBelow(shared, { name: 'knot', publicKey: leafKeyOf(shared), pathLength: 100 }).der,
    )
    expect(verdict([leafBelow(shared).der, ...knot])).toBe('SVID_UNTRUSTED')
  })

  test('a refusal carries its reason and the step to take, and is an IDENTITY error', () => {
    try {
      verifyPeer({ chain: [leafBelow(otherRoot).der], bundles, nowMs: testNowMs })
      expect.unreachable()
    } catch (error) {
      expect(error).toMatchObject({ code: 'IDENTITY', message: expect.stringContaining('b.example') })
      expect(refusalReason(error)).toBe('SVID_WRONG_DOMAIN')
    }
    expect(refusalReason(undefined)).toBe(undefined)
  })
})

function leafKeyOf(signer: Signer) {
  return signer.privateKey
}

function extension(id: string, value: Uint8Array, isCritical = false): Uint8Array {
  return derSequence(derOid(id), ...(isCritical ? [derTrue] : []), derOctetString(value))
}

function keyUsage(bits: number, unusedBits: number): Uint8Array {
  return extension('2.5.29.15', derBitString(Uint8Array.of(bits), unusedBits), true)
}

/** A leaf whose extensions are replaced; `uris` undefined leaves the names to the given extensions. */
function withExtensions(
  issuer: Signer,
  extensions: readonly Uint8Array[],
  uris: readonly string[] | undefined = ['spiffe://a.example/client'],
): Uint8Array {
  const hasNames = extensions.some((one) => Buffer.from(one).includes(Buffer.from('551d11', 'hex')))
  const names = extension('2.5.29.17', derSequence(...uris.map((uri) => derElement(0x86, Buffer.from(uri)))))
  const [signedPart] = readSequence(leafBelow(issuer).der)
  const fields = readElements(signedPart?.content ?? new Uint8Array()).slice(0, -1)
  const all = hasNames || uris.length === 0 ? extensions : [names, ...extensions]
  const block = all.length === 0 ? [] : [derElement(0xa3, derSequence(...all))]
  const body = derSequence(...fields.map(({ raw }) => raw), ...block)
  return derSequence(body, ecdsaWithSha256, derBitString(sign('sha256', body, issuer.privateKey)))
}
