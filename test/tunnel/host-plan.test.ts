import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { HostNetwork, InterfaceSettings } from '../../src/tunnel/tun/host-network.ts'
import { addedTo, commandOf, findConflict, inverseOf, planChanges } from '../../src/tunnel/tun/host-plan.ts'

const settings = (change: Partial<InterfaceSettings> = {}): InterfaceSettings => ({
  interfaceName: 'nsm0',
  addresses: ['10.64.0.2/32'],
  routes: ['10.64.0.0/16'],
  mtuBytes: 1_420,
  ...change,
})
const nothing = settings({ addresses: [], routes: [], mtuBytes: 0 })

const office: HostNetwork = {
  interfaceNames: ['lo', 'eth0', 'nsm0'],
  addresses: [
    { interfaceName: 'lo', prefix: '127.0.0.1/8' },
    { interfaceName: 'eth0', prefix: '192.0.2.7/24' },
    { interfaceName: 'eth0', prefix: 'fe80::1/64' },
    { interfaceName: 'nsm0', prefix: '10.64.0.2/32' },
  ],
  routes: [
    { interfaceName: 'eth0', prefix: '0.0.0.0/0', gateway: '192.0.2.1' },
    { interfaceName: 'eth0', prefix: '10.0.0.0/8', gateway: '192.0.2.2' },
    { interfaceName: 'eth0', prefix: '2001:db8::/32', gateway: undefined },
    { interfaceName: 'nsm0', prefix: '172.16.0.0/16', gateway: undefined },
  ],
}

describe('planChanges', () => {
  test('from nothing: link first, then addresses, then routes', () => {
    expect(planChanges(nothing, settings()).map((change) => commandOf('nsm0', change))).toEqual([
      'ip link set nsm0 up mtu 1420',
      'ip address add 10.64.0.2/32 dev nsm0',
      'ip route add 10.64.0.0/16 dev nsm0 table 28275',
    ])
  })

  test('a change adds what is new before it removes what is old', () => {
    const after = settings({ addresses: ['10.64.0.9/32'], routes: ['10.64.0.0/16', 'fd64::/64'] })
    expect(planChanges(settings(), after).map((change) => commandOf('nsm0', change))).toEqual([
      'ip address add 10.64.0.9/32 dev nsm0',
      'ip route add fd64::/64 dev nsm0 table 28275',
      'ip address del 10.64.0.2/32 dev nsm0',
    ])
  })

  test('equal settings need no change', () => {
    expect(planChanges(settings(), settings())).toEqual([])
  })

  test('the inverses of any plan, backwards, are the way back', () => {
    const prefixes = fc.uniqueArray(fc.integer({ min: 0, max: 9 }).map((n) => `10.${n}.0.0/16`))
    const state = fc.record({ addresses: prefixes, routes: prefixes, mtuBytes: fc.integer({ min: 1_280, max: 9_000 }) })
    fc.assert(
      fc.property(state, state, (before, after) => {
        const there = planChanges(settings(before), settings(after))
        const back = there.map(inverseOf).reverse()
        const expected = planChanges(settings(after), settings(before))
        expect(new Set(back.map((change) => JSON.stringify(change)))).toEqual(
          new Set(expected.map((change) => JSON.stringify(change))),
        )
      }),
    )
  })

  test('the first MTU has no way back: the interface goes as a whole', () => {
    expect(inverseOf({ kind: 'link', mtuBytes: 1_420, beforeBytes: 0 })).toBeUndefined()
  })
})

describe('findConflict', () => {
  test.each([
    [
      'a prefix inside another route',
      { routes: ['10.64.0.0/16'] },
      '10.64.0.0/16 via nsm0 overlaps 10.0.0.0/8 on eth0',
    ],
    [
      'a prefix around a local network',
      { routes: ['192.0.0.0/8'] },
      '192.0.0.0/8 via nsm0 overlaps 192.0.2.0/24 on eth0',
    ],
    ['an IPv6 prefix', { routes: ['2001:db8:1::/48'] }, '2001:db8:1::/48 via nsm0 overlaps 2001:db8::/32 on eth0'],
    [
      'an address in use',
      { addresses: ['192.0.2.7/32'], routes: [] },
      '192.0.2.7/32 for nsm0 is the address of eth0 (192.0.2.7/24)',
    ],
  ])('%s is named with both sides', (_name, change, expected) => {
    expect(findConflict(settings(change), office)).toBe(expected)
  })

  test.each([
    ['a prefix that only the default route covers', { routes: ['100.64.0.0/10'] }],
    ["the interface's own routes", { routes: ['172.16.0.0/12'] }],
    ["the interface's own address", { addresses: ['10.64.0.2/32'], routes: [] }],
  ])('%s is free', (_name, change) => {
    expect(findConflict(settings({ addresses: [], ...change }), office)).toBeUndefined()
  })

  test('routes of an interface that may overlap are no conflict, its addresses are', () => {
    const friends = { mayOverlap: ['eth0'], addresses: [] }
    expect(findConflict(settings({ ...friends, routes: ['10.64.0.0/16', '2001:db8::/48'] }), office)).toBeUndefined()
    expect(findConflict(settings({ ...friends, addresses: ['192.0.2.7/32'], routes: [] }), office)).toMatch(/eth0/)
  })
})

describe('addedTo', () => {
  test('is what is new: a conflict that came with time does not keep what is there from staying', () => {
    const before = settings({ routes: ['10.64.0.0/16'] })
    const after = settings({ routes: ['10.64.0.0/16', '10.65.0.0/16'], addresses: ['10.64.0.2/32', '10.65.0.2/32'] })
    expect(addedTo(before, after)).toEqual({ ...after, routes: ['10.65.0.0/16'], addresses: ['10.65.0.2/32'] })
    expect(findConflict(addedTo(before, before), office)).toBeUndefined()
  })
})
