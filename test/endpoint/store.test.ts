import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Lease, openEndpointStore } from '../../src/endpoint/store.ts'
import { scratchDir } from '../support/scratch.ts'

const lease: Lease = {
  segmentId: 's',
  spiffeId: 'spiffe://example.org/alice',
  origin: 'spiffe://example.org/workload',
  connectionId: 'c',
  publicKey: 'k',
  addresses: ['10.64.0.1/32', 'fd00::1/128'],
  label: 'alice',
  expiresMs: 1_800_000_000_000,
  underlay: { address: 'fe80::1', port: 51_820 },
  mtuBytes: 1_380,
  releasedMs: undefined,
}

describe('openEndpointStore', () => {
  test('gives back what it was given, after a restart too, and keeps services apart', async () => {
    const path = join(await scratchDir(), 'endpoint.db')
    const bare: Lease = {
      ...lease,
      connectionId: 'd',
      label: undefined,
      underlay: undefined,
      releasedMs: 5,
      origin: undefined,
      mtuBytes: undefined,
    }
    const before = openEndpointStore(path)
    const made = before.privateKey('blue', () => Uint8Array.of(1, 2, 3))
    before.put('blue', lease)
    before.put('blue', bare)
    before.put('green', { ...lease, segmentId: 'other' })
    before.close()
    const after = openEndpointStore(path)
    expect(after.leases('blue')).toEqual([bare, lease])
    expect(after.privateKey('blue', () => Uint8Array.of(9))).toEqual(made)
    expect(after.privateKey('green', () => Uint8Array.of(9))).toEqual(Uint8Array.of(9))
    after.close()
  })

  test('replaces the lease of the same member and forgets what has rested', async () => {
    const store = openEndpointStore(join(await scratchDir(), 'endpoint.db'))
    store.put('blue', lease)
    store.put('blue', { ...lease, segmentId: 't', releasedMs: 100 })
    expect(store.leases('blue')).toMatchObject([{ segmentId: 't', releasedMs: 100 }])
    expect([store.forgetReleased('blue', 99), store.forgetReleased('blue', 100)]).toEqual([0, 1])
    expect(store.leases('blue')).toEqual([])
    store.close()
  })
})
