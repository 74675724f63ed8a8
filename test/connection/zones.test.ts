import { describe, expect, test } from 'vitest'
import { parsePrefix } from '../../src/base/ip.ts'
import { acceptableZones, checkZones } from '../../src/connection/zones.ts'

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
    // fd00::/64 covers only zones of at least 16 nibbles.
    ['0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa', true],
    ['0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa', false],
    ['0.0.d.f.ip6.arpa', false],
    ['ip6.arpa', false],
    ['blue nsm', false],
    [`${'a'.repeat(64)}.blue.nsm.internal`, false],
  ])('%j: %s', (zone, isAcceptable) => {
    expect(acceptableZones([zone], bounds).length === 1).toBe(isAcceptable)
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
