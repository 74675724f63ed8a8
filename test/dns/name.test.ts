import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatPrefix, parsePrefix } from '../../src/base/ip.ts'
import {
  addressFromReverseName,
  isReverseKey,
  keyFromText,
  nameFromKey,
  nameFromText,
  nameKey,
  nameToText,
  prefixFromReverseZone,
  reverseNameOf,
} from '../../src/dns/name.ts'
import { copyName, read16, readNameKey, skipName } from '../../src/dns/wire.ts'

const label = fc.stringMatching(/^[a-zA-Z0-9_-]{1,63}$/)
const domain = fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join('.'))
const usage = expect.objectContaining({ code: 'USAGE', next: expect.stringMatching(/\w/) })

describe('a domain name', () => {
  test('comes back from the wire as it was written', () => {
    fc.assert(
      fc.property(domain, (text) => {
        expect(nameToText(nameFromText(text))).toBe(text)
        expect(nameToText(nameFromText(`${text}.`))).toBe(text)
        expect(keyFromText(text.toUpperCase())).toBe(keyFromText(text.toLowerCase()))
        expect(nameKey(nameFromKey(keyFromText(text)))).toBe(keyFromText(text))
      }),
    )
  })

  test.each([
    ['', '.'],
    ['.', '.'],
    ['Bücher.Example', 'xn--bcher-kva.Example'],
    ['1.2', '1.2'],
    ['0x10.test', '0x10.test'],
    ['*.example', '*.example'],
    ['_dns._tcp.example', '_dns._tcp.example'],
  ])('%j is %j on the wire', (text, wire) => expect(nameToText(nameFromText(text))).toBe(wire))

  test.each([
    '..',
    'a..b',
    '.a',
    'a b',
    `${'x'.repeat(64)}.test`,
    Array.from({ length: 128 }, () => 'a').join('.'),
    'ü b',
  ])('%j is a USAGE error', (text) => expect(() => nameFromText(text)).toThrowError(usage))

  test('shows odd bytes as numbers, so that two names never look the same', () => {
    const odd = Uint8Array.of(4, 0x2e, 0x5c, 0x20, 0xff, 0)
    expect(nameToText(odd)).toBe('\\.\\\\\\032\\255')
  })
})

describe('a reverse name', () => {
  const ipv4 = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255)).map((octets) => octets.join('.'))

  test('gives the address it was made from', () => {
    fc.assert(
      fc.property(fc.oneof(ipv4, fc.constantFrom('::1', 'fd00::1', '2001:db8::ff')), (address) => {
        const key = keyFromText(reverseNameOf(address))
        expect(isReverseKey(key)).toBe(true)
        expect(addressFromReverseName(key)).toBe(address)
      }),
    )
  })

  test.each([
    'x.10.in-addr.arpa',
    '3.2.1.in-addr.arpa',
    '5.4.3.2.1.in-addr.arpa',
    '256.2.3.4.in-addr.arpa',
    '04.3.2.1.in-addr.arpa',
    '1.0.ip6.arpa',
  ])('%s is no address', (text) => expect(addressFromReverseName(keyFromText(text))).toBeUndefined())

  test('of a prefix of whole octets or nibbles is the zone of that prefix', () => {
    fc.assert(
      fc.property(ipv4, fc.constantFrom(8, 16, 24, 32), (address, length) => {
        const labels = reverseNameOf(address)
          .split('.')
          .slice(4 - length / 8)
        const prefix = prefixFromReverseZone(labels.join('.'))
        expect(prefix && formatPrefix(prefix)).toBe(formatPrefix(parsePrefix(`${address}/${length}`)))
      }),
    )
  })
})

describe('a hostile message', () => {
  const target = Buffer.alloc(256)

  test('never takes a reader of names out of bounds or round in circles', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(310), (bytes, offset) => {
        const end = skipName(bytes, offset)
        expect(end === -1 || (end > offset && end <= bytes.length)).toBe(true)
        expect(copyName(bytes, offset, target)).toBeLessThanOrEqual(255)
        const key = readNameKey(bytes, offset)
        if (key !== undefined) expect(key.endsWith('\0')).toBe(true)
      }),
      { numRuns: 2_000 },
    )
  })

  test.each([
    ['a pointer to itself', [0xc0, 0]],
    ['two pointers at each other', [0xc0, 2, 0xc0, 0]],
    ['a pointer ahead', [0xc0, 2, 1, 0x61, 0]],
    ['a reserved label type', [0x80, 1, 0]],
    ['a label beyond the end', [5, 0x61, 0]],
    ['half a pointer', [0xc0]],
    ['nothing', []],
  ])('%s is no name', (_what, bytes) => expect(readNameKey(Uint8Array.from(bytes), 0)).toBeUndefined())

  test('of 16 pointers in a row is read, one of 17 is not', () => {
    const chain = (hops: number) => {
      const bytes = Buffer.alloc(1 + 2 * hops)
      for (let i = 0; i < hops; i++) bytes.writeUInt16BE(0xc000 | (i === 0 ? 0 : 2 * i - 1), 1 + 2 * i)
      return readNameKey(bytes, 2 * hops - 1)
    }
    expect(chain(16)).toBe('\0')
    expect(chain(17)).toBeUndefined()
  })

  test('reads as zero beyond its end', () => expect(read16(Uint8Array.of(1), 0)).toBe(0x100))
})
