import { create } from '@bufbuild/protobuf'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { registerVl3 } from '../../src/endpoint/registration.ts'
import { NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import { createRegistryClient } from '../../src/registry/client.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { freePort } from '../support/free-port.ts'
import { GoMesh } from './go-mesh.ts'
import { buildGoPeers, suiteName } from './go-peers.ts'
import { openMember } from './member.ts'
import { type OurServe, startOurServe } from './our-serve.ts'

const peers = await buildGoPeers()
const relays = ['nsmgr', 'forwarder'].map((name) => `spiffe://peers.test/${name}`)

/** The connection that a Go client prints. */
const connectionOf = (lines: readonly string[]) => JSON.parse(lines[0] ?? '{}')
const hopsOf = (connection: { path?: { path_segments?: { name: string }[] } }) =>
  connection.path?.path_segments?.map(({ name }) => name)

/* NSM's own programs against our registry, manager and vL3 endpoint. Their clients run NSM's client policies. */
describe.skipIf(!peers.path)(suiteName('NSM programs with our servers', peers), () => {
  let mesh: GoMesh
  let ours: OurServe
  let theirManager: string

  beforeAll(async () => {
    mesh = await GoMesh.start(peers.path ?? '')
    ours = await startOurServe(mesh, relays)
    const manager = await mesh.serve('nsmgr', { registry: ours.url })
    theirManager = manager.url
    await mesh.serve('forwarder', { manager: manager.url })
    await mesh.serve('icmp', { register: ours.url, 'wireguard-port': await freePort() })
    await mesh.serve('vl3', { register: manager.url, 'wireguard-port': await freePort() })
  })
  afterAll(() => mesh?.close())

  const endpointNamed = (name: string) => ours.registry.findEndpoints(create(NetworkServiceEndpointSchema, { name }))[0]

  test('an endpoint registers with our registry under its own url, one behind a manager under that manager', () => {
    expect(endpointNamed('icmp-1')).toMatchObject({
      pathIds: ['spiffe://peers.test/icmp', 'spiffe://peers.test/ours'],
      networkServiceNames: ['icmp'],
    })
    expect(endpointNamed('vl3-1')).toMatchObject({
      url: theirManager,
      pathIds: ['spiffe://peers.test/vl3', 'spiffe://peers.test/nsmgr', 'spiffe://peers.test/ours'],
    })
  })

  test('a client finds what our registry holds', async () => {
    const found = await mesh.run('find', { registry: ours.url, service: 'ours' })
    expect(found.map((line) => JSON.parse(line))).toMatchObject([{ name: 'ours-1', url: ours.url }])
  })

  test('a client connects to our endpoint, pings the gateway, looks itself up and leaves', async () => {
    const port = await freePort()
    const flags = { to: ours.url, service: 'ours', name: 'direct-client', ask: 'direct-client.ours.internal' }
    const client = await mesh.connect({ ...flags, 'wireguard-port': port })
    const connection = connectionOf(client.lines)
    expect(hopsOf(connection)).toEqual(['direct-client', 'our-manager', 'ours-1'])
    const [address] = connection.context.ip_context.src_ip_addrs
    expect(client.lines.slice(1)).toEqual(['ping 10.64.0.0', `dns NOERROR ${address.split('/')[0]}`])
    expect(ours.vl3.members()).toMatchObject([{ spiffeId: 'spiffe://peers.test/client', label: 'direct-client' }])
    expect(await client.stop()).toBe(0)
    expect(ours.vl3.members()).toEqual([])
  })

  test('a client whose token is short refreshes by itself and keeps its addresses', async () => {
    const flags = { to: ours.url, service: 'ours', name: 'brief', 'token-lifetime': '4s', 'call-timeout': '2s' }
    const client = await mesh.connect(flags)
    const [first] = ours.vl3.members()
    const endMs = () => ours.vl3.members()[0]?.expiresMs ?? 0
    await expect.poll(endMs).toBeGreaterThan((first?.expiresMs ?? 0) + 3_000)
    expect(ours.vl3.members()).toMatchObject([{ segmentId: first?.segmentId, addresses: first?.addresses }])
    expect(first?.addresses).toEqual(connectionOf(client.lines).context.ip_context.src_ip_addrs)
    expect(await client.stop()).toBe(0)
  })

  test('a client goes through its own manager and forwarder, which we let pass on requests', async () => {
    const port = await freePort()
    const flags = { to: theirManager, service: 'ours', name: 'far-client', ask: 'far-client.ours.internal' }
    const client = await mesh.connect({ ...flags, 'wireguard-port': port })
    const connection = connectionOf(client.lines)
    expect(hopsOf(connection)).toEqual(['far-client', 'nsmgr-1', 'forwarder-1', 'our-manager', 'ours-1'])
    const [address] = connection.context.ip_context.src_ip_addrs
    expect(client.lines.slice(1)).toEqual(['ping 10.64.0.0', `dns NOERROR ${address.split('/')[0]}`])
    expect(ours.vl3.members()).toMatchObject([{ spiffeId: 'spiffe://peers.test/forwarder' }])
    expect(await client.stop()).toBe(0)
    await expect.poll(() => ours.vl3.members()).toEqual([])
  })

  test('a forwarder that we do not let pass on requests is refused, and the client is told why', async () => {
    const strict = await GoMesh.start(peers.path ?? '')
    mesh.onClose(() => strict.close())
    const server = await startOurServe(strict)
    const manager = await strict.serve('nsmgr', { registry: server.url })
    await strict.serve('forwarder', { manager: manager.url })
    await expect(strict.connect({ to: manager.url, service: 'ours' })).rejects.toThrow(
      'no sufficient privileges: relay',
    )
    expect(server.vl3.members()).toEqual([])
  })

  test('our manager hands a request to an endpoint of NSM, and the tunnel carries packets', async () => {
    const client = await mesh.client(ours)
    const member = await openMember()
    const request = { ...firstRequest({ networkService: 'icmp' }), mechanismPreferences: [member.preference] }
    const first = await client.request(request)
    expect(first.path?.pathSegments.map(({ name }) => name).slice(1)).toEqual(['our-manager', 'icmp-1'])
    member.use(first)
    const [gateway = ''] = (first.context?.ipContext?.dstIpAddrs ?? []).map((prefix) => prefix.split('/')[0] ?? '')
    expect(await member.ping(gateway)).toBe(gateway)
    const again = await client.request({ ...request, connection: first })
    expect(again.context?.ipContext).toEqual(first.context?.ipContext)
    await client.close(again)
    member.close()
  })

  test('an endpoint that ends takes its registration back', async () => {
    const other = await GoMesh.start(peers.path ?? '')
    mesh.onClose(() => other.close())
    const server = await startOurServe(other)
    const endpoint = await other.serve('icmp', { register: server.url })
    const watch = new AbortController()
    const query = create(NetworkServiceEndpointSchema, { name: 'icmp-1' })
    const seen: boolean[] = []
    for await (const { deleted } of server.registry.watchEndpoints(query, watch.signal)) {
      seen.push(deleted)
      if (deleted) break
      void endpoint.stop()
    }
    expect(seen).toEqual([false, true])
  })
})

/* The registry and manager of NSM with our endpoint, which keeps itself registered. */
describe.skipIf(!peers.path)(suiteName('our endpoint in a mesh of NSM programs', peers), () => {
  let mesh: GoMesh
  beforeAll(async () => {
    mesh = await GoMesh.start(peers.path ?? '')
  })
  afterAll(() => mesh?.close())

  test('registers with their registry, is found by their manager, serves their client and leaves', async () => {
    const registry = await mesh.serve('registry')
    const manager = await mesh.serve('nsmgr', { registry: registry.url })
    await mesh.serve('forwarder', { manager: manager.url })
    const ours = await startOurServe(mesh, relays)
    const client = createRegistryClient(await mesh.channel(registry, 'ours'))
    const parts = { client, service: 'ours', endpointName: 'ours-1', clock: systemClock, log: silentLog }
    const registration = await registerVl3({ ...parts, url: ours.url })
    const theirs = await mesh.connect({ to: manager.url, service: 'ours', name: 'their-client' })
    expect(hopsOf(connectionOf(theirs.lines))).toEqual([
      'their-client',
      'nsmgr-1',
      'forwarder-1',
      'our-manager',
      'ours-1',
    ])
    expect(await theirs.stop()).toBe(0)
    await registration.stop()
    expect(await client.findEndpoints({ name: 'ours-1' })).toEqual([])
  })

  test('comes back when their registry has forgotten it', async () => {
    const registry = await mesh.serve('registry')
    const client = createRegistryClient(await mesh.channel(registry, 'ours'))
    const parts = { client, service: 'ours', endpointName: 'ours-2', clock: systemClock, log: silentLog }
    const registration = await registerVl3({ ...parts, url: 'tcp://127.0.0.1:9' })
    expect(await client.findEndpoints({ name: 'ours-2' })).toHaveLength(1)
    await registry.stop()
    await mesh.serve('registry', {}, registry)
    await expect.poll(() => client.findEndpoints({ name: 'ours-2' })).toHaveLength(1)
    await registration.stop()
  })
})
