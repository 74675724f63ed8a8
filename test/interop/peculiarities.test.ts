import { create } from '@bufbuild/protobuf'
import { status } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Target } from '../../src/nsm/channel.ts'
import { MechanismSchema } from '../../src/nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../../src/nsm/generated/networkservice_pb.js'
import { parseWireGuard } from '../../src/nsm/wireguard-mechanism.ts'
import { createRegistryClient } from '../../src/registry/client.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { GoMesh, type GoServer } from './go-mesh.ts'
import { buildGoPeers, suiteName } from './go-peers.ts'
import { type Member, openMember } from './member.ts'
import { type OurServe, startOurServe } from './our-serve.ts'
import { expiresKey, openRawCaller, type RawCaller, tokenKey } from './raw-caller.ts'

const peers = await buildGoPeers()
const later = () => new Date(Date.now() + 600_000).toISOString()

/* What NSM's programs do that their definitions do not say, and what ours do in the same place. */
describe.skipIf(!peers.path)(suiteName('a peculiarity of NSM programs', peers), () => {
  let mesh: GoMesh
  let registry: GoServer
  let manager: GoServer
  let direct: Target
  let ours: OurServe
  let member: Member
  let toTheirs: RawCaller
  let toOurs: RawCaller

  beforeAll(async () => {
    mesh = await GoMesh.start(peers.path ?? '')
    registry = await mesh.serve('registry')
    manager = await mesh.serve('nsmgr', { registry: registry.url })
    await mesh.serve('forwarder', { manager: manager.url })
    await mesh.serve('icmp', { register: manager.url })
    await mesh.serve('vl3', { register: manager.url })
    const flags = { register: registry.url, service: 'direct', name: 'direct-1', 'self-connect': 'false' }
    direct = await mesh.serve('vl3', flags)
    ours = await startOurServe(mesh)
    member = await openMember()
    mesh.onClose(() => member.close())
    toTheirs = await openRawCaller(manager, await mesh.source('laptop'), 'spiffe://peers.test/nsmgr')
    toOurs = await openRawCaller(ours, await mesh.source('laptop'), 'spiffe://peers.test/ours')
    mesh.onClose(() => toTheirs.close())
    mesh.onClose(() => toOurs.close())
  })
  afterAll(() => mesh?.close())

  const ask = (service: string, change: Parameters<typeof firstRequest>[0] = {}, name?: string) => ({
    ...firstRequest({ networkService: service, ...change }, name),
    mechanismPreferences: [member.preference],
  })
  const changed = (service: string, change: (request: NetworkServiceRequest) => unknown) => {
    const request = ask(service)
    change(request)
    return request
  }
  const bearer = (token: string, expires = later()) => ({ [tokenKey]: token, [expiresKey]: expires })
  const both = async (request: (service: string) => NetworkServiceRequest, metadata: (caller: RawCaller) => object) => {
    const send = async (caller: RawCaller, service: string) => {
      const { code, text } = await caller.request(request(service), { ...metadata(caller) })
      return code === undefined ? 'accepted' : `${status[code]} ${text}`
    }
    return { theirs: await send(toTheirs, 'icmp'), ours: await send(toOurs, 'ours') }
  }

  test.each([
    [
      'a token without its end is no token',
      (caller: RawCaller) => ({ [tokenKey]: caller.token() }),
      'prev_token_signed',
    ],
    [
      'an audience that is a text is nobody',
      (caller: RawCaller) => bearer(caller.token({ claims: { aud: 'spiffe://peers.test/nsmgr' } })),
      'tokens_chained',
    ],
    [
      'an empty audience is nobody',
      (caller: RawCaller) => bearer(caller.token({ claims: { aud: [] } })),
      'tokens_chained',
    ],
    [
      'a token for another server is refused',
      (caller: RawCaller) => bearer(caller.token({ claims: { aud: ['spiffe://peers.test/registry'] } })),
      'tokens_chained',
    ],
    [
      'an expired token is refused',
      (caller: RawCaller) => bearer(caller.token({ claims: { exp: 1 } })),
      'tokens_expired',
    ],
    [
      'a signature in DER is none',
      (caller: RawCaller) => bearer(caller.token({ dsaEncoding: 'der' })),
      'prev_token_signed',
    ],
  ])('%s, there and here', async (_name, metadata, policy) => {
    const said = await both(ask, metadata)
    expect(said.theirs).toContain('PERMISSION_DENIED')
    expect(said.theirs).toContain('no sufficient privileges')
    expect(said.ours).toContain(`PERMISSION_DENIED no sufficient privileges: ${policy}`)
  })

  test('a made-up sub is accepted there, and refused here', async () => {
    const liar = (caller: RawCaller) => bearer(caller.token({ claims: { sub: 'spiffe://peers.test/admin' } }))
    expect(await both(ask, liar)).toEqual({
      theirs: 'accepted',
      ours: 'PERMISSION_DENIED no sufficient privileges: sub_is_peer',
    })
  })

  test('a token of another key is refused, there and here', async () => {
    const { svid } = (await mesh.source('stranger')).current()
    const forged = (caller: RawCaller) => bearer(caller.token({ svid: { ...svid, spiffeId: caller.svid.spiffeId } }))
    const said = await both(ask, forged)
    expect(said.theirs).toContain('no sufficient privileges')
    expect(said.ours).toContain('prev_token_signed')
  })

  test('an end in the past in the metadata alone is accepted; here the connection is over at once', async () => {
    const past = new Date(Date.now() - 5_000).toISOString()
    expect(await both(ask, (caller) => bearer(caller.token(), past))).toEqual({ theirs: 'accepted', ours: 'accepted' })
    await expect.poll(() => ours.vl3.members()).toEqual([])
  })

  test('an empty path is a matter of privileges, there and here', async () => {
    const pathless = (service: string) =>
      changed(service, ({ connection }) => {
        if (connection?.path) connection.path.pathSegments = []
      })
    const said = await both(pathless, (caller) => bearer(caller.token()))
    expect(said.theirs).toContain('PERMISSION_DENIED')
    expect(said.ours).toContain('PERMISSION_DENIED')
  })

  test('a path that disagrees with the connection id is refused in the same words', async () => {
    const crossed = (service: string) =>
      changed(service, ({ connection }) => {
        if (connection) connection.id = 'another'
      })
    const said = await both(crossed, (caller) => bearer(caller.token()))
    for (const text of Object.values(said)) expect(text).toMatch(/Current PathSegment\.Id.*should be equal/)
  })

  test('a connection without an id gets one, there and here', async () => {
    const nameless = (service: string) =>
      changed(service, ({ connection }) => {
        if (connection) connection.id = ''
        for (const segment of connection?.path?.pathSegments ?? []) segment.id = ''
      })
    for (const [caller, service] of [
      [toTheirs, 'icmp'],
      [toOurs, 'ours'],
    ] as const) {
      const { answer } = await caller.request(nameless(service), bearer(caller.token()))
      expect(answer?.path?.pathSegments.map(({ id }) => id !== '')).toEqual([
        false,
        ...Array(service === 'ours' ? 2 : 3).fill(true),
      ])
    }
  })

  test('a client with the name of the endpoint behind the manager is let through, there and here: each hop knows its place', async () => {
    const namesake = (service: string) => ask(service, {}, `${service}-1`)
    expect(await both(namesake, (caller) => bearer(caller.token()))).toEqual({ theirs: 'accepted', ours: 'accepted' })
  })

  test('a client with the name of the manager is refused, there and here', async () => {
    const namesake = (service: string) => ask(service, {}, service === 'icmp' ? 'nsmgr-1' : 'our-manager')
    const said = await both(namesake, (caller) => bearer(caller.token()))
    expect(said.theirs).toContain('PERMISSION_DENIED')
    expect(said.ours).toContain('PERMISSION_DENIED')
  })

  test('a request without a context would end a vL3 endpoint there: our client sends one, our endpoint needs none', async () => {
    const bare = (service: string) =>
      changed(service, ({ connection }) => {
        if (connection) delete connection.context
      })
    expect((await toOurs.request(bare('ours'), bearer(toOurs.token()))).code).toBeUndefined()
    const client = await mesh.client(direct)
    const request = bare('direct')
    if (request.connection) request.connection.networkServiceEndpointName = 'direct-1'
    const answer = await client.request(request)
    expect(answer.context?.ipContext?.srcIpAddrs).toHaveLength(1)
    await client.close(answer)
  })

  test('an endpoint called without a payload says WIREGUARD and gives nothing of its side', async () => {
    const client = await mesh.client(direct)
    const answer = await client.request(ask('direct', { networkServiceEndpointName: 'direct-1', payload: '' }))
    const mechanism = answer.mechanism ?? create(MechanismSchema)
    expect(mechanism.type).toBe('WIREGUARD')
    const { dstIp, dstPort, dstPublicKey } = parseWireGuard(mechanism)
    expect([dstIp, dstPort, dstPublicKey]).toEqual([undefined, undefined, undefined])
    await client.close(answer)
  })

  test('in an answer the index is the caller’s, and routes come in no order to rely on', async () => {
    const client = await mesh.client(direct)
    const answer = await client.request(ask('direct', { networkServiceEndpointName: 'direct-1' }))
    expect(answer.path?.index).toBe(0)
    expect(answer.path?.pathSegments[0]?.id).toBe(answer.id)
    const routes = answer.context?.ipContext?.srcRoutes.map(({ prefix }) => prefix) ?? []
    expect(new Set(routes)).toEqual(new Set(['10.77.0.0/32', '10.77.0.0/24', '10.77.0.0/16']))
    await client.close(answer)
  })

  test('a vL3 has its first address for itself and its name server, the base for its gateway; the first client has the next', async () => {
    const client = await mesh.client(manager)
    const answer = await client.request(ask('vl3'))
    const { ipContext, dnsContext } = answer.context ?? {}
    expect([ipContext?.dstIpAddrs, ipContext?.srcIpAddrs]).toEqual([['10.77.0.0/32'], ['10.77.0.2/32']])
    expect(dnsContext?.configs[0]?.dnsServerIps).toEqual(['10.77.0.1'])
    await client.close(answer)
  })

  test('an endpoint that its namesake calls takes itself for the beginning: a vL3 cannot connect to itself without a manager', async () => {
    const self = await openRawCaller(direct, await mesh.source('laptop'), 'spiffe://peers.test/vl3')
    mesh.onClose(() => self.close())
    const request = ask('direct', { networkServiceEndpointName: 'direct-1' }, 'direct-1')
    const { code, text } = await self.request(request, bearer(self.token()))
    expect([code, text]).toEqual([status.PERMISSION_DENIED, expect.stringContaining('no sufficient privileges')])
  })

  test('a vL3 of ours has its name server without a connection to itself', async () => {
    const { answer } = await toOurs.request(ask('ours'), bearer(toOurs.token()))
    const { ipContext, dnsContext } = answer?.context ?? {}
    expect(dnsContext?.configs[0]?.dnsServerIps).toEqual(ipContext?.dstIpAddrs.map((prefix) => prefix.split('/')[0]))
  })

  test('a client without tracing sees no certificate and refuses every answer: it leaves nothing with us', async () => {
    const flags = { to: ours.url, service: 'ours', name: 'blind', trace: 'false', 'call-timeout': '3s' }
    await expect(mesh.connect(flags)).rejects.toThrow('no sufficient privileges')
    expect(ours.vl3.members().filter(({ label }) => label === 'blind')).toEqual([])
  })

  test.each([
    ['an unknown service', { networkService: 'nowhere' }, 'NOT_FOUND'],
    ['an unknown endpoint', { networkService: 'icmp', networkServiceEndpointName: 'nobody' }, 'NOT_FOUND'],
    ['another payload', { networkService: 'icmp', payload: 'ETHERNET' }, 'NOT_FOUND'],
  ])('most failures have code Unknown: %s is told from its text', async (_name, change, code) => {
    const { networkService, ...rest } = change
    const client = await mesh.client(manager)
    await expect(client.request(ask(networkService, rest))).rejects.toMatchObject({ code })
    const raw = await toTheirs.request(ask(networkService, rest), bearer(toTheirs.token()))
    expect(raw.code).toBe(status.UNKNOWN)
  })

  test('a mechanism that nobody has is REFUSED', async () => {
    const client = await mesh.client(manager)
    const vxlan = create(MechanismSchema, { cls: 'REMOTE', type: 'VXLAN', parameters: { src_ip: '127.0.0.1' } })
    const request = { ...ask('icmp'), mechanismPreferences: [vxlan] }
    await expect(client.request(request)).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('a name of another identity cannot be registered, there and here', async () => {
    for (const [target, name] of [
      [registry, 'direct-1'],
      [ours, 'ours-1'],
    ] as const) {
      const client = createRegistryClient(await mesh.channel(target, 'stranger'))
      const taken = client.registerEndpoint({ name, networkServiceNames: ['else'], url: 'tcp://127.0.0.1:9' })
      await expect(taken).rejects.toMatchObject({ code: 'REFUSED', message: expect.stringContaining('privileges') })
    }
  })

  test('a watch gives each refresh as an event, and a removal as the entry with deleted', async () => {
    for (const target of [registry, ours]) {
      const client = createRegistryClient(await mesh.channel(target))
      const wanted = { name: 'watched-1', networkServiceNames: ['watched'], url: 'tcp://127.0.0.1:9' }
      const seen: boolean[] = []
      await client.registerEndpoint(wanted)
      for await (const { deleted } of client.watchEndpoints({ name: 'watched-1' })) {
        seen.push(deleted)
        if (seen.length === 1) await client.registerEndpoint(wanted)
        if (seen.length === 2) await client.unregisterEndpoint(wanted)
        if (deleted) break
      }
      expect(seen).toEqual([false, false, true])
    }
  })
})
