import { create } from '@bufbuild/protobuf'
import { expect, test } from 'vitest'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { mayStand, serviceOf } from '../../src/registry/request-admission.ts'
import { admissionOf } from '../support/policy.ts'

const idOf = (name: string) => `spiffe://test.internal/${name}`
const admission = admissionOf({
  grants: [
    { who: idOf('client'), may: ['request'], services: ['*'] },
    { who: idOf('partner'), may: ['request'], services: ['*@far.test'] },
    { who: idOf('nse'), may: ['offer'], services: ['red'], prefixes: [] },
    { who: idOf('nsmgr'), may: ['relay'], services: ['red'] },
  ],
})

test.each([
  ['a service', 'red', '', 'red'],
  ['a service of another domain', 'red@far.test', '', 'red@far.test'],
  ['an endpoint of another domain', 'red', 'nse@far.test', 'red@far.test'],
  ['two domains, of which the first counts', 'red@far.test', 'nse@other.test', 'red@far.test'],
  ['an endpoint here', 'red', 'nse', 'red'],
])('a request leads to %s by service or endpoint', (_what, networkService, networkServiceEndpointName, service) => {
  expect(serviceOf(create(ConnectionSchema, { networkService, networkServiceEndpointName }))).toBe(service)
})

test.each([
  ['client', 'red', '', true],
  ['client', 'red', 'nse@far.test', false],
  ['client', 'red@far.test', '', false],
  ['partner', 'red', 'nse@far.test', true],
  ['partner', 'red', '', false],
])('%s with %s at the endpoint "%s": %s', (name, networkService, networkServiceEndpointName, expected) => {
  const connection = create(ConnectionSchema, { networkService, networkServiceEndpointName })
  expect(mayStand(admission, { connection, owner: idOf(name) })).toBe(expected)
})

test.each([
  ['all who take part may', { origin: idOf('client'), offeredBy: idOf('nse') }, true],
  ['the origin may not', { origin: idOf('other') }, false],
  ['the endpoint may not be offered', { origin: idOf('client'), offeredBy: idOf('other') }, false],
  ['the relay itself asks', {}, false],
])('a connection of a relay stands while: %s', (_when, more, expected) => {
  const connection = create(ConnectionSchema, { networkService: 'red' })
  expect(mayStand(admission, { connection, owner: idOf('nsmgr'), ...more })).toBe(expected)
})
