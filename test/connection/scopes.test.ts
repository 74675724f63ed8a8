import { create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { scopesOf, zonesOf } from '../../src/connection/scopes.ts'
import type { NsmLease, Wanted } from '../../src/connection/wanted.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'

const wanted: Wanted = {
  service: 'blue',
  labels: {},
  name: 'lap',
  allowPrefixes: [],
  excludePrefixes: [],
  allowDomains: ['corp.example'],
  dnsMode: 'exclusive',
  dns: 'auto',
}

function lease(answer: Partial<NsmLease['answer']>): NsmLease {
  const addresses = { addresses: ['10.64.0.1/32', 'fd00::1/128'], endpointAddresses: ['10.64.0.0/32'] }
  return {
    refreshAtMs: 0,
    connection: create(ConnectionSchema),
    answer: { ...addresses, routes: ['10.64.0.0/15'], policies: 0, dns: [], mtuBytes: 0, ...answer },
    peer: { publicKey: new Uint8Array(32), address: '192.0.2.1', port: 51_820 },
    endpointName: 'vl3',
    mtuBytes: 1_420,
    expiresMs: 0,
    renewed: false,
  }
}

const blue = { servers: ['10.64.0.0', 'fd00::'], domains: ['blue.nsm.internal', 'nsm.internal', 'bank.example'] }

describe('the scopes of a lease', () => {
  test('are its own zones, and the reverse names of its widest prefixes, in the wanted mode', () => {
    const attached = scopesOf(lease({ dns: [blue] }), wanted)
    expect(attached?.scopes.map(({ suffix, mode }) => `${suffix} ${mode}`)).toEqual([
      'blue.nsm.internal exclusive',
      'fd00::1/128 exclusive',
      '10.64.0.0/15 exclusive',
    ])
    expect(attached?.searchDomains).toEqual(['blue.nsm.internal'])
  })

  test('speak to their servers from the own address of the same family', () => {
    const [scope] = scopesOf(lease({ dns: [blue] }), wanted)?.scopes ?? []
    expect(scope?.upstreams).toEqual([
      { address: '10.64.0.0', port: 53, localAddress: '10.64.0.1' },
      { address: 'fd00::', port: 53, localAddress: 'fd00::1' },
    ])
  })

  test('of two DNS configs for one zone have the servers of both, each once', () => {
    const more = { servers: ['10.64.0.0', '10.64.0.9'], domains: ['blue.nsm.internal', 'db.corp.example'] }
    const scopes = scopesOf(lease({ dns: [blue, more] }), wanted)?.scopes ?? []
    const servers = (suffix: string) =>
      scopes.find((scope) => scope.suffix === suffix)?.upstreams.map(({ address }) => address)
    expect(servers('blue.nsm.internal')).toEqual(['10.64.0.0', 'fd00::', '10.64.0.9'])
    expect(servers('db.corp.example')).toEqual(['10.64.0.0', '10.64.0.9'])
  })

  test.each([
    ['without DNS in the answer', lease({}), wanted],
    ['with no zone of its own', lease({ dns: [{ servers: ['10.64.0.0'], domains: ['bank.example'] }] }), wanted],
    [
      'with an empty list of zones, which is none and not all',
      lease({ dns: [{ servers: ['10.64.0.0'], domains: [] }] }),
      wanted,
    ],
    ['with --dns off', lease({ dns: [blue] }), { ...wanted, dns: 'off' as const }],
  ])('%s: there are none', (_case, granted, asked) => {
    expect(scopesOf(granted, asked)).toBeUndefined()
  })

  test('leave reverse zones out of the search list', () => {
    const dns = [{ servers: ['10.64.0.0'], domains: ['blue', '64.10.in-addr.arpa'] }]
    expect(zonesOf(lease({ dns }), wanted)).toEqual(['blue'])
    expect(scopesOf(lease({ dns }), wanted)?.scopes.map(({ suffix }) => suffix)).toContain('64.10.in-addr.arpa')
  })
})
