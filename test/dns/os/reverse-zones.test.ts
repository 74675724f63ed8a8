import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatPrefix, parseAddress, parsePrefix, prefixContains, prefixOf } from '../../../src/base/ip.ts'
import { prefixFromReverseZone, reverseNameOf } from '../../../src/dns/name.ts'
import { zonesOfSuffix } from '../../../src/dns/os/reverse-zones.ts'

describe('zonesOfSuffix', () => {
  test.each([
    ['svc.example', ['svc.example']],
    ['10.64.0.0/16', ['64.10.in-addr.arpa']],
    ['10.64.0.0/15', ['64.10.in-addr.arpa', '65.10.in-addr.arpa']],
    ['10.64.1.2/32', ['2.1.64.10.in-addr.arpa']],
    ['192.0.2.192/26', Array.from({ length: 64 }, (_, at) => `${192 + at}.2.0.192.in-addr.arpa`)],
    ['0.0.0.0/0', ['in-addr.arpa']],
    ['fd00::/8', ['d.f.ip6.arpa']],
    ['fd00::/9', Array.from('01234567', (digit) => `${digit}.d.f.ip6.arpa`)],
    ['::/0', ['ip6.arpa']],
  ])('%s', (suffix, zones) => {
    expect(zonesOfSuffix(suffix)).toEqual(zones)
  })

  test('covers every address of a prefix once and no other one, with at most 128 zones', () => {
    const address = fc
      .oneof(
        fc.ipV4(),
        fc.ipV6().filter((text) => !text.includes('.')),
      )
      .map(parseAddress)
    fc.assert(
      fc.property(address, fc.nat(128), (found, length) => {
        const prefix = prefixOf(found, found.family === 4 ? length % 33 : length)
        const zones = zonesOfSuffix(formatPrefix(prefix))
        expect(zones.length).toBeLessThanOrEqual(128)
        const parts = zones.map(prefixFromReverseZone).filter((part) => part !== undefined)
        const hits = (text: string) => parts.filter((part) => prefixContains(part, parseAddress(text))).length
        const sum = parts.reduce((total, part) => total + (1n / 1n) * (1n << BigInt(128 - part.length)), 0n)
        if (parts.length === zones.length) {
          expect(hits(formatPrefix({ ...prefix, length: found.family === 4 ? 32 : 128 }).split('/')[0] ?? '')).toBe(1)
          expect(sum).toBe(1n << BigInt(128 - prefix.length))
        }
      }),
    )
  })

  test('ends in the reverse name of an address', () => {
    for (const [prefix, address] of [
      ['10.64.0.0/12', '10.79.1.2'],
      ['fd00:1::/30', 'fd00:3::1'],
    ] as const) {
      expect(prefixContains(parsePrefix(prefix), parseAddress(address))).toBe(true)
      const name = reverseNameOf(address)
      expect(zonesOfSuffix(prefix).filter((zone) => name.endsWith(`.${zone}`)).length).toBe(1)
    }
  })
})
