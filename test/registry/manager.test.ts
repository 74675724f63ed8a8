import { clone, create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { afterEach, describe, expect, test } from 'vitest'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { signToken } from '../../src/identity/token.ts'
import { openAdmission } from '../../src/nsm/admission.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import {
  type Connection,
  type ConnectionEvent,
  ConnectionEventType,
  ConnectionSchema,
  PathSegmentSchema,
  State,
} from '../../src/nsm/generated/connection_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { unary } from '../../src/nsm/grpc.ts'
import { enterPath, leavePath, stampTokens, startPath, trimPath } from '../../src/nsm/path.ts'
import type { OwnHop } from '../../src/nsm/peer.ts'
import type { EndpointServer } from '../../src/registry/endpoint-server.ts'
import { createManager } from '../../src/registry/manager.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { FakeClock, firstRequest, TestMesh } from '../nsm/mesh.ts'

let open: TestMesh[] = []
afterEach(async () => {
  for (const mesh of open) await mesh.close()
  open = []
})

/** An endpoint that gives everybody an address and remembers what it was asked. */
class FakeEndpoint implements EndpointServer {
  readonly requests: Connection[] = []
  readonly closed: Connection[] = []
  readonly peers: string[] = []
  readonly origins: (string | undefined)[] = []
  refuse: NsmError | undefined
  hangOnClose = false
  readonly #name: string
  readonly #own: (audience: string) => ReturnType<OwnHop['token']>

  constructor(name: string, own: (audience: string) => ReturnType<OwnHop['token']>) {
    this.#name = name
    this.#own = own
  }

