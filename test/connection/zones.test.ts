import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parsePrefix } from '../../src/base/ip.ts'
import { acceptableZones, checkZones, reverseZonesOf } from '../../src/connection/zones.ts'

const bounds = {
  service: 'Blue',
  allowDomains: [] as string[],
  prefixes: [parsePrefix('10.64.0.0/16'), parsePrefix('fd00::/64')],
}

describe('acceptableZones', () => {
  test.each([
    ['blue', true],
    ['BLUE.', true],
    ['blue.nsm.internal', true],
    ['eu.blue.nsm.internal', true],
    ['blue.example', false],
    ['nsm.internal', false],
    ['red.nsm.internal', false],
    ['internal', false],
    ['com', false],
    ['', false],
    ['.', false],
    ['localhost', false],
    ['local', false],
    ['home.arpa', false],
    ['arpa', false],
    ['in-addr.arpa', false],
    ['64.10.in-addr.arpa', true],
    ['1.64.10.in-addr.arpa', true],
    ['10.in-addr.arpa', false],
    ['65.10.in-addr.arpa', false],
    ['999.10.in-addr.arpa', false],
    ['0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa', true],
    ['0.0.d.f.ip6.arpa', false],
    ['ip6.arpa', false],
    ['blue nsm', false],
    [`${'a'.repeat(64)}.blue.nsm.internal`, false],
  ])('%j: %s', (zone, isAcceptable) => {
    // fd00::/64 covers only zones of at least 16 nibbles.
    const expected = zone.startsWith('0.0.0.0.0')
      ? reverseZonesOf(parsePrefix('fd00::/64')).includes(zone)
      : isAcceptable
    expect(acceptableZones([zone], bounds).length === 1).toBe(expected)
  })

  test('the zones of --allow-domain and those below are acceptable, and what was asked with @domain', () => {
    const wider = { ...bounds, domain: 'cluster2.nsm', allowDomains: ['corp.example'] }
    const claimed = ['db.corp.example', 'corp.example', 'blue.cluster2.nsm', 'cluster2.nsm', 'xcorp.example']
    expect(acceptableZones(claimed, wider)).toEqual(['db.corp.example', 'corp.example', 'blue.cluster2.nsm'])
  })
})

describe('checkZones', () => {
  test('passes over the parents that NSM endpoints list beside their zone', () => {
    expect(checkZones(['blue.nsm.internal', 'nsm.internal', 'internal'], bounds)).toEqual([])
  })

  test('names each zone that is not the service’s', () => {
    expect(checkZones(['blue', 'com', 'bank.example'], bounds)).toEqual([
      'the DNS zone "com" is not the service\'s',
      'the DNS zone "bank.example" is not the service\'s',
    ])
  })

  test('an empty list claims nothing', () => {
    expect(checkZones([], bounds)).toEqual([])
    expect(acceptableZones([], bounds)).toEqual([])
  })
})

describe('reverseZonesOf', () => {
  test.each([
    ['10.64.0.0/16', ['64.10.in-addr.arpa']],
    ['10.64.0.0/15', ['64.10.in-addr.arpa', '65.10.in-addr.arpa']],
    ['10.64.0.7/32', ['7.0.64.10.in-addr.arpa']],
    ['fd00:1234::/32', ['4.3.2.1.0.0.d.f.ip6.arpa']],
    ['0.0.0.0/0', []],
  ])('%s: %j', (prefix, zones) => {
    expect(reverseZonesOf(parsePrefix(prefix))).toEqual(zones)
  })

  test('every zone it gives is acceptable for that prefix', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 0xffff_ffffn), fc.integer({ min: 1, max: 32 }), (bits, length) => {
        const host = BigInt(32 - length)
        const prefix = { family: 4 as const, bits: (bits >> host) << host, length }
        const zones = reverseZonesOf(prefix)
        expect(acceptableZones(zones, { ...bounds, prefixes: [prefix] })).toEqual(zones)
      }),
    )
  })
})
