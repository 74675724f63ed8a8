import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatPrefix, parsePrefix, prefixCovers, prefixOf } from '../../src/base/ip.ts'
import { type Answer, type Bounds, checkAnswer } from '../../src/connection/bounds.ts'
import { type Surroundings, takenPrefixes } from '../../src/connection/taken.ts'

const good: Answer = {
  addresses: ['10.64.0.1/32', 'fd00:6e73:6d00::1/128'],
  endpointAddresses: ['10.64.0.0/32', 'fd00:6e73:6d00::/128'],
  routes: ['10.64.0.0/32', '10.64.0.0/16', 'fd00:6e73:6d00::/64'],
  policies: 0,
  dns: [{ servers: ['10.64.0.0'], domains: ['blue.nsm.internal'] }],
  mtuBytes: 1_420,
}

const bounds: Bounds = { service: 'blue', allowPrefixes: [], allowDomains: [], taken: [] }

describe('checkAnswer', () => {
  test('accepts the answer of an ordinary vL3', () => {
    expect(checkAnswer(good, bounds)).toBeUndefined()
  })

  const routes = (...prefixes: string[]): Partial<Answer> => ({ routes: prefixes })
  const own = (...addresses: string[]): Partial<Answer> => ({ addresses, endpointAddresses: [] })

  test.each<[string, Partial<Answer>, string]>([
    ['E1: more than a private range', routes('10.0.0.0/7'), '10.0.0.0/7 is not private'],
    ['E1: half of the internet', routes('0.0.0.0/1'), '0.0.0.0/1 is a default route or half of one'],
    ['E1: both halves', routes('0.0.0.0/1', '128.0.0.0/1'), '0.0.0.0/0 is a default route'],
    ['E1: global IPv6', routes('2000::/3'), '2000::/3 is not private'],
    ['E1: a public address', routes('192.0.2.0/24'), '192.0.2.0/24 is not private'],
    ['E1: too wide a local prefix', routes('fc00::/7'), 'fc00::/7 is not private'],
    ['E2: default route', routes('0.0.0.0/0'), 'default route'],
    ['E2: IPv6 default route', routes('::/0'), 'default route'],
    ['E2: this network', routes('0.1.0.0/16'), 'this network'],
    ['E2: loopback', routes('127.0.0.0/8'), 'loopback'],
    ['E2: IPv6 loopback', routes('::1/128'), 'loopback'],
    ['E2: link-local', routes('169.254.1.0/24'), 'link-local'],
    ['E2: IPv6 link-local', routes('fe80::/64'), 'link-local'],
    ['E2: multicast', routes('224.0.0.0/8'), 'multicast'],
    ['E2: IPv6 multicast', routes('ff02::/16'), 'multicast'],
    ['E2: broadcast', routes('255.255.255.255/32'), 'broadcast'],
    ['E2: mapped', routes('::ffff:10.0.0.0/104'), 'IPv4-mapped'],
    ['E2: NAT64', routes('64:ff9b::/96'), 'NAT64'],
    ['E4: no address', own(), 'no address'],
    ['E4: two of a family', own('10.64.0.1/32', '10.64.0.2/32'), '2 IPv4 addresses'],
    ['E4: the endpoint has it', { addresses: ['10.64.0.0/32'] }, 'given to this machine and to the endpoint'],
    ['E4: network address', own('10.64.0.0/24'), 'network or broadcast'],
    ['E4: broadcast address', own('10.64.0.255/24'), 'network or broadcast'],
    ['E11: MTU too small', { mtuBytes: 1_279 }, 'MTU 1279'],
    ['E11: MTU too large', { mtuBytes: 9_001 }, 'MTU 9001'],
    ['policy routes', { policies: 1 }, 'policy routes'],
    ['text that is no prefix', routes('10.64.0.0/33'), 'not an address or prefix'],
    ['text that is no address', own('ten'), 'not an address or prefix'],
    [
      'a DNS server outside',
      { dns: [{ servers: ['8.8.8.8'], domains: [] }] },
      '8.8.8.8 is not reached through the tunnel',
    ],
    ['D1: everything', { dns: [{ servers: ['10.64.0.0'], domains: ['.'] }] }, 'DNS zone'],
    ['D1: a top level', { dns: [{ servers: ['10.64.0.0'], domains: ['com'] }] }, '"com"'],
    ['D1: a foreign zone', { dns: [{ servers: ['10.64.0.0'], domains: ['bank.example'] }] }, '"bank.example"'],
  ])('refuses %s', (_, change, reason) => {
    const error = checkAnswer({ ...good, ...change }, bounds)
    expect(error?.code).toBe('REFUSED')
    expect(error?.message).toContain(reason)
  })

  test('names every broken rule at once', () => {
    const error = checkAnswer({ ...good, routes: ['127.0.0.0/8', '8.8.8.0/24'], mtuBytes: 100 }, bounds)
    for (const reason of ['loopback', '8.8.8.0/24', 'MTU 100']) expect(error?.message).toContain(reason)
  })

  test('collisions with the machine are a CONFLICT that names both sides', () => {
    const taken = [{ prefix: '10.0.0.0/8', by: 'route on eth0' }]
    const error = checkAnswer(good, { ...bounds, taken })
    expect(error?.code).toBe('CONFLICT')
    expect(error?.message).toContain('10.64.0.0/16 overlaps 10.0.0.0/8 (route on eth0)')
  })

  test('a prefix inside an own route is a collision too', () => {
    const taken = [{ prefix: '10.64.7.0/24', by: 'address on wlan0' }]
    expect(checkAnswer(good, { ...bounds, taken })?.message).toContain('10.64.7.0/24 (address on wlan0)')
  })

  const around: Surroundings = {
    host: {
      interfaceNames: ['lo', 'eth0'],
      addresses: [
        { interfaceName: 'eth0', prefix: '192.168.1.7/24' },
        { interfaceName: 'eth0', prefix: 'fd12:3456::7/64' },
      ],
      routes: [
        { interfaceName: 'eth0', prefix: '0.0.0.0/0', gateway: '172.20.0.1' },
        { interfaceName: 'eth0', prefix: '10.9.0.0/16', gateway: '192.168.1.2' },
      ],
    },
    ownInterfaceNames: ['nsm-blue'],
    addresses: [
      { address: '10.1.0.53', what: 'a DNS server of this machine' },
      { address: '10.2.0.1', what: 'the manager' },
      { address: '10.3.0.1', what: "the endpoint's address outside the tunnel" },
    ],
    others: [
      {
        service: 'green',
        prefixes: ['10.65.0.0/16'],
        interfaceName: 'nsm-green',
        addresses: ['10.65.0.9/32'],
        mayOverlap: false,
      },
    ],
    excludePrefixes: ['10.99.0.0/16'],
  }

  test.each([
    ['an own address', '192.168.1.7/32', 'address on eth0'],
    ['the link of an interface', '192.168.0.0/16', 'address on eth0'],
    ['an IPv6 link', 'fd12:3456::/48', 'address on eth0'],
    ['the gateway', '172.20.0.0/24', 'gateway on eth0'],
    ['a routed network', '10.9.4.0/24', 'route on eth0'],
    ['a resolver in use', '10.1.0.0/24', 'a DNS server of this machine'],
    ['the manager', '10.2.0.1/32', 'the manager'],
    ['the endpoint, outside the tunnel', '10.3.0.0/16', 'outside the tunnel'],
    ['another service', '10.65.3.0/24', 'network service green'],
    ['what the user excludes', '10.99.1.1/32', 'excluded by the user'],
  ])('E3: a route over %s is a CONFLICT that says so', (_, route, by) => {
    const error = checkAnswer({ ...good, routes: [...good.routes, route] }, { ...bounds, taken: takenPrefixes(around) })
    expect(error?.code).toBe('CONFLICT')
    expect(error?.message).toContain(by)
  })

  test('E4: the address of another tunnel is a CONFLICT', () => {
    const error = checkAnswer({ ...good, addresses: ['10.65.0.9/32'] }, { ...bounds, taken: takenPrefixes(around) })
    expect([error?.code, error?.message]).toEqual(['CONFLICT', expect.stringContaining('network service green')])
  })

  test('E2: never lets forbidden IPv6 ranges pass, however they are cut', () => {
    const forbidden = ['fe80::/10', 'ff00::/8', '::ffff:0:0/96', '64:ff9b::/96'].map(parsePrefix)
    fc.assert(
      fc.property(
        fc.constantFrom(...forbidden),
        fc.bigInt(0n, (1n << 128n) - 1n),
        fc.integer({ min: 2, max: 128 }),
        (outer, bits, length) => {
          const inside = { family: 6 as const, bits: outer.bits | (bits & ((1n << BigInt(128 - outer.length)) - 1n)) }
          const route = formatPrefix(prefixOf(inside, length))
          const error = checkAnswer({ ...good, routes: [route] }, { ...bounds, allowPrefixes: ['0.0.0.0/0', '::/0'] })
          expect(error?.code, route).toBe('REFUSED')
        },
      ),
    )
  })

  test('--allow-prefix admits exactly what it names', () => {
    const wide = {
      ...good,
      addresses: ['198.51.100.1/32'],
      endpointAddresses: [],
      routes: ['198.51.100.0/24'],
      dns: [],
    }
    expect(checkAnswer(wide, bounds)?.code).toBe('REFUSED')
    expect(checkAnswer(wide, { ...bounds, allowPrefixes: ['198.51.100.0/24'] })).toBeUndefined()
    expect(checkAnswer(good, { ...bounds, allowPrefixes: ['198.51.100.0/24'] })?.message).toContain('--allow-prefix')
  })

  test('never lets forbidden ranges pass, whatever is allowed and however they are cut', () => {
    const forbidden = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4'].map(parsePrefix)
    fc.assert(
      fc.property(
        fc.constantFrom(...forbidden),
        fc.bigInt(0n, 0xffff_ffffn),
        fc.integer({ min: 2, max: 32 }),
        (outer, bits, length) => {
          const inside = { family: 4 as const, bits: outer.bits | (bits & ((1n << BigInt(32 - outer.length)) - 1n)) }
          const route = formatPrefix(prefixOf(inside, length))
          const error = checkAnswer({ ...good, routes: [route] }, { ...bounds, allowPrefixes: ['0.0.0.0/0', '::/0'] })
          expect(error?.code, route).toBe('REFUSED')
        },
      ),
    )
  })

  test('accepts no route outside the private ranges unless it is named', () => {
    const privateRanges = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10'].map(parsePrefix)
    fc.assert(
      fc.property(fc.bigInt(0n, 0xffff_ffffn), fc.integer({ min: 0, max: 32 }), (bits, length) => {
        const route = prefixOf({ family: 4, bits }, length)
        const error = checkAnswer({ ...good, routes: [formatPrefix(route)], dns: [] }, bounds)
        expect(error === undefined).toBe(privateRanges.some((outer) => prefixCovers(outer, route)))
      }),
    )
  })

  test('many small routes may not add up to more than half of a family', () => {
    const quarters = ['64.0.0.0/2', '128.0.0.0/2', '16.0.0.0/4']
    const error = checkAnswer({ ...good, routes: quarters }, { ...bounds, allowPrefixes: ['0.0.0.0/0', '::/0'] })
    expect(error?.message).toContain('more than half of IPv4')
  })

  test('gives an answer to any garbage and never throws', () => {
    const text = fc.oneof(fc.string(), fc.constantFrom('10.64.0.1/32', '::/0', '1.2.3.4', '/', '10.0.0.0/-1'))
    const answers = fc.record({
      addresses: fc.array(text),
      endpointAddresses: fc.array(text),
      routes: fc.array(text),
      policies: fc.nat(3),
      dns: fc.array(fc.record({ servers: fc.array(text), domains: fc.array(text) })),
      mtuBytes: fc.integer(),
    })
    fc.assert(fc.property(answers, (answer) => void checkAnswer(answer, bounds)))
  })
})