  async request(request: Parameters<EndpointServer['request']>[0], peer: Parameters<EndpointServer['request']>[1]) {
    if (this.refuse) throw this.refuse
    const { connection, callerIndex } = enterPath(request.connection ?? create(ConnectionSchema), {
      name: this.#name,
      newId: () => `${this.#name}-id-${this.requests.length}`,
    })
    this.requests.push(clone(ConnectionSchema, connection))
    this.peers.push(peer.spiffeId)
    this.origins.push(peer.origin)
    const answer = clone(ConnectionSchema, connection)
    answer.networkServiceEndpointName = this.#name
    if (request.mechanismPreferences[0]) answer.mechanism = request.mechanismPreferences[0]
    return leavePath(trimPath(stampTokens(answer, { caller: undefined, own: this.#own(peer.spiffeId) })), callerIndex)
  }

  async close(connection: Connection) {
    this.closed.push(connection)
    if (this.hangOnClose) await new Promise(() => {})
  }
}

async function startMesh(clock: Clock = systemClock, storePath = ':memory:', relays: readonly string[] = []) {
  const mesh = new TestMesh('test.internal', clock)
  open.push(mesh)
  const source = mesh.source('/manager')
  const { svid } = source.current()
  const own = (audience: string) => {
    const expiresMs = clock.wallMs() + 600_000
    return {
      token: signToken({ svid, audience: svid.spiffeId === audience ? audience : svid.spiffeId, expiresMs }),
      expiresMs,
    }
  }
  const store = openRegistryStore(storePath)
  const registry = createRegistry({ store, clock, log: silentLog })
  const locals = new Map<string, FakeEndpoint>()
  const manager = createManager({
    name: 'manager-1',
    registry,
    localEndpoint: (name) => locals.get(name),
    dial: (target) => openChannel({ target, source, clock }),
    admission: openAdmission({ relays }),
    clock,
    log: silentLog,
  })
  const server = await mesh.serve(manager.services, source)
  mesh.onClose(() => {
    manager.close()
    registry.close()
  })
  const offer = (name: string, labels: Record<string, string> = {}) => {
    const endpoint = new FakeEndpoint(name, own)
    locals.set(name, endpoint)
    register(name, 'inproc://', labels)
    return endpoint
  }
  const register = (name: string, url: string, labels: Record<string, string> = {}) =>
    registry.registerEndpoint(
      create(NetworkServiceEndpointSchema, {
        name,
        url,
        networkServiceNames: ['net'],
        networkServiceLabels: { net: { labels } },
      }),
      svid.spiffeId,
      clock.wallMs() + 600_000,
    )
  registry.registerService(create(NetworkServiceSchema, { name: 'net', payload: 'IP' }), svid.spiffeId)
  return { mesh, server, registry, manager, offer, register, source }
}

describe('the manager', () => {
  test('answers a request with three chained segments and the client in charge of index 0', async () => {
    const { mesh, server, offer } = await startMesh()
    const endpoint = offer('nse-1')
    const answer = await mesh.client(server).request(firstRequest({}, 'laptop'))
    expect(answer.path?.pathSegments.map(({ name }) => name)).toEqual(['laptop', 'manager-1', 'nse-1'])
    expect(answer.path?.index).toBe(0)
    expect(answer.id).toBe('laptop-0')
    expect(answer.networkServiceEndpointName).toBe('nse-1')
    expect(endpoint.requests[0]?.path?.index).toBe(2)
    expect(endpoint.peers).toEqual(['spiffe://test.internal/client'])
  })

  test('gives a refresh the same ids, and survives an empty context', async () => {
    const { mesh, server, offer } = await startMesh()
    const endpoint = offer('nse-1')
    const client = mesh.client(server)
    const request = firstRequest()
    if (request.connection) delete request.connection.context
    const first = await client.request(request)
    const again = await client.request({ ...request, connection: first })
    expect(again.path?.pathSegments.map(({ id }) => id)).toEqual(first.path?.pathSegments.map(({ id }) => id))
    expect(endpoint.requests).toHaveLength(2)
    expect(endpoint.requests[1]?.id).toBe(endpoint.requests[0]?.id)
  })

  test('tells the monitor of the owner: initial, update, delete', async () => {
    const { mesh, server, offer } = await startMesh()
    offer('nse-1')
    const client = mesh.client(server)
    const connection = await client.request(firstRequest({}, 'laptop'))
    const stop = new AbortController()
    const events: ConnectionEvent[] = []
    const watching = (async () => {
      for await (const event of client.monitor({ pathSegments: [{ name: 'laptop', id: 'laptop-0' }] }, stop.signal)) {
        events.push(event)
        if (events.length === 1) await client.request(firstRequest(connection, 'laptop'))
        if (events.length === 2) await client.close(connection)
        if (event.type === ConnectionEventType.DELETE) break
      }
    })()
    await watching
    expect(events.map(({ type }) => type)).toEqual([
      ConnectionEventType.INITIAL_STATE_TRANSFER,
      ConnectionEventType.UPDATE,
      ConnectionEventType.DELETE,
    ])
    const [seen] = Object.values(events[0]?.connections ?? {})
    expect(seen?.path?.index).toBe(1)
    expect(seen?.id).toBe(connection.path?.pathSegments[1]?.id)
  })

  test('shows nobody the connections of another identity', async () => {
    const { mesh, server, offer } = await startMesh()
    offer('nse-1')
    await mesh.client(server).request(firstRequest())
    for await (const event of mesh.client(server, '/other').monitor({})) {
      expect(event.type).toBe(ConnectionEventType.INITIAL_STATE_TRANSFER)
      expect(event.connections).toEqual({})
      break
    }
  })

  test('refuses to show a connection that only another identity holds, and waits for one that nobody holds', async () => {
    const { mesh, server, offer } = await startMesh()
    offer('nse-1')
    await mesh.client(server).request(firstRequest({}, 'laptop'))
    const watchOf = (name: string) =>
      mesh
        .client(server, '/other')
        .monitor({ pathSegments: [{ name, id: `${name}-0` }] })
        [Symbol.asyncIterator]()
    await expect(watchOf('laptop').next()).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('no sufficient privileges: service_connection'),
    })
    const waiting = watchOf('nobody')
    expect((await waiting.next()).value).toMatchObject({ connections: {} })
    await waiting.return?.()
  })

  test.each([
    ['anybody', [], 'REFUSED'],
    ['another', ['spiffe://test.internal/forwarder'], 'REFUSED'],
    ['the caller', ['spiffe://test.internal/nsmgr'], undefined],
    ['everybody below a path', ['spiffe://test.internal/*'], undefined],
  ])('with %s as relay, judges a request that starts with another workload', async (_name, relays, code) => {
    const { mesh, server, offer } = await startMesh(systemClock, ':memory:', relays)
    const endpoint = offer('nse-1')
    const { svid } = mesh.source('/pod').current()
    const token = signToken({ svid, audience: 'spiffe://test.internal/nsmgr', expiresMs: Date.now() + 600_000 })
    const request = firstRequest({}, 'pod')
    const { path } = request.connection ?? expect.fail()
    const expires = timestampFromMs(Date.now() + 600_000)
    path?.pathSegments.splice(0, 1, create(PathSegmentSchema, { name: 'pod', id: 'pod-0', token, expires }))
    path?.pathSegments.push(create(PathSegmentSchema, { name: 'nsmgr', id: 'nsmgr-0' }))
    if (path) path.index = 1
    if (request.connection) request.connection.id = 'nsmgr-0'
    const asked = mesh.client(server, '/nsmgr').request(request)
    if (code !== undefined) await expect(asked).rejects.toMatchObject({ code })
    else {
      expect((await asked).path?.pathSegments.map(({ name }) => name)).toEqual(['pod', 'nsmgr', 'manager-1', 'nse-1'])
      expect([endpoint.peers, endpoint.origins]).toEqual([['spiffe://test.internal/nsmgr'], [svid.spiffeId]])
    }
  })

  test('closes at the endpoint, and says OK to a connection it does not know', async () => {
    const { mesh, server, offer } = await startMesh()
    const endpoint = offer('nse-1')
    const client = mesh.client(server)
    const connection = await client.request(firstRequest())
    await client.close(connection)
    expect(endpoint.closed).toHaveLength(1)
    await client.close(firstRequest().connection ?? create(ConnectionSchema))
    expect(endpoint.closed).toHaveLength(1)
  })

  test('refuses to refresh or close the connection of another identity', async () => {
    const { mesh, server, offer } = await startMesh()
    const endpoint = offer('nse-1')
    const connection = await mesh.client(server).request(firstRequest({}, 'laptop'))
    const thief = mesh.client(server, '/thief')
    await expect(thief.request(firstRequest(connection, 'laptop'))).rejects.toMatchObject({ code: 'REFUSED' })
    await expect(thief.close(connection)).rejects.toMatchObject({ code: 'REFUSED' })
    expect(endpoint.closed).toHaveLength(0)
  })

  test('lets a client go on after a restart of the manager, and close what only the endpoint knows', async () => {
    const before = await startMesh()
    const endpoint = before.offer('nse-1')
    const connection = await before.mesh.client(before.server).request(firstRequest({}, 'laptop'))
    const { registry, mesh, source } = before
    const restarted = createManager({
      name: 'manager-1',
      registry,
      localEndpoint: (name) => (name === 'nse-1' ? endpoint : undefined),
      dial: (target) => openChannel({ target, source, clock: mesh.clock }),
      clock: mesh.clock,
      log: silentLog,
    })
    const client = mesh.client(await mesh.serve(restarted.services, source))
    await client.close(connection)
    expect(endpoint.closed).toHaveLength(1)
    const again = await client.request(firstRequest(connection, 'laptop'))
    expect(again.path?.pathSegments.map(({ id }) => id)).toEqual(connection.path?.pathSegments.map(({ id }) => id))
    restarted.close()
  })

  test('closes by itself when the lease ends, and not before', async () => {
    const clock = new FakeClock()
    const { mesh, server, offer } = await startMesh(clock)
    const endpoint = offer('nse-1')
    const client = mesh.client(server)
    const connection = await client.request(firstRequest())
    clock.advance(580_000)
    await settled()
    expect(endpoint.closed).toHaveLength(0)
    clock.advance(20_000)
    await settled()
    expect(endpoint.closed).toHaveLength(1)
    expect(endpoint.closed[0]?.path?.pathSegments[0]?.id).toBe(connection.id)
  })

  test('keeps a refreshed connection beyond its first lease', async () => {
    const clock = new FakeClock()
    const { mesh, server, offer } = await startMesh(clock)
    const endpoint = offer('nse-1')
    const client = mesh.client(server)
    const connection = await client.request(firstRequest())
    clock.advance(300_000)
    await client.request(firstRequest(connection))
    clock.advance(400_000)
    await settled()
    expect(endpoint.closed).toHaveLength(0)
  })

  test('says NOT_FOUND in the words of NSM', async () => {
    const { mesh, server, registry } = await startMesh()
    const client = mesh.client(server)
    const ask = (change: Parameters<typeof firstRequest>[0]) => client.request(firstRequest(change))
    const notFound = (message: string) => expect.objectContaining({ code: 'NOT_FOUND', message, exitCode: 6 })
    await expect(ask({ networkService: 'nothing' })).rejects.toEqual(notFound('network service nothing is not found'))
    await expect(ask({})).rejects.toEqual(notFound('network service endpoint candidates not found'))
    await expect(ask({ networkServiceEndpointName: 'x' })).rejects.toEqual(
      notFound('network service endpoint x not found'),
    )
    await expect(ask({ payload: 'ETHERNET' })).rejects.toEqual(notFound('network service net is not found'))
    expect(registry.findServices(create(NetworkServiceSchema))).toHaveLength(1)
  })

  test('chooses by label, and takes turns when several fit', async () => {
    const { mesh, server, registry, offer, source } = await startMesh()
    const red = offer('nse-red', { colour: 'red' })
    const blue = offer('nse-blue', { colour: 'blue' })
    const client = mesh.client(server)
    for (let i = 0; i < 4; i++) await client.request(firstRequest())
    expect([red.requests.length, blue.requests.length]).toEqual([2, 2])
    registry.registerService(
      create(NetworkServiceSchema, {
        name: 'net',
        matches: [{ sourceSelector: { want: 'red' }, routes: [{ destinationSelector: { colour: '{{.want}}' } }] }],
      }),
      source.current().svid.spiffeId,
    )
    for (let i = 0; i < 3; i++) await client.request(firstRequest({ labels: { want: 'red' } }))
    expect([red.requests.length, blue.requests.length]).toEqual([5, 2])
    await expect(client.request(firstRequest())).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })

  test('tries the next endpoint when one refuses, and passes on the last refusal', async () => {
    const { mesh, server, offer } = await startMesh()
    const full = offer('nse-full')
    full.refuse = new NsmError('CONFLICT', 'address pool 10.0.0.0/30 is exhausted', 'wait')
    const client = mesh.client(server)
    await expect(client.request(firstRequest())).rejects.toMatchObject({
      code: 'CONFLICT',
      message: 'address pool 10.0.0.0/30 is exhausted',
    })
    const free = offer('nse-free')
    for (let i = 0; i < 2; i++) await client.request(firstRequest())
    expect(free.requests).toHaveLength(2)
  })

  test('reselect closes at the endpoint and asks as for the first time', async () => {
    const { mesh, server, offer } = await startMesh()
    const endpoint = offer('nse-1')
    const client = mesh.client(server)
    const connection = await client.request(firstRequest({}, 'laptop'))
    const wanted = firstRequest({ ...connection, state: State.RESELECT_REQUESTED, networkServiceEndpointName: '' })
    const again = await client.request(wanted)
    expect(endpoint.closed).toHaveLength(1)
    expect(endpoint.requests).toHaveLength(2)
    expect(again.state).toBe(State.UP)
  })

  test('reselect whose caller has gone while it waited for its turn leaves the connection as it is', async () => {
    const { mesh, server, offer } = await startMesh()
    const endpoint = offer('nse-1')
    const client = mesh.client(server)
    const connection = await client.request(firstRequest({}, 'laptop'))
    const [begun, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    const ask = endpoint.request.bind(endpoint)
    endpoint.request = async (...asked) => {
      begun.resolve()
      await go.promise
      return ask(...asked)
    }
    const refresh = client.request(firstRequest(connection))
    await begun.promise
    const leaving = new AbortController()
    const reselect = client.request(firstRequest({ ...connection, state: State.RESELECT_REQUESTED }), leaving.signal)
    const unknown = { ...connection, id: 'x', path: startPath('laptop', 'x'), networkServiceEndpointName: '' }
    await client.close(unknown)
    leaving.abort()
    await expect(reselect).rejects.toThrow()
    await client.close(unknown)
    go.resolve()
    await refresh
    await client.request(firstRequest(connection))
    expect(endpoint.closed).toHaveLength(0)
  })

  test('reselect asks the endpoint that is left last', async () => {
    const { mesh, server, offer } = await startMesh()
    for (const name of ['nse-1', 'nse-2', 'nse-3']) offer(name)
    const client = mesh.client(server)
    let connection = await client.request(firstRequest({}, 'laptop'))
    for (let i = 0; i < 6; i++) {
      const left = connection.networkServiceEndpointName
      const wanted = { ...connection, state: State.RESELECT_REQUESTED, networkServiceEndpointName: '' }
      connection = await client.request(firstRequest(wanted))
      expect(connection.networkServiceEndpointName).not.toBe(left)
    }
  })

  test('reselect does not wait for an endpoint that does not hear of its close', async () => {
    const { mesh, server, offer } = await startMesh()
    const [one, two] = [offer('nse-1'), offer('nse-2')]
    const client = mesh.client(server)
    const connection = await client.request(firstRequest({}, 'laptop'))
    const [left, other] = connection.networkServiceEndpointName === 'nse-1' ? [one, two] : [two, one]
    left.hangOnClose = true
    const wanted = firstRequest({ ...connection, state: State.RESELECT_REQUESTED, networkServiceEndpointName: '' })
    await client.request(wanted)
    expect([left.requests.length, other.requests.length]).toEqual([1, 1])
  })

  test('hides the inner text of a defect', async () => {
    const { mesh, server, offer } = await startMesh()
    offer('nse-1').refuse = new NsmError('BUG', 'secret path /etc/shadow', '')
    await expect(mesh.client(server).request(firstRequest())).rejects.not.toThrow(/shadow/)
  })

  test('asks an endpoint elsewhere over TLS, with a chained path', async () => {
    const { mesh, server, register } = await startMesh()
    const source = mesh.source('/endpoint')
    const { svid } = source.current()
    const seen: Connection[] = []
    const remote = await mesh.serve(
      [
        unary(NetworkService.method.request, async (request, call) => {
          const entered = enterPath(request.connection ?? create(ConnectionSchema), {
            name: 'far',
            newId: () => 'far-1',
          })
          const caller = { token: call.peer.token ?? '', expiresMs: call.peer.tokenExpiresMs ?? 0 }
          const stamped = stampTokens(entered.connection, { caller, own: call.own.token(call.peer.spiffeId) })
          seen.push(stamped)
          return leavePath(trimPath(stamped), entered.callerIndex)
        }),
        unary(NetworkService.method.close, async () => ({})),
      ],
      source,
    )
    register('far', `tcp://127.0.0.1:${remote.port}`)
    const answer = await mesh.client(server).request(firstRequest({}, 'laptop'))
    expect(answer.path?.pathSegments.map(({ name }) => name)).toEqual(['laptop', 'manager-1', 'far'])
    expect(seen[0]?.path?.index).toBe(2)
    expect(svid.spiffeId).toBe('spiffe://test.internal/endpoint')
  })

  /** A manager elsewhere with one endpoint, where ours may relay. */
  const startFar = async ({ mesh, register, source }: Awaited<ReturnType<typeof startMesh>>) => {
    const far = await startMesh()
    far.offer('far')
    const farServer = await mesh.serve(
      createManager({
        name: 'far-manager',
        registry: far.registry,
        localEndpoint: () => farEndpoint,
        dial: (target) => openChannel({ target, source, clock: mesh.clock }),
        admission: openAdmission({ relays: ['spiffe://test.internal/manager'] }),
        clock: mesh.clock,
        log: silentLog,
      }).services,
      mesh.source('/far'),
    )
    const { svid } = mesh.source('/far').current()
    const farEndpoint = new FakeEndpoint('far', (audience) => {
      const expiresMs = Date.now() + 600_000
      return { token: signToken({ svid, audience: audience.replace('manager', 'far'), expiresMs }), expiresMs }
    })
    register('far', `tcp://127.0.0.1:${farServer.port}`)
    return farServer
  }

  test('reaches an endpoint elsewhere for more connections than one TCP connection may have calls', async () => {
    const near = await startMesh()
    await startFar(near)
    const client = near.mesh.client(near.server)
    const names = Array.from({ length: 130 }, (_, i) => `client-${i}`)
    for (const name of names) await client.request(firstRequest({}, name))
    expect((await client.request(firstRequest({}, 'client-0'))).path?.pathSegments).toHaveLength(4)
  })

  test('passes on what happens to a connection at an endpoint elsewhere', async () => {
    const near = await startMesh()
    const farServer = await startFar(near)
    const client = near.mesh.client(near.server)
    const connection = await client.request(firstRequest({}, 'laptop'))
    expect(connection.path?.pathSegments.map(({ name }) => name)).toEqual(['laptop', 'manager-1', 'far-manager', 'far'])
    const states: State[] = []
    for await (const event of client.monitor({ pathSegments: [{ name: 'laptop' }] })) {
      const [seen] = Object.values(event.connections)
      states.push(seen?.state ?? State.UP)
      expect(seen?.path?.index).toBe(1)
      if (states.length === 1) await farServer.stop()
      if (states.includes(State.DOWN)) break
    }
    expect(states.at(-1)).toBe(State.DOWN)
  })

  test('says UNREACHABLE when the url of an endpoint cannot be dialed', async () => {
    const { mesh, server, register } = await startMesh()
    register('far', 'unix:///var/run/docker.sock')
    await expect(mesh.client(server).request(firstRequest())).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})

async function settled(): Promise<void> {
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve))
}
