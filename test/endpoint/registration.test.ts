import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { registerVl3 } from '../../src/endpoint/registration.ts'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import type { RegistryClient } from '../../src/registry/client.ts'
import { createFakeClock } from '../support/fake-clock.ts'

test('registerVl3 registers service and endpoint, renews both and takes the endpoint back at the end', async () => {
  const clock = createFakeClock()
  const told: string[] = []
  const endpoints: MessageInitShape<typeof NetworkServiceEndpointSchema>[] = []
  const client: RegistryClient = {
    findServices: async () => [],
    findEndpoints: async () => [],
    async *watchEndpoints(query, signal) {
      yield { entry: create(NetworkServiceEndpointSchema, query), deleted: false }
      await new Promise((resolve) => signal?.addEventListener('abort', resolve))
    },
    async registerService(service) {
      told.push(`service ${service.name} ${service.payload}`)
      return create(NetworkServiceSchema, service)
    },
    async registerEndpoint(endpoint) {
      told.push(`endpoint ${endpoint.name}`)
      endpoints.push(endpoint)
      const registered = create(NetworkServiceEndpointSchema, endpoint)
      registered.expirationTime = timestampFromMs(clock.wallMs() + 60_000)
      return registered
    },
    unregisterService: async () => {},
    unregisterEndpoint: async (endpoint) => void told.push(`gone ${endpoint.name}`),
  }
  const registration = await registerVl3({
    client,
    service: 'blue',
    endpointName: 'vl3-blue',
    url: 'tcp://192.0.2.1:5001',
    labels: { site: 'a' },
    clock,
    log: silentLog,
  })
  expect(told).toEqual(['service blue IP', 'endpoint vl3-blue'])
  expect(endpoints[0]).toEqual({
    name: 'vl3-blue',
    url: 'tcp://192.0.2.1:5001',
    networkServiceNames: ['blue'],
    networkServiceLabels: { blue: { labels: { site: 'a' } } },
  })
  await clock.advance(41_000)
  expect(told).toHaveLength(4)
  await registration.stop()
  expect(told.at(-1)).toBe('gone vl3-blue')
})
