import { create, type MessageInitShape } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { Discovery } from '../../src/registry/discover.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const owner = 'spiffe://d/owner'

/** A registry with one service and endpoints that carry their name as label `app`. */
function discovery(names: readonly string[], service: MessageInitShape<typeof NetworkServiceSchema> = {}) {
  const clock = createFakeClock()
  const registry = createRegistry({ store: openRegistryStore(':memory:'), clock, log: silentLog })
  registry.registerService(create(NetworkServiceSchema, { name: 'blue', payload: 'IP', ...service }), owner)
  for (const name of names) {
    const labels = { blue: { labels: { app: name } } }
    const endpoint = { name, networkServiceNames: ['blue'], networkServiceLabels: labels, url: 'tcp://10.0.0.1:1' }
    registry.registerEndpoint(create(NetworkServiceEndpointSchema, endpoint), owner, clock.wallMs() + 60_000)
  }
  return { found: new Discovery(registry), registry, clock }
}

const wants = (change: MessageInitShape<typeof ConnectionSchema> = {}) =>
  create(ConnectionSchema, { networkService: 'blue', payload: 'IP', ...change })
const namesOf = ({ endpoints }: ReturnType<Discovery['find']>) => endpoints.map(({ name }) => name)

describe('Discovery', () => {
  test('begins with another endpoint each time, and gives all of them', () => {
    const { found } = discovery(['a', 'b', 'c'])
    const turns = Array.from({ length: 4 }, () => namesOf(found.find(wants())))
    expect(turns.map(([first]) => first)).toEqual(['a', 'b', 'c', 'a'])
    for (const turn of turns) expect([...turn].sort()).toEqual(['a', 'b', 'c'])
  })

  test('gives every endpoint the same share, whatever their number', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 5 }), (count, rounds) => {
        const names = Array.from({ length: count }, (_, i) => `e${i}`)
        const { found } = discovery(names)
        const firsts = Array.from({ length: count * rounds }, () => namesOf(found.find(wants()))[0] ?? '')
        for (const name of names) expect(firsts.filter((first) => first === name)).toHaveLength(rounds)
      }),
      { numRuns: 20 },
    )
  })

  test('gives the endpoint that is asked for by name alone, with the payload of the asker', () => {
    const { found } = discovery(['a', 'b'])
    const named = found.find(wants({ networkServiceEndpointName: 'b', payload: 'ETHERNET' }))
    expect([namesOf(named), named.payload]).toEqual([['b'], undefined])
  })

  test('follows the matches of the service', () => {
    const { found } = discovery(['red', 'blue'], {
      matches: [
        { sourceSelector: { team: 'red' }, routes: [{ destinationSelector: { app: 'red' } }] },
        { sourceSelector: {}, routes: [{ destinationSelector: { app: 'blue' } }] },
      ],
    })
    expect(namesOf(found.find(wants({ labels: { team: 'red' } })))).toEqual(['red'])
    expect(namesOf(found.find(wants({ labels: { team: 'green' } })))).toEqual(['blue'])
  })

  test.each([
    ['a service that nobody registered', { networkService: 'green' }, 'network service green is not found'],
    ['no service', { networkService: '' }, 'network service  is not found'],
    ['another payload', { payload: 'ETHERNET' }, 'network service blue is not found'],
    ['an endpoint that nobody registered', { networkServiceEndpointName: 'x' }, 'network service endpoint x not found'],
  ])('says NOT_FOUND in the words of NSM for %s', (_what, change, text) => {
    const { found } = discovery(['a'])
    const refused = expect.objectContaining({ code: 'NOT_FOUND', message: text })
    expect(() => found.find(wants(change))).toThrow(refused)
  })

  test('has no candidates without endpoints, and none when they have expired', async () => {
    expect(() => discovery([]).found.find(wants())).toThrow('network service endpoint candidates not found')
    const { found, clock } = discovery(['a'])
    await clock.advance(60_000)
    expect(() => found.find(wants())).toThrow('network service endpoint candidates not found')
    expect(() => found.find(wants({ networkServiceEndpointName: 'a' }))).toThrow('network service endpoint a not found')
  })
})
