import { create } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import {
  bareName,
  domainOf,
  nameIn,
  renameEndpoint,
  splitDomain,
  withDomain,
  withoutDomain,
} from '../../src/nsm/interdomain.ts'

const connection = (networkService: string, networkServiceEndpointName = '') =>
  create(ConnectionSchema, { id: 'c-1', networkService, networkServiceEndpointName, labels: { app: 'a@b' } })

describe('names of domains', () => {
  test.each([
    ['vl3', 'vl3', undefined],
    ['vl3@far.test', 'vl3', 'far.test'],
    ['vl3@a@b', 'vl3', 'a@b'],
    ['vl3@//10.0.0.1:5002', 'vl3', '//10.0.0.1:5002'],
    ['@far.test', '', 'far.test'],
    ['vl3@', 'vl3', ''],
  ])('splitDomain splits %s at the first @', (text, name, domain) => {
    expect(splitDomain(text)).toEqual({ name, domain })
  })

  test('nameIn gives back what splitDomain took, and leaves an empty name empty', () => {
    const part = fc.string({ minLength: 1 }).filter((text) => !text.includes('@'))
    fc.assert(
      fc.property(part, fc.string(), (name, domain) => {
        expect(splitDomain(nameIn(domain, name))).toEqual({ name, domain })
        expect(bareName(nameIn(domain, name))).toBe(name)
      }),
    )
    expect(nameIn('far.test', '')).toBe('')
  })

  test('nameIn puts one domain in the place of another', () => {
    expect(nameIn('far.test', 'vl3@near.test')).toBe('vl3@far.test')
  })

  test.each([
    ['svc@far.test', '', 'far.test'],
    ['svc', 'ep@far.test', 'far.test'],
    ['svc@far.test', 'ep@other.test', 'far.test'],
    ['svc', 'ep', undefined],
    ['', '', undefined],
  ])('domainOf the connection to %s at %s follows the service, then the endpoint', (service, endpoint, domain) => {
    expect(domainOf(connection(service, endpoint))).toBe(domain)
  })

  test('a connection loses and regains its domain in service and endpoint, and nothing else', () => {
    const asked = connection('svc@far.test', 'ep@far.test')
    const bare = withoutDomain(asked)
    expect(bare).toEqual(connection('svc', 'ep'))
    expect(withDomain(bare, 'far.test')).toEqual(asked)
    expect(asked.networkService).toBe('svc@far.test')
  })

  test('a connection without an endpoint gets none from its domain', () => {
    expect(withDomain(connection('svc'), 'far.test').networkServiceEndpointName).toBe('')
  })

  test('renameEndpoint changes the name, the services and the keys of their labels', () => {
    const endpoint = create(NetworkServiceEndpointSchema, {
      name: 'ep',
      networkServiceNames: ['a', 'b'],
      networkServiceLabels: { a: { labels: { color: 'red' } } },
      url: 'tcp://10.0.0.1:5001',
    })
    const named = renameEndpoint(endpoint, (name) => nameIn('far.test', name))
    expect(named).toMatchObject({
      name: 'ep@far.test',
      networkServiceNames: ['a@far.test', 'b@far.test'],
      networkServiceLabels: { 'a@far.test': { labels: { color: 'red' } } },
      url: 'tcp://10.0.0.1:5001',
    })
    expect(renameEndpoint(named, bareName)).toEqual(endpoint)
  })
})
