import { create } from '@bufbuild/protobuf'
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import type { Admission } from '../../src/nsm/admission.ts'
import { openChannel, type Target } from '../../src/nsm/channel.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { unary } from '../../src/nsm/grpc.ts'
import { answersFor } from '../../src/nsm/interdomain-trust.ts'
import { createRegistryClient } from '../../src/registry/client.ts'
import { Domains, localNames } from '../../src/registry/domains.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { FakeClock, TestMesh } from '../nsm/mesh.ts'
import { admissionOf } from '../support/policy.ts'

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

const here = '127.0.0.1'
const { signal } = new AbortController()

/** A domain's registry with the service `net`, which counts what is closed at its border. */
async function startDomain(mesh: TestMesh) {
  const store = openRegistryStore(':memory:')
  const registry = createRegistry({ store, clock: mesh.clock, log: silentLog })
  const closed: string[] = []
  const close = unary(NetworkService.method.close, async ({ networkService }) => {
    closed.push(networkService)
    return {}
  })
  const server = await mesh.serve([...registryServices(registry, mesh.clock), close], mesh.source('/border'))
  open.push(() => registry.close())
  const owner = 'spiffe://test.internal/nse'
  const register = (name: string) =>
    registry.registerEndpoint(
      create(NetworkServiceEndpointSchema, {
        ...{ name, networkServiceNames: ['net'], url: 'tcp://192.0.2.1:5001' },
        networkServiceLabels: { net: { labels: { app: name } } },
      }),
      owner,
      mesh.clock.wallMs() + 600_000,
    )
  registry.registerService(create(NetworkServiceSchema, { name: 'net', payload: 'IP' }), owner)
  register('nse-1')
  return { server, registry, register, unregister: (name: string) => registry.unregisterEndpoint(name, owner), closed }
}

/** The way to a domain `far.test`, and a registry of the domain `near.test` that knows it. */
async function start(
  parts: { readonly mesh?: TestMesh; readonly far?: TestMesh; readonly admission?: Admission } = {},
) {
  const clock = new FakeClock()
  const mesh = parts.mesh ?? new TestMesh('test.internal', clock)
  open.push(() => mesh.close())
  const far = await startDomain(parts.far ?? mesh)
  const source = mesh.source('/near')
  const asked: string[] = []
  const dialed: Target[] = []
  const domains = new Domains({
    own: 'near.test',
    async find(domain) {
      asked.push(domain)
      return { registry: far.server, manager: far.server }
    },
    dial(target, expected) {
      dialed.push(target)
      return openChannel({ target, source, clock: mesh.clock, expect: expected })
    },
    expect: (domain) => answersFor(domain, source),
    clock: mesh.clock,
  })
  open.push(() => domains.close())
  const store = openRegistryStore(':memory:')
  const registry = createRegistry({ store, clock: mesh.clock, log: silentLog })
  open.push(() => registry.close())
  const ownUrl = () => 'tcp://192.0.2.9:5001'
  const near = await mesh.serve(
    registryServices(registry, mesh.clock, {
      beyond: { domains, ownUrl },
      ...(parts.admission ? { admission: parts.admission } : {}),
    }),
    source,
  )
  const client = createRegistryClient(mesh.channel(near, mesh.source('/client')))
  return { mesh, clock, far, domains, registry, client, asked, dialed }
}

const connectionTo = (networkService: string) => create(ConnectionSchema, { id: 'c-1', networkService })

