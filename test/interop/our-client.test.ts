import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ConnectionEventType, State } from '../../src/nsm/generated/connection_pb.js'
import { refreshDelayMs } from '../../src/nsm/path.ts'
import { createRegistryClient } from '../../src/registry/client.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { freePort } from '../support/free-port.ts'
import { GoMesh, type GoServer } from './go-mesh.ts'
import { buildGoPeers, suiteName } from './go-peers.ts'
import { type Member, openMember } from './member.ts'

const peers = await buildGoPeers()

/* Our client against NSM's own registry, manager, forwarder and endpoints. */
describe.skipIf(!peers.path)(suiteName('our client in a mesh of NSM programs', peers), () => {
  let mesh: GoMesh
  let registry: GoServer
  let manager: GoServer
  let direct: GoServer

  beforeAll(async () => {
    mesh = await GoMesh.start(peers.path ?? '')
    registry = await mesh.serve('registry')
    manager = await mesh.serve('nsmgr', { registry: registry.url })
    await mesh.serve('forwarder', { manager: manager.url })
    const register = manager.url
    const ports = await Promise.all([freePort(), freePort(), freePort()])
    const [icmp, vl3, vl3Direct] = ports.map((port) => ({ 'wireguard-port': port }))
    await mesh.serve('icmp', { register, ...icmp })
    await mesh.serve('icmp', { register, name: 'icmp-blue', labels: 'color=blue' })
    await mesh.serve('vl3', { register, ...vl3 })
    const own = { register: registry.url, service: 'direct', name: 'direct-1', 'self-connect': 'false', ...vl3Direct }
    direct = await mesh.serve('vl3', { ...own, prefixes: '10.78.0.0/24' })
  })
  afterAll(() => mesh?.close())

  const opened: Member[] = []
  afterAll(() => {
    for (const member of opened) member.close()
  })
  const memberOf = async () => {
    const member = await openMember()
    opened.push(member)
    return member
  }
  const ask = (member: Member, networkService: string, change: Parameters<typeof firstRequest>[0] = {}) => ({
    ...firstRequest({ networkService, ...change }),
    mechanismPreferences: [member.preference],
  })

  test('finds services and endpoints', async () => {
    const client = createRegistryClient(await mesh.channel(registry))
    expect((await client.findServices({})).map(({ name }) => name).sort()).toEqual([
      'direct',
      'forwarder',
      'icmp',
      'vl3',
    ])
    const [found] = await client.findEndpoints({ networkServiceNames: ['direct'] })
    expect(found).toMatchObject({ name: 'direct-1', url: direct.url })
    expect(found?.pathIds).toEqual(['spiffe://peers.test/vl3', 'spiffe://peers.test/registry'])
  })

  test('registers through the manager, refreshes and takes it back', async () => {
    const client = createRegistryClient(await mesh.channel(manager))
    const all = createRegistryClient(await mesh.channel(registry))
    await client.registerService({ name: 'fleeting' })
    const wanted = { name: 'fleeting-1', networkServiceNames: ['fleeting'], url: 'tcp://127.0.0.1:9' }
    const first = await client.registerEndpoint(wanted)
    const again = await client.registerEndpoint(first)
    expect(again.expirationTime?.seconds).toBeGreaterThan(0n)
    expect(again.pathIds.slice(0, 2)).toEqual(['spiffe://peers.test/laptop', 'spiffe://peers.test/nsmgr'])
    expect(await all.findEndpoints({ name: 'fleeting-1' })).toMatchObject([{ url: manager.url }])
    await client.unregisterEndpoint(again)
    expect(await all.findEndpoints({ name: 'fleeting-1' })).toEqual([])
  })

  test('requests, pings, refreshes and closes through manager and forwarder', async () => {
    const client = await mesh.client(manager)
    const member = await memberOf()
    const first = await client.request(ask(member, 'icmp', { networkServiceEndpointName: 'icmp-1' }))
    expect(first.path?.pathSegments.map(({ name }) => name).slice(1)).toEqual(['nsmgr-1', 'forwarder-1', 'icmp-1'])
    expect(first.path?.index).toBe(0)
    member.use(first)
    const [gateway = ''] = (first.context?.ipContext?.dstIpAddrs ?? []).map((prefix) => prefix.split('/')[0])
    expect(await member.ping(gateway ?? '')).toBe(gateway)
    expect(await member.echo(gateway ?? '', 'hello')).toBe('hello')
    expect(refreshDelayMs(first.path, Date.now()) / 1_000).toBeCloseTo(120, -1)
    const again = await client.request({ ...ask(member, 'icmp'), connection: first })
    expect(again.path?.pathSegments.map(({ id }) => id)).toEqual(first.path?.pathSegments.map(({ id }) => id))
    expect(again.context?.ipContext).toEqual(first.context?.ipContext)
    await client.close(again)
  })

  test('joins a vL3 and looks names up through the tunnel', async () => {
    const client = await mesh.client(manager)
    const [alice, bob] = [await memberOf(), await memberOf()]
    const answers = [
      await client.request(ask(alice, 'vl3', { labels: { podName: 'alice' } })),
      await client.request(ask(bob, 'vl3', { labels: { podName: 'bob' } })),
    ]
    const [aliceAt, bobAt] = answers.map((answer) => answer.context?.ipContext?.srcIpAddrs[0]?.split('/')[0] ?? '')
    alice.use(answers[0] ?? expect.fail())
    bob.use(answers[1] ?? expect.fail())
    const [config] = answers[0]?.context?.dnsContext?.configs ?? []
    const [server = ''] = config?.dnsServerIps ?? []
    expect(await alice.lookUp(server, 'bob.vl3')).toEqual([bobAt])
    expect(await bob.lookUp(server, 'alice.vl3')).toEqual([aliceAt])
    const routes = answers[0]?.context?.ipContext?.srcRoutes.map(({ prefix }) => prefix) ?? []
    expect([...routes].sort()).toEqual(['10.77.0.0/16', '10.77.0.0/24', '10.77.0.0/32'])
    for (const answer of answers) await client.close(answer)
  })

  test('joins a vL3 that it calls directly, with two hops on the path', async () => {
    const client = await mesh.client(direct)
    const member = await memberOf()
    const change = { networkServiceEndpointName: 'direct-1', labels: { podName: 'carol' } }
    const answer = await client.request(ask(member, 'direct', change))
    expect(answer.path?.pathSegments.map(({ name }) => name).slice(1)).toEqual(['direct-1'])
    member.use(answer)
    expect(await member.ping('10.78.0.0')).toBe('10.78.0.0')
    expect(await member.lookUp('10.78.0.0', 'carol.direct')).toEqual(['10.78.0.1'])
    await client.close(answer)
  })

  test('watches its connection: initial, one update for each request, a delete that still says up', async () => {
    const client = await mesh.client(manager)
    const member = await memberOf()
    const request = ask(member, 'vl3')
    const { id } = request.connection ?? expect.fail()
    const events: [ConnectionEventType, State | undefined][] = []
    const stop = new AbortController()
    let answer = await client.request(request)
    for await (const event of client.monitor({ pathSegments: [{ id }] }, stop.signal)) {
      const [seen] = Object.values(event.connections)
      events.push([event.type, seen?.state])
      expect([seen?.path?.index, seen?.path?.pathSegments[0]?.id]).toEqual([1, id])
      if (events.length === 1) answer = await client.request({ ...request, connection: answer })
      if (events.length === 2) await client.close(answer)
      if (event.type === ConnectionEventType.DELETE) break
    }
    expect(events).toEqual([
      [ConnectionEventType.INITIAL_STATE_TRANSFER, State.UP],
      [ConnectionEventType.UPDATE, State.UP],
      [ConnectionEventType.DELETE, State.UP],
    ])
  })

  test('gets the endpoint that its labels select', async () => {
    const client = createRegistryClient(await mesh.channel(registry, 'icmp'))
    const routes = [{ destinationSelector: { color: '{{.color}}' } }]
    await client.registerService({ name: 'icmp', payload: 'IP', matches: [{ sourceSelector: {}, routes }] })
    const nsm = await mesh.client(manager)
    const member = await memberOf()
    const answer = await nsm.request(ask(member, 'icmp', { labels: { color: 'blue' } }))
    expect(answer.networkServiceEndpointName).toBe('icmp-blue')
    await nsm.close(answer)
    await expect(nsm.request(ask(member, 'icmp', { labels: { color: 'green' } }))).rejects.toMatchObject({
      message: expect.stringContaining('candidates not found'),
    })
  })
})
