import { create } from '@bufbuild/protobuf'
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { toNsmError } from '../../src/base/errors.ts'
import { signToken } from '../../src/identity/token.ts'
import type { PolicyAdmission } from '../../src/nsm/admission.ts'
import { type Connection, ConnectionSchema, PathSegmentSchema } from '../../src/nsm/generated/connection_pb.js'
import { ConnectionContextSchema } from '../../src/nsm/generated/connectioncontext_pb.js'
import { NetworkService, NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import { unary } from '../../src/nsm/grpc.ts'
import { enterPath, leavePath, stampTokens, trimPath } from '../../src/nsm/path.ts'
import type { NsmServer } from '../../src/nsm/server.ts'
import { createRegistryClient } from '../../src/registry/client.ts'
import type { Registry } from '../../src/registry/registry.ts'
import { firstRequest, TestMesh } from '../nsm/mesh.ts'
import { admissionOf, type PolicyWords, policyOf } from '../support/policy.ts'
import { startManagerRig } from './manager-rig.ts'

const idOf = (path: string) => `spiffe://test.internal${path}`
const offers = (who: string, services: readonly string[], more: object = {}) => ({
  ...{ who: idOf(who), may: ['offer', 'own'], services, prefixes: ['10.80.0.0/24'], dns: ['db.example'] },
  ...more,
})
const asks = (who: string, services: readonly string[], more: object = {}) => ({
  ...{ who: idOf(who), may: ['find', 'request'], services },
  ...more,
})
const base: PolicyWords = {
  grants: [offers('/red', ['red']), offers('/blue', ['blue']), asks('/client', ['red']), asks('/all', ['*'])],
}

let mesh: TestMesh
let registry: Registry
let server: NsmServer
let admission: PolicyAdmission

beforeEach(() => {
  mesh = new TestMesh()
})
afterEach(() => mesh.close())

async function start(words: PolicyWords = base): Promise<void> {
  admission = admissionOf(words, { own: idOf('/manager'), isSite: (id) => id === idOf('/manager') })
  const started = await startManagerRig(mesh, { admission })
  registry = started.registry
  server = started.server
}

const registryOf = (path: string) => createRegistryClient(mesh.channel(server, mesh.source(path)))

/** An endpoint of another process; `change` is what it hands out. */
async function startEndpoint(path: string, change: (answer: Connection) => Connection = (answer) => answer) {
  const closed: string[] = []
  const endpoint = await mesh.serve(
    [
      unary(NetworkService.method.request, async (request, call) => {
        const entered = enterPath(request.connection ?? create(ConnectionSchema), { name: path, newId: () => path })
        const caller = { token: call.peer.token ?? '', expiresMs: call.peer.tokenExpiresMs ?? 0 }
        const stamped = stampTokens(entered.connection, { caller, own: call.own.token(call.peer.spiffeId) })
        return change(leavePath(trimPath(stamped), entered.callerIndex))
      }),
      unary(NetworkService.method.close, async (connection) => {
        closed.push(connection.path?.pathSegments[0]?.id ?? '')
        return {}
      }),
    ],
    mesh.source(path),
  )
  return { closed, url: `tcp://127.0.0.1:${endpoint.port}` }
}

/** A service with an endpoint of its own. */
async function offer(path: string, service: string, change?: (answer: Connection) => Connection) {
  const endpoint = await startEndpoint(path, change)
  const client = registryOf(path)
  await client.registerService({ name: service })
  await client.registerEndpoint({ name: `${service}-1`, url: endpoint.url, networkServiceNames: [service] })
  return endpoint
}

const request = (path: string, service: string, change: Partial<Connection> = {}) =>
  mesh.client(server, path).request(firstRequest({ networkService: service, ...change }, path.slice(1)))

const refusal = (failing: Promise<unknown>) =>
  failing.then(
    () => undefined,
    (error: unknown) => [toNsmError(error).code, toNsmError(error).message],
  )

const notGranted = (what: string) => ['REFUSED', `no sufficient privileges: NOT_GRANTED: ${what}`]

describe('the registry under a policy', () => {
  test('refuses names and offers of others, and keeps squatters out [C8]', async () => {
    await start()
    await offer('/red', 'red')
    const squatter = registryOf('/blue')
    expect(await refusal(squatter.registerService({ name: 'red' }))).toEqual(notGranted('own red'))
    expect(await refusal(squatter.registerService({ name: 'unheard' }))).toEqual(notGranted('own unheard'))
    const offering = (networkServiceNames: string[]) =>
      refusal(squatter.registerEndpoint({ name: 'x', url: 'tcp://127.0.0.1:1', networkServiceNames }))
    expect(await offering(['red'])).toEqual(notGranted('offer red'))
    expect(await offering(['blue', 'red'])).toEqual(notGranted('offer red'))
    expect(await offering([])).toEqual(notGranted('offer'))
    expect(await refusal(squatter.unregisterEndpoint({ name: 'red-1' }))).toEqual([
      'REFUSED',
      expect.stringContaining('client_allowed'),
    ])
    expect(registry.findEndpoints(create(NetworkServiceEndpointSchema, {})).map(({ name }) => name)).toEqual(['red-1'])
  })

  test('lets whoever administers remove what is of others', async () => {
    await start({ grants: [...(base.grants ?? []), { who: idOf('/ops/*'), may: ['admin'] }] })
    await offer('/red', 'red')
    await registryOf('/ops/eve').unregisterEndpoint({ name: 'red-1' })
    await registryOf('/ops/eve').unregisterService('red')
    expect(await registryOf('/all').findServices({})).toEqual([])
  })

  test('a find shows what is granted, and an empty stream to everybody else', async () => {
    await start()
    await offer('/red', 'red')
    await offer('/blue', 'blue')
    const seen = async (path: string) => {
      const client = registryOf(path)
      const services = (await client.findServices({})).map(({ name }) => name)
      return [services.toSorted(), (await client.findEndpoints({})).map(({ name }) => name).toSorted()]
    }
    expect(await seen('/client')).toEqual([['red'], ['red-1']])
    expect(await seen('/all')).toEqual([
      ['blue', 'red'],
      ['blue-1', 'red-1'],
    ])
    expect(await seen('/nobody')).toEqual([[], []])
    expect(await registryOf('/client').findEndpoints({ networkServiceNames: ['blue'] })).toEqual([])
  })

  test('an endpoint of two services shows only the one that is granted', async () => {
    await start({ grants: [offers('/red', ['red', 'secret']), asks('/client', ['red'])] })
    const labels = { red: { labels: { a: 'b' } }, secret: { labels: { c: 'd' } } }
    const networkServiceNames = ['red', 'secret']
    const wanted = { name: 'two', url: 'tcp://127.0.0.1:1', networkServiceNames, networkServiceLabels: labels }
    await registryOf('/red').registerEndpoint(wanted)
    const [found] = await registryOf('/client').findEndpoints({})
    expect([found?.networkServiceNames, Object.keys(found?.networkServiceLabels ?? {})]).toEqual([['red'], ['red']])
    expect(await registryOf('/client').findEndpoints({ networkServiceNames: ['secret'] })).toEqual([])
    const bySecretLabel = { networkServiceLabels: { secret: { labels: { c: 'd' } } } }
    expect(await registryOf('/client').findEndpoints(bySecretLabel)).toEqual([])
  })

  test('a watch learns what a new policy shows and hides, and other watches learn nothing', async () => {
    await start()
    await offer('/red', 'red')
    await offer('/blue', 'blue')
    const stop = new AbortController()
    const watch = (path: string) => registryOf(path).watchEndpoints({}, stop.signal)[Symbol.asyncIterator]()
    const [client, all] = [watch('/client'), watch('/all')]
    const next = async (events: typeof client) => {
      const { value } = await events.next()
      return [value?.entry.name, value?.deleted]
    }
    expect(await next(client)).toEqual(['red-1', false])
    expect([(await next(all))[1], (await next(all))[1]]).toEqual([false, false])
    admission.replace(
      policyOf({
        grants: [offers('/red', ['red']), offers('/blue', ['blue']), asks('/client', ['blue']), asks('/all', ['*'])],
      }),
    )
    expect((await Promise.all([next(client), next(client)])).toSorted()).toEqual([
      ['blue-1', false],
      ['red-1', true],
    ])
    const quiet = next(all)
    await registryOf('/red').unregisterEndpoint({ name: 'red-1' })
    expect(await quiet).toEqual(['red-1', true])
    stop.abort()
  })

  test('a renamed owner takes the name over, and what the old one registered is gone', async () => {
    await start()
    await offer('/red', 'red')
    admission.replace(policyOf({ grants: [offers('/heir', ['red']), asks('/all', ['*'])] }))
    expect(await registryOf('/all').findServices({})).toEqual([])
    expect(await refusal(registryOf('/red').registerService({ name: 'red' }))).toEqual(notGranted('own red'))
    await registryOf('/heir').registerService({ name: 'red' })
    expect((await registryOf('/all').findServices({})).map(({ name }) => name)).toEqual(['red'])
  })
})

describe('the manager under a policy', () => {
  test('answers the same for no such service, no grant and a denial [C14]', async () => {
    await start({ ...base, denies: [{ who: idOf('/denied'), reason: 'x' }] })
    await offer('/blue', 'blue')
    const answers = [
      await refusal(request('/client', 'blue')),
      await refusal(request('/client', 'none')),
      await refusal(request('/nobody', 'blue')),
      await refusal(request('/denied', 'blue')),
      await refusal(request('/client', 'blue', { networkServiceEndpointName: 'blue-1' })),
    ]
    const plain = answers.map((answer) => JSON.stringify(answer).replace('none', 'blue'))
    expect(new Set(plain)).toEqual(new Set([JSON.stringify(notGranted('request blue'))]))
    expect((await refusal(request('/all', 'none')))?.[0]).toBe('NOT_FOUND')
  })

  test('does not let one service be asked for by the endpoint of another', async () => {
    await start()
    await offer('/red', 'red')
    await offer('/blue', 'blue')
    const crossed = request('/client', 'red', { networkServiceEndpointName: 'blue-1' })
    expect((await refusal(crossed))?.[0]).toBe('NOT_FOUND')
    expect((await request('/client', 'red')).networkServiceEndpointName).toBe('red-1')
  })

  test('gives each identity of a grant its connections, refreshes without count, and no more', async () => {
    await start({ grants: [offers('/red', ['red']), asks('/ci/*', ['red'], { limits: { connections: 2 } })] })
    await offer('/red', 'red')
    const client = mesh.client(server, '/ci/a')
    const ask = (name: string) => client.request(firstRequest({ networkService: 'red' }, name))
    const first = await ask('one')
    await ask('two')
    expect((await refusal(ask('three')))?.[1]).toContain('holds 2 connections')
    const refreshed = create(NetworkServiceRequestSchema, { connection: first })
    await client.request({ ...firstRequest(), connection: refreshed.connection })
    await client.close(first)
    await ask('three')
    await mesh.client(server, '/ci/b').request(firstRequest({ networkService: 'red' }, 'one'))
  })

  test('gives no more connections to those who ask for all at once', async () => {
    await start({ grants: [offers('/red', ['red']), asks('/ci/*', ['red'], { limits: { connections: 2 } })] })
    const red = await offer('/red', 'red')
    const client = mesh.client(server, '/ci/a')
    const asked = Array.from({ length: 6 }, (_, at) =>
      refusal(client.request(firstRequest({ networkService: 'red' }, `c${at}`))),
    )
    const answers = await Promise.all(asked)
    expect(answers.filter((answer) => answer === undefined)).toHaveLength(2)
    expect(answers.filter((answer) => answer?.[1]?.includes('holds 2 connections'))).toHaveLength(4)
    const held: string[] = []
    for await (const { connections } of client.monitor({}, new AbortController().signal)) {
      held.push(...Object.keys(connections))
      break
    }
    expect(held).toHaveLength(2)
    expect(red.closed).toEqual([])
  })

  test('bounds the life of a lease on the path, by which the client paces its refreshes', async () => {
    const limits = { token_lifetime: '30s' }
    await start({ grants: [offers('/red', ['red']), asks('/client', ['red'], { limits })] })
    await offer('/red', 'red')
    const answer = await request('/client', 'red')
    const expires = answer.path?.pathSegments[1]?.expires
    expect(expires && timestampMs(expires)).toBeLessThanOrEqual(mesh.clock.wallMs() + 30_000)
  })

  test.each([
    ['a route', { ipContext: { srcRoutes: [{ prefix: '0.0.0.0/0' }] } }],
    ['an address', { ipContext: { srcIpAddrs: ['10.81.0.1/32'] } }],
    ['a prefix around what is its own', { ipContext: { dstIpAddrs: ['10.80.0.0/23'] } }],
    ['another family', { ipContext: { srcIpAddrs: ['fd00::1/128'] } }],
    ['an address that is none', { ipContext: { srcIpAddrs: ['ten'] } }],
    ['a way by another gateway', { ipContext: { srcRoutes: [{ prefix: '10.80.0.0/24', nextHop: '192.0.2.1' }] } }],
    ['a policy route', { ipContext: { policies: [{ routes: [{ prefix: '0.0.0.0/0' }] }] } }],
    ['a zone of names', { dnsContext: { configs: [{ searchDomains: ['evil.example'] }] } }],
    ['a zone that ends alike', { dnsContext: { configs: [{ searchDomains: ['mydb.example'] }] } }],
    ['a name server for all names', { dnsContext: { configs: [{ dnsServerIps: ['10.80.0.1'] }] } }],
    ['a name server', { dnsContext: { configs: [{ dnsServerIps: ['192.0.2.53'] }] } }],
  ])('refuses an endpoint that hands out %s beyond its grant, and closes there', async (_what, context) => {
    await start()
    const endpoint = await offer('/red', 'red', (answer) => ({
      ...answer,
      context: create(ConnectionContextSchema, context),
    }))
    expect((await refusal(request('/client', 'red')))?.[1]).toContain('hands out more than it was granted')
    expect(endpoint.closed).toEqual(['client-0'])
  })

  test('does not let an endpoint call its answer one of a service with wider bounds', async () => {
    const wide = { who: idOf('/red'), may: ['offer'], services: ['wide'], prefixes: ['0.0.0.0/0'] }
    await start({ grants: [...(base.grants ?? []), wide] })
    const context = { ipContext: { srcRoutes: [{ prefix: '0.0.0.0/0' }] } }
    await offer('/red', 'red', (answer) => ({
      ...answer,
      networkService: 'wide',
      context: create(ConnectionContextSchema, context),
    }))
    expect((await refusal(request('/client', 'red')))?.[1]).toContain('hands out more than it was granted')
  })

  test('takes what an endpoint hands out within its grant', async () => {
    await start()
    const context = {
      ipContext: { srcIpAddrs: ['10.80.0.2/32'], srcRoutes: [{ prefix: '10.80.0.0/24', nextHop: '10.80.0.1' }] },
      dnsContext: { configs: [{ dnsServerIps: ['10.80.0.1'], searchDomains: ['a.db.example.'] }] },
    }
    await offer('/red', 'red', (answer) => ({ ...answer, context: create(ConnectionContextSchema, context) }))
    expect((await request('/client', 'red')).networkServiceEndpointName).toBe('red-1')
  })

  test('takes a path that starts with another from a relay alone, for whom and what is granted [C9]', async () => {
    const relay = { who: idOf('/nsmgr'), may: ['relay'], services: ['red'] }
    await start({ grants: [...(base.grants ?? []), relay] })
    await offer('/red', 'red')
    await offer('/blue', 'blue')
    const via = (caller: string, origin: string, service: string) =>
      refusal(mesh.client(server, caller).request(relayed({ caller, origin, service })))
    expect(await via('/nsmgr', '/client', 'red')).toBeUndefined()
    expect(await via('/nsmgr', '/nobody', 'red')).toEqual(notGranted('request red'))
    expect((await via('/nsmgr', '/all', 'blue'))?.[1]).toContain('relay: the path must start with the caller')
    expect((await via('/all', '/client', 'red'))?.[1]).toContain('relay: the path must start with the caller')
  })

  test('shows connections of others to whoever may monitor, and to nobody else', async () => {
    const monitor = { who: idOf('/watcher'), may: ['monitor'], services: ['red'] }
    await start({ grants: [...(base.grants ?? []), monitor] })
    await offer('/red', 'red')
    await offer('/blue', 'blue')
    await request('/client', 'red')
    await request('/all', 'blue')
    const seen = async (path: string) => {
      for await (const { connections } of mesh.client(server, path).monitor({}, new AbortController().signal)) {
        return Object.values(connections).map(({ networkService }) => networkService)
      }
      return []
    }
    expect([await seen('/watcher'), await seen('/all'), await seen('/nobody')]).toEqual([['red'], ['blue'], []])
  })

  test('a new policy closes the connections that it does not admit, and no others', async () => {
    await start()
    const red = await offer('/red', 'red')
    const blue = await offer('/blue', 'blue')
    await request('/client', 'red')
    await request('/all', 'red')
    await request('/all', 'blue')
    admission.replace(policyOf({ grants: [offers('/red', ['red']), offers('/blue', ['blue']), asks('/all', ['*'])] }))
    await expect.poll(() => red.closed).toEqual(['client-0'])
    expect(blue.closed).toEqual([])
    expect(await refusal(request('/client', 'red'))).toBeDefined()
    admission.replace(policyOf({ grants: [offers('/blue', ['blue']), asks('/all', ['*'])] }))
    await expect.poll(() => red.closed).toEqual(['client-0', 'all-0'])
    expect(blue.closed).toEqual([])
  })

  test('a grant that goes while the endpoint thinks leaves nothing behind', async () => {
    await start()
    const red = await offer('/red', 'red', (answer) => {
      admission.replace(policyOf({ grants: [offers('/red', ['red'])] }))
      return answer
    })
    expect(await refusal(request('/client', 'red'))).toBeDefined()
    expect(red.closed).toEqual(['client-0'])
  })

  test('ends the connections of those who lost every grant, and leaves those who never had one', async () => {
    await start()
    const [client, nobody] = [mesh.client(server, '/client'), mesh.client(server, '/nobody')]
    const watch = (who: typeof client) => who.monitor({}, new AbortController().signal)[Symbol.asyncIterator]()
    const [lost, kept] = [watch(client), watch(nobody)]
    await Promise.all([lost.next(), kept.next()])
    admission.replace(policyOf({}))
    await expect(lost.next()).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(await refusal(nobody.request(firstRequest({ networkService: 'red' })))).toEqual(notGranted('request red'))
  })
})

/** What `caller` passes on for `origin`. */
function relayed({
  caller,
  origin,
  service,
}: {
  readonly caller: string
  readonly origin: string
  readonly service: string
}) {
  const { svid } = mesh.source(origin).current()
  const expiresMs = mesh.clock.wallMs() + 600_000
  const token = signToken({ svid, audience: idOf(caller), expiresMs })
  const asked = firstRequest({ networkService: service }, 'pod')
  const { connection } = asked
  if (!connection?.path) return asked
  const first = create(PathSegmentSchema, { name: 'pod', id: 'pod-0', token, expires: timestampFromMs(expiresMs) })
  connection.id = `relay-${origin}-${service}`
  connection.path.index = 1
  connection.path.pathSegments.splice(0, 1, first, create(PathSegmentSchema, { name: 'relay', id: connection.id }))
  return asked
}
