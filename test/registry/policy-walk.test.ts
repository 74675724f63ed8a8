import { create } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { type NetworkServiceEndpoint, NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import { createRegistry } from '../../src/registry/registry.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { endpointView } from '../../src/registry/view.ts'
import type { Found } from '../../src/registry/watchers.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { admissionOf, policyOf } from '../support/policy.ts'

const idOf = (name: string) => `spiffe://test.internal/${name}`
const names = ['red', 'blue', 'green']
const owners = ['one', 'two']
const services = fc.uniqueArray(fc.constantFrom(...names), { minLength: 1, maxLength: 2 })
const grants = fc
  .record({ one: services, two: services, watcher: fc.uniqueArray(fc.constantFrom(...names), { maxLength: 3 }) })
  .map(({ one, two, watcher }) => [
    { who: idOf('one'), may: ['offer'], services: one, prefixes: [] },
    { who: idOf('two'), may: ['offer'], services: two, prefixes: [] },
    ...(watcher.length > 0 ? [{ who: idOf('watcher'), may: ['find'], services: watcher }] : []),
  ])
const step = fc.oneof(
  fc.record({ act: fc.constant('policy' as const), grants }),
  fc.record({
    act: fc.constantFrom('register' as const, 'unregister' as const),
    owner: fc.constantFrom(...owners),
    name: fc.constantFrom('a', 'b'),
    services,
  }),
)
const query = fc.constantFrom<{ networkServiceNames?: string[] }>({}, { networkServiceNames: ['red'] })

/** What an endpoint shows of itself. */
const shownOf = ({ name, networkServiceNames }: NetworkServiceEndpoint) => `${name} ${networkServiceNames.join('+')}`

test('what a watcher was told adds up to what it would find, after any registrations and changes of the policy', async () => {
  await fc.assert(
    fc.asyncProperty(grants, query, fc.array(step, { maxLength: 20 }), async (first, wanted, steps) => {
      const admission = admissionOf({ grants: first })
      const store = openRegistryStore(':memory:')
      const clock = createFakeClock()
      const registry = createRegistry({ store, admission, clock, log: silentLog })
      const asked = create(NetworkServiceEndpointSchema, wanted)
      const view = endpointView(admission, idOf('watcher'))
      const stop = new AbortController()
      const told = new Map<string, string>()
      const events = registry.watchEndpoints(asked, stop.signal, view)
      const reading = read(events, told)
      for (const one of steps) {
        if (one.act === 'policy') admission.replace(policyOf({ grants: one.grants }))
        else attempt(registry, one, clock.wallMs() + 60_000)
        await settle()
        const found = registry.findEndpoints(asked, view).map(shownOf)
        expect([...told.values()].toSorted()).toEqual(found.toSorted())
        for (const { endpoint, owner } of store.endpoints()) {
          const may = (service: string) => admission.decide({ id: owner, action: 'offer', service }).isGranted
          expect(endpoint.networkServiceNames.every(may)).toBe(true)
        }
      }
      stop.abort()
      await reading
      registry.close()
      store.close()
    }),
    { numRuns: 200 },
  )
})

test('a watcher is told when an endpoint is registered again without what it asked for', async () => {
  const offers = { who: idOf('two'), may: ['offer'], services: ['red', 'blue'], prefixes: [] }
  const admission = admissionOf({ grants: [offers, { who: idOf('watcher'), may: ['find'], services: ['red'] }] })
  const store = openRegistryStore(':memory:')
  const clock = createFakeClock()
  const registry = createRegistry({ store, admission, clock, log: silentLog })
  const asked = create(NetworkServiceEndpointSchema, { networkServiceNames: ['red'] })
  const { signal } = new AbortController()
  const events = registry.watchEndpoints(asked, signal, endpointView(admission, idOf('watcher')))
  for (const service of ['red', 'blue']) {
    attempt(registry, { act: 'register', owner: 'two', name: 'b', services: [service] }, clock.wallMs() + 60_000)
  }
  registry.close()
  const told: unknown[] = []
  for await (const { entry, deleted } of events) told.push([shownOf(entry), deleted])
  expect(told).toEqual([
    ['b red', false],
    ['b red', true],
  ])
  store.close()
})

function attempt(
  registry: ReturnType<typeof createRegistry>,
  change: { readonly act: string; readonly owner: string; readonly name: string; readonly services: string[] },
  endMs: number,
): void {
  const { act, owner, name, services: networkServiceNames } = change
  try {
    if (act === 'unregister') registry.unregisterEndpoint(name, idOf(owner))
    else
      registry.registerEndpoint(create(NetworkServiceEndpointSchema, { name, networkServiceNames }), idOf(owner), endMs)
  } catch (error) {
    expect(error).toMatchObject({ code: 'REFUSED' })
  }
}

async function read(events: AsyncIterable<Found<NetworkServiceEndpoint>>, told: Map<string, string>): Promise<void> {
  for await (const { entry, deleted } of events) {
    if (deleted) told.delete(entry.name)
    else told.set(entry.name, shownOf(entry))
  }
}

const settle = () => new Promise((resolve) => setImmediate(resolve))
