import { isIP } from 'node:net'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  addressBytes,
  addressFromBytes,
  familyBits,
  formatAddress,
  formatPrefix,
  type IpAddress,
  lastAddress,
  parseAddress,
  parseInterfaceAddress,
  parsePrefix,
  prefixContains,
  prefixCovers,
  prefixesOverlap,
  prefixOf,
} from '../../src/base/ip.ts'

const anyAddress = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 32n) - 1n }).map((bits): IpAddress => ({ family: 4, bits })),
  fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }).map((bits): IpAddress => ({ family: 6, bits })),
)
const anyPrefix = anyAddress.chain((address) =>
  fc.integer({ min: 0, max: familyBits[address.family] }).map((length) => prefixOf(address, length)),
)

describe('addresses', () => {
  test.each([
    ['10.64.0.1', '10.64.0.1'],
    ['0.0.0.0', '0.0.0.0'],
    ['255.255.255.255', '255.255.255.255'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['1:0:0:2:0:0:3:4', '1::2:0:0:3:4'],
    ['::ffff:192.0.2.1', '::ffff:c000:201'],
  ])('%s is printed as %s', (given, printed) => {
    expect(formatAddress(parseAddress(given))).toBe(printed)
  })

  test.each(['', 'x', '1.2.3', '1.2.3.256', '01.2.3.4', 'fe80::1%eth0', '1::2::3', '10.0.0.1/8', ' 10.0.0.1'])(
    '"%s" is not an address: USAGE',
    (text) => {
      expect(() => parseAddress(text)).toThrow(expect.objectContaining({ code: 'USAGE' }))
    },
  )

  const piece = fc.constantFrom(':', '::', '0', 'f', '12aB', '12345', 'g', '1.2.3.4', '1.2.3', '01.1.1.1', '-')
  const pieces = fc.array(piece, { maxLength: 17 }).map((all) => all.join(''))
  const group = fc.constantFrom('0', 'fe80', '', '1.2.3.4')
  const groups = fc.array(group, { minLength: 6, maxLength: 9 }).map((all) => all.join(':'))
  test('takes exactly the texts that Node takes for an address', () => {
    fc.assert(
      fc.property(fc.oneof(pieces, groups), (text) => {
        if (isIP(text) === 0) expect(() => parseAddress(text)).toThrow(expect.objectContaining({ code: 'USAGE' }))
        else expect(parseAddress(text).family).toBe(isIP(text))
      }),
      { numRuns: 5_000 },
    )
  })

  test('text and bytes of any address read back as the same address', () => {
    fc.assert(
      fc.property(anyAddress, (address) => {
        expect(parseAddress(formatAddress(address))).toEqual(address)
        expect(addressFromBytes(addressBytes(address))).toEqual(address)
      }),
    )
  })

  test('bytes of another length are refused', () => {
    expect(() => addressFromBytes(new Uint8Array(5))).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })
})

describe('prefixes', () => {
  test('a parsed prefix loses its host bits, an interface address keeps them', () => {
    expect(formatPrefix(parsePrefix('10.64.3.7/16'))).toBe('10.64.0.0/16')
    expect(formatAddress(parseInterfaceAddress('10.64.3.7/16').address)).toBe('10.64.3.7')
    expect(parseInterfaceAddress('fd00::1').length).toBe(128)
  })

  test.each(['10.0.0.0/33', 'fd00::/129', '10.0.0.0/', '10.0.0.0/-1', '10.0.0.0/1e1', '10.0.0.0/8/8'])(
    '"%s" is not a prefix: USAGE',
    (text) => {
      expect(() => parsePrefix(text)).toThrow(expect.objectContaining({ code: 'USAGE' }))
    },
  )

  test.each([
    ['10.0.0.0/8', '10.64.0.0/16', true],
    ['10.64.0.0/16', '10.0.0.0/8', true],
    ['10.64.0.0/16', '10.65.0.0/16', false],
    ['0.0.0.0/0', 'fd00::/8', false],
    ['::/0', 'fd00::1/128', true],
  ])('%s and %s overlap: %s', (a, b, overlap) => {
    expect(prefixesOverlap(parsePrefix(a), parsePrefix(b))).toBe(overlap)
  })

  test('overlap means that one covers the other, and both hold the ends of the smaller one', () => {
    fc.assert(
      fc.property(anyPrefix, anyPrefix, (a, b) => {
        const overlap = prefixesOverlap(a, b)
        expect(overlap).toBe(prefixCovers(a, b) || prefixCovers(b, a))
        const small = a.length > b.length ? a : b
        const large = small === a ? b : a
        expect(overlap).toBe(prefixContains(large, small) && prefixContains(large, lastAddress(small)))
      }),
    )
  })

  test('text of any prefix reads back as the same prefix', () => {
    fc.assert(
      fc.property(anyPrefix, (prefix) => {
        expect(parsePrefix(formatPrefix(prefix))).toEqual(prefix)
      }),
    )
  })
})
