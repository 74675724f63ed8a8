import { create } from '@bufbuild/protobuf'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { silentLog } from '../../src/base/log.ts'
import { NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import { createRegistry } from '../../src/registry/registry.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const id = (name: string) => `spiffe://test.internal/${name}`
const url = 'tcp://10.0.0.1:5001'
const endpoint = create(NetworkServiceEndpointSchema, { name: 'db-1', networkServiceNames: ['db'], url })

function start() {
  const clock = createFakeClock()
  const store = openRegistryStore(':memory:')
  const events: AuditEvent[] = []
  const registry = createRegistry({
    store,
    clock,
    log: silentLog,
    audit: { record: (event) => void events.push(event) },
  })
  onTestFinished(() => {
    registry.close()
    store.close()
  })
  const register = (owner: string) => registry.registerEndpoint(endpoint, id(owner), clock.wallMs() + 600_000)
  return { clock, registry, events, register }
}

describe('the record of a registry', () => {
  test('has an endpoint once, whoever refreshes it how often', async () => {
    const { clock, events, register } = start()
    for (let i = 0; i < 3; i++) {
      register('nse')
      await clock.advance(20_000)
    }
    expect(events).toEqual([{ event: 'nse.register', id: id('nse'), endpoint: 'db-1', service: 'db', url }])
  })

  test('has who wanted the name of another, and why not', () => {
    const { events, register } = start()
    register('nse')
    expect(() => register('mallory')).toThrow('belongs to another identity')
    expect(events.slice(1)).toEqual([
      { event: 'nse.deny', id: id('mallory'), endpoint: 'db-1', service: 'db', reason: 'REFUSED' },
    ])
  })

  test('has how it ended: by its owner, or by silence', async () => {
    const { clock, registry, events, register } = start()
    register('nse')
    registry.unregisterEndpoint('db-1', id('nse'))
    register('nse')
    await clock.advance(61_000)
    expect(events.map(({ event, reason }) => [event, reason])).toEqual([
      ['nse.register', undefined],
      ['nse.expire', 'unregistered'],
      ['nse.register', undefined],
      ['nse.expire', 'expired'],
    ])
  })
})
