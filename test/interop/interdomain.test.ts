import { clone } from '@bufbuild/protobuf'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { createNameService } from '../../src/daemon/name-service.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import type { NsmClient } from '../../src/nsm/client.ts'
import { type Connection, ConnectionEventType, ConnectionSchema, State } from '../../src/nsm/generated/connection_pb.js'
import type { NameService } from '../../src/nsm/interdomain-lookup.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { type DomainPorts, openDomainDns } from '../support/domain-dns.ts'
import { freePort } from '../support/free-port.ts'
import { scratchDir } from '../support/scratch.ts'
import { type GoDomain, startGoDomain } from './go-domain.ts'
import { GoMesh } from './go-mesh.ts'
import { buildGoPeers, suiteName } from './go-peers.ts'
import { type Member, openMember } from './member.ts'
import { type OurServe, startOurServe } from './our-serve.ts'

const peers = await buildGoPeers()
const relays = ['nsmgr-proxy', 'forwarder', 'ours', 'theirs'].map((name) => `spiffe://peers.test/${name}`)
const hopsOf = ({ path }: Pick<Connection, 'path'>) => path?.pathSegments.map(({ name }) => name).slice(1)
const idsOf = ({ path }: Connection) => path?.pathSegments.map(({ id }) => id)
const gatewayOf = (answer: Connection) => answer.context?.ipContext?.dstIpAddrs[0]?.split('/')[0] ?? ''

