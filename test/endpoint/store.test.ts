import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, test } from 'vitest'
import { type Lease, openEndpointStore } from '../../src/endpoint/store.ts'
import { scratchDir } from '../support/scratch.ts'

const lease: Lease = {
  segmentId: 's',
  spiffeId: 'spiffe://example.org/alice',
  connectionId: 'c',
  publicKey: 'k',
  addresses: ['10.64.0.1/32', 'fd00::1/128'],
  label: 'alice',
  expiresMs: 1_800_000_000_000,
  underlay: { address: 'fe80::1', port: 51_820 },
  releasedMs: undefined,
}

describe('openEndpointStore', () => {
  test('gives back what it was given, after a restart too, and keeps services apart', async () => {
    const path = join(await scratchDir(), 'endpoint.db')
    const bare: Lease = { ...lease, connectionId: 'd', label: undefined, underlay: undefined, releasedMs: 5 }
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

  test('lives in one file with tables of others', async () => {
    const path = join(await scratchDir(), 'shared.db')
    const other = new DatabaseSync(path)
    other.exec('CREATE TABLE services (name TEXT); PRAGMA user_version = 7')
    const store = openEndpointStore(path)
    store.put('blue', lease)
    expect(other.prepare('PRAGMA user_version').get()).toMatchObject({ user_version: 7 })
    expect(store.leases('blue')).toEqual([lease])
    store.close()
    other.close()
  })

  test('refuses a file of another schema version', async () => {
    const path = join(await scratchDir(), 'endpoint.db')
    openEndpointStore(path).close()
    const raw = new DatabaseSync(path)
    raw.exec('UPDATE endpoint_schema SET version = 99')
    raw.close()
    expect(() => openEndpointStore(path)).toThrow('schema version 99')
  })
})
