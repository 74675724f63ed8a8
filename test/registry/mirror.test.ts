import { create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { afterEach, describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { createEventQueue, type EventQueue } from '../../src/nsm/event-queue.ts'
import {
  type NetworkServiceEndpoint,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../../src/nsm/generated/registry_pb.js'
import type { RegistryClient } from '../../src/registry/client.ts'
import { mirrorRegistry } from '../../src/registry/mirror.ts'
import { createRegistry, type Found } from '../../src/registry/registry.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const owner = 'spiffe://d/site'
const away = new NsmError('UNREACHABLE', 'no answer', 'wait')
const stops: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop()
})

/** A registry elsewhere that is told what to say, and a copy of it here. */
function startMirror() {
  const clock = createFakeClock()
  const registry = createRegistry({ store: openRegistryStore(':memory:'), clock, log: silentLog })
  const state = { isAway: false, services: ['blue'], watches: 0, serviceQueries: 0 }
  let queue: EventQueue<Found<NetworkServiceEndpoint>> | undefined
  const from: Pick<RegistryClient, 'findServices' | 'watchEndpoints'> = {
    async findServices() {
      state.serviceQueries += 1
      if (state.isAway) throw away
      return state.services.map((name) => create(NetworkServiceSchema, { name, payload: 'IP' }))
    },
    async *watchEndpoints(_query, signal) {
      state.watches += 1
      if (state.isAway) throw away
      queue = createEventQueue<Found<NetworkServiceEndpoint>>([], {
        signal: signal ?? new AbortController().signal,
        onEnd: () => {},
      })
      yield* queue.events
    },
  }
  const none = () => Promise.reject(away)
  const client: RegistryClient = {
    ...{ findEndpoints: none, registerService: none, registerEndpoint: none, unregisterService: none },
    ...{ unregisterEndpoint: none, ...from },
  }
  const stop = mirrorRegistry({
    from: client,
    to: registry,
    owner,
    isOwn: (name) => name === 'own',
    clock,
    log: silentLog,
  })
  stops.push(async () => {
    await stop()
    registry.close()
  })
  return {
    ...{ clock, registry, state, stop },
    say: (name: string, change: { deleted?: boolean; endMs?: number } = {}) => {
      const expirationTime = timestampFromMs(change.endMs ?? clock.wallMs() + 60_000)
      const entry = create(NetworkServiceEndpointSchema, {
        name,
        networkServiceNames: ['blue'],
        url: 'tcp://10.0.0.1:1',
        expirationTime,
      })
      queue?.push({ entry, deleted: change.deleted ?? false })
      return clock.advance(0)
    },
    breakOff: () => queue?.end(away),
    endpoints: () => registry.findEndpoints(create(NetworkServiceEndpointSchema)).map(({ name }) => name),
    services: () => registry.findServices(create(NetworkServiceSchema)).map(({ name }) => name),
  }
}

describe('a mirror of a registry', () => {
  test('has its services, and endpoints as they come, refresh and go', async () => {
    const mirror = startMirror()
    await mirror.clock.advance(0)
    expect(mirror.services()).toEqual(['blue'])
    await mirror.say('a')
    await mirror.say('b')
    expect(mirror.endpoints()).toEqual(['a', 'b'])
    expect(mirror.registry.ownerOf('a')).toBe(owner)
    await mirror.clock.advance(40_000)
    await mirror.say('a')
    await mirror.say('b', { deleted: true })
    expect(mirror.endpoints()).toEqual(['a'])
    await mirror.clock.advance(40_000)
    expect(mirror.endpoints()).toEqual(['a'])
  })

  test('does not copy our own endpoints back, nor what is over already', async () => {
    const mirror = startMirror()
    await mirror.clock.advance(0)
    await mirror.say('own')
    await mirror.say('late', { endMs: mirror.clock.wallMs() })
    expect(mirror.endpoints()).toEqual([])
  })

  test('leaves alone a name that is somebody’s here, and goes on with the others', async () => {
    const mirror = startMirror()
    await mirror.clock.advance(0)
    const service = create(NetworkServiceSchema, { name: 'green' })
    mirror.registry.registerService(service, 'spiffe://d/else')
    const taken = create(NetworkServiceEndpointSchema, {
      name: 'a',
      networkServiceNames: ['green'],
      url: 'tcp://10.0.0.2:1',
    })
    mirror.registry.registerEndpoint(taken, 'spiffe://d/else', mirror.clock.wallMs() + 600_000)
    await mirror.say('a')
    await mirror.say('b')
    expect(mirror.registry.ownerOf('a')).toBe('spiffe://d/else')
    expect(mirror.endpoints()).toEqual(['a', 'b'])
  })

  test('sees new services within a minute', async () => {
    const mirror = startMirror()
    await mirror.clock.advance(0)
    mirror.state.services = ['blue', 'green']
    await mirror.clock.advance(60_200)
    expect(mirror.services()).toEqual(['blue', 'green'])
  })

  test('goes on when the other is away: its endpoints end by themselves, and come back with it', async () => {
    const mirror = startMirror()
    await mirror.clock.advance(0)
    await mirror.say('a')
    mirror.state.isAway = true
    mirror.breakOff()
    await mirror.clock.advance(60_000)
    expect(mirror.endpoints()).toEqual([])
    mirror.state.isAway = false
    await mirror.clock.advance(5_000)
    await mirror.say('a')
    expect(mirror.endpoints()).toEqual(['a'])
  })

  test('asks less often the longer the other is away, and at once again when it was there', async () => {
    const mirror = startMirror()
    mirror.state.isAway = true
    await mirror.clock.advance(0)
    mirror.breakOff()
    const before = mirror.state.watches
    await mirror.clock.advance(60_000)
    expect(mirror.state.watches - before).toBeGreaterThan(10)
    expect(mirror.state.watches - before).toBeLessThan(20)
  })

  test('ends when it is told to, and asks no more', async () => {
    const mirror = startMirror()
    await mirror.clock.advance(0)
    await mirror.stop()
    const { watches, serviceQueries } = mirror.state
    await mirror.clock.advance(120_000)
    expect([mirror.state.watches, mirror.state.serviceQueries]).toEqual([watches, serviceQueries])
  })
})
