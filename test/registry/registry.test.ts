import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { create } from '@bufbuild/protobuf'
import { timestampMs } from '@bufbuild/protobuf/wkt'
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import {
  NetworkServiceEndpointRegistry,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../../src/nsm/generated/registry_pb.js'
import { createRegistryClient } from '../../src/registry/client.ts'
import { keepRegistered } from '../../src/registry/registration.ts'
import { createRegistry, type Found } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { FakeClock, TestMesh } from '../nsm/mesh.ts'

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

async function startRegistry(clock = new FakeClock(), path = ':memory:', mesh = new TestMesh('test.internal', clock)) {
  open.push(() => mesh.close())
  const store = openRegistryStore(path)
  const registry = createRegistry({ store, clock, log: silentLog })
  const server = await mesh.serve(registryServices(registry, clock))
  const stop = async () => {
    await server.stop()
    registry.close()
    store.close()
  }
  const clientOf = (id: string) => createRegistryClient(mesh.channel(server, mesh.source(id)))
  return { mesh, clock, server, registry, store, stop, clientOf }
}

const endpoint = (name: string) => ({
  name,
  networkServiceNames: ['net'],
  networkServiceLabels: { net: { labels: { app: name } } },
  url: 'tcp://10.0.0.1:5001',
})

describe('the registry', () => {
  test('registers a service with payload IP and the identities of its path', async () => {
    const { clientOf } = await startRegistry()
    const client = clientOf('/nse')
    const registered = await client.registerService({ name: 'net' })
    expect(registered).toMatchObject({
      name: 'net',
      payload: 'IP',
      pathIds: ['spiffe://test.internal/nse', 'spiffe://test.internal/manager'],
    })
    expect((await client.findServices({})).map(({ name }) => name)).toEqual(['net'])
    expect(await client.findServices({ name: 'other' })).toEqual([])
  })

  test('gives an endpoint a minute, keeps its first time, and forgets it when it does not refresh', async () => {
    const { clock, clientOf } = await startRegistry()
    const client = clientOf('/nse')
    const first = await client.registerEndpoint(endpoint('nse-1'))
    expect(first.expirationTime && timestampMs(first.expirationTime) - clock.wallMs()).toBe(60_000)
    clock.advance(40_000)
    const again = await client.registerEndpoint(endpoint('nse-1'))
    expect(again.initialRegistrationTime).toEqual(first.initialRegistrationTime)
    clock.advance(40_000)
    expect(await client.findEndpoints({ networkServiceNames: ['net'] })).toHaveLength(1)
    clock.advance(20_000)
    expect(await client.findEndpoints({})).toEqual([])
  })

  test('finds an entry as it is registered at the moment, though its answer was sent before', async () => {
    const { clientOf } = await startRegistry()
    const client = clientOf('/nse')
    const urls = async () => (await client.findEndpoints({ networkServiceNames: ['net'] })).map(({ url }) => url)
    for (const url of ['tcp://127.0.0.1:1', 'tcp://127.0.0.1:2']) {
      await client.registerEndpoint({ ...endpoint('nse-1'), url })
      await client.registerService({ name: 'net', payload: url })
      for (const _ of [1, 2]) expect(await urls()).toEqual([url])
      expect((await client.findServices({ name: 'net' })).map(({ payload }) => payload)).toEqual([url])
    }
    await client.unregisterEndpoint({ name: 'nse-1' })
    expect(await urls()).toEqual([])
  })

  test('binds a name to its first identity until it is unregistered or expired', async () => {
    const { clock, clientOf } = await startRegistry()
    const owner = clientOf('/owner')
    const other = clientOf('/other')
    await owner.registerService({ name: 'net' })
    await owner.registerEndpoint(endpoint('nse-1'))
    const refused = expect.objectContaining({
      code: 'REFUSED',
      message: expect.stringContaining('no sufficient privileges'),
    })
    await expect(other.registerService({ name: 'net' })).rejects.toEqual(refused)
    await expect(other.registerEndpoint(endpoint('nse-1'))).rejects.toEqual(refused)
    await expect(other.unregisterEndpoint({ name: 'nse-1' })).rejects.toEqual(refused)
    await expect(other.unregisterService('net')).rejects.toEqual(refused)
    await owner.unregisterService('net')
    await other.registerService({ name: 'net' })
    await expect(other.registerEndpoint(endpoint('nse-1'))).rejects.toEqual(refused)
    clock.advance(60_001)
    await other.registerEndpoint(endpoint('nse-1'))
  })

  test('lets nobody but the owner of a service offer it, so that no member is chosen as the endpoint of others', async () => {
    const { clientOf } = await startRegistry()
    const owner = clientOf('/owner')
    await owner.registerService({ name: 'net' })
    await expect(clientOf('/member').registerEndpoint(endpoint('trap'))).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('offer: the service net'),
    })
    await owner.registerEndpoint(endpoint('nse-1'))
    expect((await owner.findEndpoints({})).map(({ name }) => name)).toEqual(['nse-1'])
  })

  test.each([
    ['no name', { ...endpoint(''), name: '' }, 'NetworkServiceEndpoint.Name can not be zero valued'],
    ['another domain', endpoint('nse@far.example'), 'names another domain'],
    ['a name over 253 bytes', { name: 'é'.repeat(127) }, '254 bytes of a name'],
    ['a service name over 253 bytes', { name: 'n', networkServiceNames: ['x'.repeat(254)] }, '254 bytes of a name'],
    ['65 services', { name: 'n', networkServiceNames: Array.from({ length: 65 }, String) }, '65 service names'],
    ['a url over 512 bytes', { name: 'n', url: `tcp://${'x'.repeat(512)}:1` }, '520 bytes of a url'],
    ['labels of several services that are too many', { name: 'n', networkServiceLabels: twice(65) }, '130 labels'],
    [
      'a label of 20 KB',
      { name: 'n', networkServiceLabels: { net: { labels: { a: 'x'.repeat(20_000) } } } },
      'an entry',
    ],
    ['a url that only the server can reach', { name: 'n', url: 'tcp://169.254.169.254:80' }, 'link-local'],
    ['too many labels', { name: 'n', networkServiceLabels: { net: { labels: manyLabels() } } }, '129 labels'],
  ])('refuses an endpoint with %s', async (_what, wanted, why) => {
    const { clientOf } = await startRegistry()
    await expect(clientOf('/nse').registerEndpoint(wanted)).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining(why),
    })
  })

  test('refuses a service whose name or whole is too large', async () => {
    const { clientOf } = await startRegistry()
    const client = clientOf('/nse')
    const routes = [{ destinationSelector: { a: 'x'.repeat(20_000) } }]
    for (const wanted of [{ name: 'x'.repeat(254) }, { name: 'net', matches: [{ routes }] }]) {
      await expect(client.registerService(wanted)).rejects.toMatchObject({ code: 'REFUSED' })
    }
    expect(await client.findServices({})).toEqual([])
  })

  test('releases the name of a service that nobody has offered for a day, and says so to its watchers', async () => {
    const clock = new FakeClock()
    const { registry } = await startRegistry(clock)
    const offer = () =>
      registry.registerEndpoint(
        create(NetworkServiceEndpointSchema, { name: 'nse-1', networkServiceNames: ['offered'] }),
        'spiffe://a/owner',
        Number.MAX_SAFE_INTEGER,
      )
    for (const name of ['offered', 'squatted', 'renewed']) {
      registry.registerService(create(NetworkServiceSchema, { name }), 'spiffe://a/owner')
    }
    const gone: string[] = []
    const watching = new AbortController()
    const reading = (async () => {
      const changes = registry.watchServices(create(NetworkServiceSchema), watching.signal)
      for await (const { entry, deleted } of changes) if (deleted) gone.push(entry.name)
    })().catch(() => {})
    for (let hour = 0; hour < 26; hour++) {
      for (let minute = 0; minute < 60; minute++) {
        offer()
        clock.advance(60_000)
      }
      if (hour === 12) registry.registerService(create(NetworkServiceSchema, { name: 'renewed' }), 'spiffe://a/owner')
    }
    expect(registry.findServices(create(NetworkServiceSchema)).map(({ name }) => name)).toEqual(['offered', 'renewed'])
    registry.registerService(create(NetworkServiceSchema, { name: 'squatted' }), 'spiffe://a/other')
    watching.abort()
    await reading
    expect(gone).toEqual(['squatted'])
  })

  test('goes on when its file cannot be written, says so, and tries again', async () => {
    const clock = new FakeClock()
    const errors: string[] = []
    const store = openRegistryStore(':memory:')
    let isFull = true
    const registry = createRegistry({
      store: {
        ...store,
        deleteEndpoint(name) {
          if (isFull) throw new RangeError('database or disk is full')
          store.deleteEndpoint(name)
        },
      },
      clock,
      log: { ...silentLog, error: (sentence) => void errors.push(sentence) },
    })
    open.push(() => registry.close())
    registry.registerEndpoint(
      create(NetworkServiceEndpointSchema, { name: 'n' }),
      'spiffe://a/b',
      Number.MAX_SAFE_INTEGER,
    )
    clock.advance(75_000)
    expect(errors).toEqual(['the registry cannot be written', 'the registry cannot be written'])
    expect(registry.findEndpoints(create(NetworkServiceEndpointSchema))).toEqual([])
    isFull = false
    clock.advance(10_000)
    expect([errors.length, store.endpoints()]).toEqual([2, []])
  })

  test('refuses a registration without its path, as NSM does', async () => {
    const { mesh, server } = await startRegistry()
    const asked = mesh.channel(server).unary(NetworkServiceEndpointRegistry.method.register, endpoint('nse-1'))
    await expect(asked).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('prev_token_signed'),
    })
  })

  test('tells watchers what is there, each refresh, each expiry and each goodbye', async () => {
    const { clock, clientOf } = await startRegistry()
    const client = clientOf('/nse')
    await client.registerEndpoint(endpoint('nse-1'))
    const seen: string[] = []
    for await (const { entry, deleted } of client.watchEndpoints({ networkServiceNames: ['net'] })) {
      seen.push(`${entry.name} ${deleted ? 'gone' : 'there'}`)
      if (seen.length === 1) await client.registerEndpoint(endpoint('nse-1'))
      if (seen.length === 2) await client.registerEndpoint({ name: 'unwatched', networkServiceNames: ['other'] })
      if (seen.length === 2) await client.registerEndpoint(endpoint('nse-2'))
      if (seen.length === 3) await client.unregisterEndpoint({ name: 'nse-2' })
      if (seen.length === 4) clock.advance(60_001)
      if (seen.length === 5) break
    }
    expect(seen).toEqual(['nse-1 there', 'nse-1 there', 'nse-2 there', 'nse-2 gone', 'nse-1 gone'])
  })

  test('a watch ends with the server, as an error', async () => {
    const { clientOf, stop } = await startRegistry()
    const client = clientOf('/nse')
    await client.registerEndpoint(endpoint('nse-1'))
    const watching = (async () => {
      for await (const _found of client.watchEndpoints({})) await stop()
    })()
    await expect(watching).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })

  test('knows services, owners and expiry after a restart with the same file', async () => {
    const path = scratchFile()
    const clock = new FakeClock()
    const mesh = new TestMesh('test.internal', clock)
    const before = await startRegistry(clock, path, mesh)
    await before.clientOf('/owner').registerService({ name: 'net' })
    await before.clientOf('/owner').registerEndpoint(endpoint('nse-1'))
    await before.clientOf('/owner').registerEndpoint(endpoint('nse-2'))
    await before.stop()
    clock.advance(30_000)
    const after = await startRegistry(clock, path, mesh)
    const client = after.clientOf('/owner')
    expect((await client.findServices({})).map(({ name }) => name)).toEqual(['net'])
    expect(await client.findEndpoints({})).toHaveLength(2)
    await expect(after.clientOf('/other').registerEndpoint(endpoint('nse-1'))).rejects.toMatchObject({
      code: 'REFUSED',
    })
    await client.registerEndpoint(endpoint('nse-1'))
    clock.advance(30_001)
    expect((await client.findEndpoints({})).map(({ name }) => name)).toEqual(['nse-1'])
    expect(after.store.endpoints()).toHaveLength(1)
  })

  test('does not open the file of a newer version', () => {
    const path = scratchFile()
    const newer = new DatabaseSync(path)
    newer.exec('PRAGMA user_version = 9')
    newer.close()
    expect(() => openRegistryStore(path)).toThrow('newer nsm')
  })

  test('a watcher that never reads loses its stream, not the memory of the server', async () => {
    const { registry } = await startRegistry()
    const watching = registry.watchEndpoints(create(NetworkServiceEndpointSchema), new AbortController().signal)
    for (let i = 0; i < 1_100; i++) {
      registry.registerEndpoint(
        create(NetworkServiceEndpointSchema, { name: 'n' }),
        'spiffe://a/b',
        Number.MAX_SAFE_INTEGER,
      )
    }
    const seen: Found<unknown>[] = []
    const reading = (async () => {
      for await (const found of watching) seen.push(found)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(seen).toHaveLength(1_024)
  })
})

