import { create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import type { RegistryClient } from '../../src/registry/client.ts'
import { keepRegistered } from '../../src/registry/registration.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const lifeMs = 60_000

/** A registry whose watch shows the entry, or nothing at all, and then stays silent. */
function fakeRegistry(clock: ReturnType<typeof createFakeClock>, shows: boolean) {
  let registered = 0
  const client: RegistryClient = {
    findServices: async () => [],
    findEndpoints: async () => [],
    async *watchEndpoints(query, signal) {
      if (shows) yield { entry: create(NetworkServiceEndpointSchema, query), deleted: false }
      await new Promise((resolve) => signal?.addEventListener('abort', resolve, { once: true }))
    },
    registerService: async (service) => create(NetworkServiceSchema, service),
    async registerEndpoint(endpoint) {
      registered++
      const expirationTime = timestampFromMs(clock.wallMs() + lifeMs)
      return create(NetworkServiceEndpointSchema, { ...endpoint, expirationTime })
    },
    unregisterService: async () => {},
    unregisterEndpoint: async () => {},
  }
  return { client, count: () => registered }
}

test.each([
  ['shows it waits for the refresh', true, 1],
  ['does not show it is registered again', false, 2],
])('a kept registration whose watch %s', async (_name, shows, expected) => {
  const clock = createFakeClock()
  const { client, count } = fakeRegistry(clock, shows)
  const endpoint = { name: 'nse-1', networkServiceNames: ['net'] }
  const registration = await keepRegistered({ client, services: [], endpoint, clock, log: silentLog })
  await clock.advance(7_000)
  expect(count()).toBe(expected)
  await registration.stop()
  expect(clock.waiting).toBe(0)
})