/* Two domains of NSM's programs with their borders, and two of ours. All find each other by DNS, nothing else. */
describe.skipIf(!peers.path)(suiteName('services of another domain', peers), () => {
  let mesh: GoMesh
  let near: GoDomain
  let farManager: string
  let ours: OurServe
  let theirs: OurServe
  let names: NameService
  let member: Member

  beforeAll(async () => {
    mesh = await GoMesh.start(peers.path ?? '')
    const goPorts = async (): Promise<DomainPorts> => ({ registry: await freePort(), manager: await freePort() })
    const [nearPorts, farPorts, ourPort, theirPort] = [
      await goPorts(),
      await goPorts(),
      await freePort(),
      await freePort(),
    ]
    const dns = await openDomainDns({
      ...{ 'far.test': farPorts, 'near.test': nearPorts },
      'ours.test': { registry: ourPort, manager: ourPort },
      'theirs.test': { registry: theirPort, manager: theirPort },
    })
    mesh.onClose(() => dns.close())
    names = createNameService(async () => [dns.target])
    near = await startGoDomain(mesh, { name: 'near', dns: dns.target.port, ports: nearPorts })
    const far = await startGoDomain(mesh, { name: 'far', dns: dns.target.port, ports: farPorts })
    farManager = far.manager.url
    await mesh.serve('icmp', { register: farManager, 'wireguard-port': await freePort() })
    for (const name of ['two-1', 'two-2']) await mesh.serve('icmp', { register: farManager, service: 'two', name })
    ours = await startOurServe(mesh, relays, { name: 'ours', names, port: ourPort })
    theirs = await startOurServe(mesh, relays, { name: 'theirs', names, port: theirPort })
  })
  afterAll(() => mesh?.close())
  beforeEach(async () => {
    member = await openMember()
  })
  afterEach(() => member.close())

  const ask = (networkService: string) => ({
    ...firstRequest({ networkService }),
    mechanismPreferences: [member.preference],
  })
  const ping = async (answer: Connection) => {
    member.use(answer)
    expect(await member.ping(gatewayOf(answer))).toBe(gatewayOf(answer))
  }
  /** Pings, and refreshes: addresses and ids stay. */
  const useAndRefresh = async (client: NsmClient, request: ReturnType<typeof ask>, answer: Connection) => {
    await ping(answer)
    const again = await client.request({ ...request, connection: answer })
    expect(again.context?.ipContext).toEqual(answer.context?.ipContext)
    expect(idsOf(again)).toEqual(idsOf(answer))
    return again
  }
  const open = async (credentials: Parameters<Sessions['open']>[0]) => {
    const dir = await scratchDir()
    const settings = { stateDir: dir, runtimeDir: dir, logLevel: 'info' as const, resolvConf: '/nowhere' }
    const sessions = new Sessions({ settings, clock: systemClock, log: silentLog, names })
    mesh.onClose(() => sessions.close())
    return sessions.open({ workloadSocket: mesh.socketOf('laptop'), ...credentials }, new AbortController().signal)
  }

  test('are reached through our manager, both borders and their manager, and carry packets', async () => {
    const client = await mesh.client(near.manager)
    const request = ask('icmp@far.test')
    const answer = await client.request(request)
    expect(hopsOf(answer)).toEqual([
      ...['nsmgr-near', 'forwarder-near', 'nsmgr-proxy-near'],
      ...['nsmgr-proxy-far', 'nsmgr-far', 'forwarder-far', 'icmp-1'],
    ])
    expect(answer).toMatchObject({ networkService: 'icmp@far.test', networkServiceEndpointName: 'icmp-1@far.test' })
    await client.close(await useAndRefresh(client, request, answer))
  })

  test('are reached from a machine without a manager, which finds the border by DNS', async () => {
    const { client, registry, url } = await open({ domain: 'far.test' })
    expect((await registry.findEndpoints({ networkServiceNames: ['icmp'] })).map(({ name }) => name)).toEqual([
      'icmp-1',
    ])
    const request = ask('icmp@far.test')
    const answer = await client.request(request)
    expect(hopsOf(answer)).toEqual(['nsmgr-proxy-far', 'nsmgr-far', 'forwarder-far', 'icmp-1'])
    expect(answer).toMatchObject({ networkService: 'icmp@far.test', networkServiceEndpointName: 'icmp-1@far.test' })
    expect(answer.mechanism?.parameters).toMatchObject({ src_ip: '127.0.0.1', dst_ip: '127.0.0.1' })
    expect(answer.mechanism?.parameters).not.toHaveProperty('orig_src_ip')
    const again = await useAndRefresh(client, request, answer)
    const [segment] = again.path?.pathSegments ?? []
    const stop = new AbortController()
    for await (const event of client.monitor({ pathSegments: [{ id: segment?.id ?? '' }] }, stop.signal)) {
      const [seen] = Object.values(event.connections)
      expect(seen?.networkService).toBe('icmp@far.test')
      if (event.type === ConnectionEventType.DELETE) break
      await client.close(again)
    }
    expect(url).toMatch(/^tcp:\/\/127\.0\.0\.1:/)
  })

  test('have another endpoint when the first one is given up', async () => {
    const { client } = await open({ domain: 'far.test' })
    const request = ask('two@far.test')
    const first = await client.request(request)
    const lost = clone(ConnectionSchema, first)
    delete lost.mechanism
    lost.networkServiceEndpointName = ''
    lost.state = State.RESELECT_REQUESTED
    const second = await client.request({ ...request, connection: lost })
    expect([first, second].map((answer) => answer.networkServiceEndpointName).toSorted()).toEqual([
      'two-1@far.test',
      'two-2@far.test',
    ])
    expect(second.id).toBe(first.id)
    await client.close(second)
  })

  test('are unknown by a domain that DNS does not know, and by a service that the domain does not have', async () => {
    await expect(open({ domain: 'nowhere.test' })).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('"nowhere.test"'),
    })
    const { client } = await open({ domain: 'far.test' })
    await expect(client.request(ask('absent@far.test'))).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: 'network service absent@far.test is not found',
    })
  })

  test('of NSM are reached through our server', async () => {
    const client = await mesh.client(ours)
    const request = ask('icmp@far.test')
    const answer = await client.request(request)
    expect(hopsOf(answer)).toEqual(['our-manager', 'nsmgr-proxy-far', 'nsmgr-far', 'forwarder-far', 'icmp-1'])
    expect(answer).toMatchObject({ networkService: 'icmp@far.test', networkServiceEndpointName: 'icmp-1@far.test' })
    await client.close(await useAndRefresh(client, request, answer))
  })

  test('tell a client of ours over all borders that their endpoint is dead', async () => {
    const endpoint = await mesh.serve('icmp', { register: farManager, service: 'brief', name: 'brief-1' })
    const client = await mesh.client(ours)
    const answer = await client.request(ask('brief@far.test'))
    const stop = new AbortController()
    for await (const event of client.monitor({ pathSegments: [{ id: answer.id }] }, stop.signal)) {
      const [seen] = Object.values(event.connections)
      if (event.type === ConnectionEventType.INITIAL_STATE_TRANSFER) void endpoint.stop()
      else if (seen?.state === State.DOWN) break
      expect(seen).toMatchObject({ networkService: 'brief@far.test', networkServiceEndpointName: 'brief-1@far.test' })
    }
    await client.close(answer)
  })

  test('that we serve are reached by a client of NSM, with our names through its tunnel', async () => {
    const port = await freePort()
    const flags = { to: near.manager.url, service: 'ours@ours.test', name: 'abroad', ask: 'abroad.ours.internal' }
    const client = await mesh.connect({ ...flags, 'wireguard-port': port })
    const connection = JSON.parse(client.lines[0] ?? '{}')
    expect(connection).toMatchObject({
      network_service: 'ours@ours.test',
      network_service_endpoint_name: 'ours-1@ours.test',
    })
    const [address] = connection.context.ip_context.src_ip_addrs
    expect(client.lines.slice(1)).toEqual(['ping 10.64.0.0', `dns NOERROR ${address.split('/')[0]}`])
    expect(ours.vl3.members()).toMatchObject([{ spiffeId: 'spiffe://peers.test/nsmgr-proxy', label: 'abroad' }])
    expect(await client.stop()).toBe(0)
    await expect.poll(() => ours.vl3.members()).toEqual([])
  })

  test('that we serve are reached through another server of ours', async () => {
    const client = await mesh.client(theirs)
    const answer = await client.request(ask('ours@ours.test'))
    expect(hopsOf(answer)).toEqual(['their-manager', 'our-manager', 'ours-1'])
    expect(answer).toMatchObject({ networkService: 'ours@ours.test', networkServiceEndpointName: 'ours-1@ours.test' })
    member.use(answer)
    expect(await member.ping('10.64.0.0')).toBe('10.64.0.0')
    await client.close(answer)
    await expect.poll(() => ours.vl3.members()).toEqual([])
  })

  test('are our own when the domain is ours', async () => {
    const client = await mesh.client(ours)
    const answer = await client.request(ask('ours@OURS.test'))
    expect(hopsOf(answer)).toEqual(['our-manager', 'ours-1'])
    expect(answer).toMatchObject({ networkService: 'ours@OURS.test', networkServiceEndpointName: 'ours-1@OURS.test' })
    await client.close(await client.request({ ...ask('ours@OURS.test'), connection: answer }))
    expect(ours.vl3.members()).toEqual([])
  })

  test('are found in our registry by a manager of NSM, which asks us for them', async () => {
    const manager = await mesh.serve('nsmgr', { name: 'nsmgr-guest', registry: ours.url })
    await mesh.serve('forwarder', { name: 'forwarder-guest', manager: manager.url })
    const client = await mesh.client(manager)
    const answer = await client.request(ask('icmp@far.test'))
    expect(hopsOf(answer)).toEqual([
      ...['nsmgr-guest', 'forwarder-guest', 'our-manager'],
      ...['nsmgr-proxy-far', 'nsmgr-far', 'forwarder-far', 'icmp-1'],
    ])
    await ping(answer)
    await client.close(answer)
  })
})