describe('a registry that knows the way to other domains', () => {
  test('finds their services and endpoints under their full names, to be asked through us', async () => {
    const { client } = await start()
    expect(await client.findServices({ name: 'net@far.test' })).toMatchObject([{ name: 'net@far.test', payload: 'IP' }])
    expect(await client.findEndpoints({ networkServiceNames: ['net@far.test'] })).toMatchObject([
      {
        name: 'nse-1@far.test',
        networkServiceNames: ['net@far.test'],
        networkServiceLabels: { 'net@far.test': { labels: { app: 'nse-1' } } },
        url: 'tcp://192.0.2.9:5001',
      },
    ])
    expect(await client.findEndpoints({ name: 'nse-1@far.test' })).toHaveLength(1)
    expect(await client.findEndpoints({ name: 'nse-2@far.test' })).toEqual([])
  })

  test('asks nobody for what the caller may not find, and shows what it may', async () => {
    const grant = (services: string[]) => [{ who: 'spiffe://test.internal/client', may: ['find'], services }]
    const hidden = await start({ admission: admissionOf({ grants: grant(['*']) }) })
    expect(await hidden.client.findServices({ name: 'net@far.test' })).toEqual([])
    expect(await hidden.client.findEndpoints({ networkServiceNames: ['net@far.test'] })).toEqual([])
    expect(hidden.asked).toEqual([])
    expect(await hidden.client.findServices({ name: '@far.test' })).toEqual([])
    const nobody = await start({ admission: admissionOf({}) })
    expect(await nobody.client.findServices({ name: '@far.test' })).toEqual([])
    expect(nobody.asked).toEqual([])
    const shown = await start({ admission: admissionOf({ grants: grant(['net@far.test']) }) })
    expect((await shown.client.findServices({ name: '@far.test' })).map(({ name }) => name)).toEqual(['net@far.test'])
    expect(await shown.client.findEndpoints({ networkServiceNames: ['net@far.test'] })).toHaveLength(1)
  })

  test('finds everything of a domain by the domain alone', async () => {
    const { client, far } = await start()
    far.register('nse-2')
    expect((await client.findServices({ name: '@far.test' })).map(({ name }) => name)).toEqual(['net@far.test'])
    const endpoints = await client.findEndpoints({ name: '@far.test' })
    expect(endpoints.map(({ name }) => name)).toEqual(['nse-1@far.test', 'nse-2@far.test'])
  })

  test('finds its own under its own domain, with the urls they have', async () => {
    const { client, asked } = await start()
    await client.registerService({ name: 'local' })
    await client.registerEndpoint({ name: 'local-1', networkServiceNames: ['local'], url: 'tcp://192.0.2.3:5001' })
    expect(await client.findServices({ name: 'local@NEAR.test' })).toMatchObject([{ name: 'local@NEAR.test' }])
    expect(await client.findEndpoints({ networkServiceNames: ['local@near.test'] })).toMatchObject([
      { name: 'local-1@near.test', url: 'tcp://192.0.2.3:5001' },
    ])
    expect(asked).toEqual([])
  })

  test('leaves other domains out of what it finds without a domain', async () => {
    const { client, asked } = await start()
    expect(await client.findServices({})).toEqual([])
    expect(asked).toEqual([])
  })

  test('shows to a watcher what comes and goes in the other domain', async () => {
    const { client, far } = await start()
    const seen: string[] = []
    for await (const { entry, deleted } of client.watchEndpoints({ networkServiceNames: ['net@far.test'] })) {
      seen.push(`${deleted ? 'gone' : 'there'} ${entry.name}`)
      if (seen.length === 1) far.register('nse-2')
      if (seen.length === 2) far.unregister('nse-1')
      if (seen.length === 3) break
    }
    expect(seen).toEqual(['there nse-1@far.test', 'there nse-2@far.test', 'gone nse-1@far.test'])
  })

  test('refuses to register names of other domains', async () => {
    const { client } = await start()
    await expect(client.registerService({ name: 'net@far.test' })).rejects.toMatchObject({ code: 'REFUSED' })
  })
})