describe('a kept registration', () => {
  test('refreshes at two thirds of its time, comes back when it is lost, and goes when it is stopped', async () => {
    const { clock, registry, clientOf } = await startRegistry()
    const client = clientOf('/nse')
    const seen: string[] = []
    const watcher = new AbortController()
    const waiting: { count: number; done: () => void }[] = []
    const watching = (async () => {
      for await (const { deleted } of clientOf('/watcher').watchEndpoints({ name: 'nse-1' }, watcher.signal)) {
        seen.push(deleted ? 'gone' : 'there')
        for (const wait of waiting) if (seen.length >= wait.count) wait.done()
      }
    })().catch(() => {})
    const until = (count: number) =>
      new Promise<void>((done) => (seen.length >= count ? done() : waiting.push({ count, done })))
    const kept = await keepRegistered({
      client,
      services: [{ name: 'net' }],
      endpoint: endpoint('nse-1'),
      clock,
      log: silentLog,
    })
    await until(1)
    const ticking = setInterval(() => clock.advance(500), 1)
    await until(3)
    registry.unregisterEndpoint('nse-1', 'spiffe://test.internal/nse')
    await until(seen.indexOf('gone') < 0 ? seen.length + 2 : seen.length + 1)
    clearInterval(ticking)
    expect(seen.filter((event) => event === 'gone')).toHaveLength(1)
    expect(seen.at(-1)).toBe('there')
    const stopping = setInterval(() => clock.advance(500), 1)
    await kept.stop()
    clearInterval(stopping)
    expect(await client.findEndpoints({})).toEqual([])
    watcher.abort()
    await watching
  })
})

function twice(count: number) {
  const labels = Object.fromEntries(Array.from({ length: count }, (_, i) => [`l${i}`, '']))
  return { net: { labels }, other: { labels } }
}

function manyLabels(): Record<string, string> {
  return Object.fromEntries(Array.from({ length: 129 }, (_, i) => [`l${i}`, '']))
}

function scratchFile(): string {
  const dir = mkdtempSync(join(tmpdir(), 'nsm-registry-'))
  open.push(() => rmSync(dir, { recursive: true }))
  return join(dir, 'registry.db')
}