describe('the way to other domains', () => {
  test('closes there with bare names', async () => {
    const { domains, far } = await start()
    await domains.hop({ domain: 'far.test', from: here }).close(connectionTo('net@far.test'))
    expect(far.closed).toEqual(['net'])
  })

  test('asks DNS once and dials once while it is used, and again when it was idle for a minute', async () => {
    const { clock, client, asked, dialed } = await start()
    await client.findServices({ name: 'net@far.test' })
    await client.findEndpoints({ networkServiceNames: ['net@FAR.test'] })
    expect([asked, dialed.length]).toEqual([['far.test'], 1])
    clock.advance(60_000)
    await client.findServices({ name: 'net@far.test' })
    expect([asked, dialed.length]).toEqual([['far.test', 'far.test'], 2])
  })

  test('opens no place that only this machine reaches to somebody from elsewhere', async () => {
    const { domains, far } = await start()
    const asking = domains.hop({ domain: 'far.test', from: '192.0.2.50' }).close(connectionTo('net@far.test'))
    await expect(asking).rejects.toMatchObject({ code: 'REFUSED', message: expect.stringContaining('loopback') })
    expect(far.closed).toEqual([])
  })

  test('leads to no server of a trust domain that is not believed, and says so', async () => {
    const clock = new FakeClock()
    const stranger = new TestMesh('strange.internal', clock)
    open.push(() => stranger.close())
    const { domains } = await start({ mesh: new TestMesh('test.internal', clock), far: stranger })
    const asking = domains.hop({ domain: 'far.test', from: here }).close(connectionTo('net@far.test'))
    await expect(asking).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringContaining('the servers of the domain far.test and we do not trust each other'),
      next: expect.stringContaining('nsm ca bundle'),
    })
  })

  test('leads nowhere while DNS fails, and asks again the next time', async () => {
    const mesh = new TestMesh()
    open.push(() => mesh.close())
    let tries = 0
    const domains = new Domains({
      ...{ own: 'near.test', clock: mesh.clock, expect: () => () => true },
      find: async () => {
        tries++
        throw new RangeError('no DNS')
      },
      dial: () => expect.fail('dialed'),
    })
    const hop = domains.hop({ domain: 'far.test', from: here })
    for (const _ of [1, 2]) await expect(hop.close(connectionTo('net@far.test'))).rejects.toThrow('no DNS')
    expect(tries).toBe(2)
  })

  test('is open to 64 domains at the same time, and drops one that nobody uses for the next', async () => {
    const { domains, asked } = await start()
    const query = { entry: create(NetworkServiceSchema), watch: true }
    const watch = (domain: string, stop: AbortSignal) => {
      const found = domains.services({ domain, from: here }, { ...query, signal: stop })
      return found.next()
    }
    for (let i = 0; i < 64; i++) await watch(`d${i}.test`, signal)
    await watch('one-more.test', signal)
    expect(asked).toHaveLength(65)
  })

  test('has 16 places for one address while nobody answers, and places for others beside them', async () => {
    const mesh = new TestMesh()
    open.push(() => mesh.close())
    const domains = new Domains({
      ...{ own: 'near.test', clock: mesh.clock, expect: () => () => true },
      find: () => new Promise(() => {}),
      dial: () => expect.fail('dialed'),
    })
    const stop = new AbortController()
    const ask = (domain: string, from: string) => {
      const query = { entry: create(NetworkServiceSchema), watch: false, signal: stop.signal }
      return domains.services({ domain, from }, query).next()
    }
    for (let i = 0; i < 16; i++) void ask(`d${i}.test`, '10.0.0.1').catch(() => {})
    await expect(ask('one-more.test', '10.0.0.1')).rejects.toThrow('too many domains')
    const other = ask('one-more.test', '10.0.0.2').catch(() => {})
    expect(await Promise.race([other, Promise.resolve('waits')])).toBe('waits')
  })

  test('takes a connection to x@own for one to x, and gives the answer its names back', async () => {
    const { domains } = await start()
    const { local, restore } = localNames(connectionTo('net@Near.test'), domains)
    expect(local.networkService).toBe('net')
    const answer = create(ConnectionSchema, { networkService: 'net', networkServiceEndpointName: 'nse-1' })
    expect(restore(answer)).toMatchObject({
      networkService: 'net@Near.test',
      networkServiceEndpointName: 'nse-1@Near.test',
    })
  })

  test.each(['net', 'net@far.test'])('leaves a connection to %s as it is', async (name) => {
    const { domains } = await start()
    const asked = connectionTo(name)
    const { local, restore } = localNames(asked, domains)
    expect([local, restore(asked)]).toEqual([asked, asked])
    expect(localNames(asked, undefined).local).toBe(asked)
  })
})

test('a domain that is a believed trust domain is not spoken for by another one', async () => {
  const mesh = new TestMesh('test.internal')
  const pinned = new TestMesh('far.test')
  open.push(
    () => mesh.close(),
    () => pinned.close(),
  )
  const far = await startDomain(mesh)
  const state = mesh.issue('/near')
  const bundles = new Map([...state.bundles, ...pinned.issue('/x').bundles])
  const source = createFixedSource({ ...state, bundles })
  const domains = new Domains({
    ...{ own: 'near.test', clock: mesh.clock, expect: (domain) => answersFor(domain, source) },
    find: async () => ({ registry: far.server, manager: far.server }),
    dial: (target, expected) => openChannel({ target, source, clock: mesh.clock, expect: expected }),
  })
  open.push(() => domains.close())
  const to = (domain: string) => domains.hop({ domain, from: here }).close(connectionTo(`net@${domain}`))
  await expect(to('far.test')).rejects.toMatchObject({ code: 'IDENTITY' })
  await to('elsewhere.test')
  expect(far.closed).toEqual(['net'])
})
