import { create, toBinary } from '@bufbuild/protobuf'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { signToken } from '../../src/identity/token.ts'
import {
  ConnectionSchema,
  MonitorScopeSelectorSchema,
  PathSegmentSchema,
} from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import {
  NetworkServiceEndpointQuerySchema,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../../src/nsm/generated/registry_pb.js'
import type { Registry } from '../../src/registry/registry.ts'
import { firstRequest, TestMesh } from '../nsm/mesh.ts'
import { frame } from '../support/grpc-frames.ts'
import { bearer, openWireCaller, type Sent, type WireCaller } from '../support/wire-caller.ts'
import { startManagerRig } from './manager-rig.ts'

/* Callers with a real certificate whose hop token is not right, or whose calls break off, at every method that changes
 * something. What they were refused may not have happened. */

const mesh = new TestMesh()
const { svid } = mesh.issue('/client')
const sameName = mesh.issue('/client').svid
const idOf = (path: string) => `spiffe://test.internal${path}`
const target = { address: '127.0.0.1', port: 0 }
const permissionDenied = 7
const failedPrecondition = 9
const monitorPath = '/connection.MonitorConnection/MonitorConnections'
let registry: Registry
let caller: WireCaller

beforeAll(async () => {
  const { registry: opened, server } = await startManagerRig(mesh)
  registry = opened
  registry.registerService(create(NetworkServiceSchema, { name: 'kept', payload: 'IP' }), idOf('/client'))
  const kept = { name: 'kept-1', networkServiceNames: ['kept'], url: 'tcp://127.0.0.1:9' }
  const endMs = mesh.clock.wallMs() + 86_400_000
  registry.registerEndpoint(create(NetworkServiceEndpointSchema, kept), idOf('/client'), endMs)
  Object.assign(target, { port: server.port })
  caller = await open()
})
afterAll(() => mesh.close())

async function open(): Promise<WireCaller> {
  const opened = await openWireCaller(target, svid, idOf('/manager'))
  mesh.onClose(() => opened.close())
  return opened
}

const names = () => ({
  services: registry.findServices(create(NetworkServiceSchema)).map(({ name }) => name),
  endpoints: registry.findEndpoints(create(NetworkServiceEndpointSchema)).map(({ name }) => name),
})
const endpointOf = (name: string) =>
  toBinary(
    NetworkServiceEndpointSchema,
    create(NetworkServiceEndpointSchema, { name, networkServiceNames: ['kept'], url: 'tcp://127.0.0.1:9' }),
  )
const serviceOf = (name: string) => toBinary(NetworkServiceSchema, create(NetworkServiceSchema, { name }))
const request = () => firstRequest({ networkService: 'nowhere' }, 'client-1')
const requestWire = () => toBinary(NetworkServiceRequestSchema, request())
const connectionWire = () => toBinary(ConnectionSchema, request().connection ?? create(ConnectionSchema))

const endpoints = '/registry.NetworkServiceEndpointRegistry'
const services = '/registry.NetworkServiceRegistry'
const methods: readonly (readonly [string, () => Uint8Array])[] = [
  ['/networkservice.NetworkService/Request', requestWire],
  ['/networkservice.NetworkService/Close', connectionWire],
  [`${services}/Register`, () => serviceOf('new')],
  [`${services}/Unregister`, () => serviceOf('kept')],
  [`${endpoints}/Register`, () => endpointOf('new-1')],
  [`${endpoints}/Unregister`, () => endpointOf('kept-1')],
]

const nothing: Sent = { 'nsm-client-token': undefined, 'nsm-client-token-expires': undefined }
const tokens: readonly (readonly [string, () => Sent, RegExp])[] = [
  ['no token', () => nothing, /prev_token_signed|tokens_valid/],
  ['an expired token', () => bearer(svid, idOf('/manager'), Date.now() - 5_000), /tokens_expired/],
  ['a token for another audience', () => bearer(svid, idOf('/other')), /tokens_chained/],
  ['a token of another key with the same name', () => bearer(sameName, idOf('/manager')), /prev_token_signed/],
  [
    'a token in the name of another',
    () => bearer({ ...svid, spiffeId: idOf('/admin') }, idOf('/manager')),
    /sub_is_peer/,
  ],
  ['a token that is none', () => ({ ...bearer(svid, idOf('/manager')), 'nsm-client-token': 'a.b.c' }), /tokens_valid/],
  [
    'an end that is none',
    () => ({ ...bearer(svid, idOf('/manager')), 'nsm-client-token-expires': 'soon' }),
    /prev_token_signed|tokens_valid/,
  ],
]
const emptyPath = { path: '{"Index":0,"PathSegments":null}' }

describe.each(methods)('%s', (method, wire) => {
  test.each(tokens)('is refused with %s', async (_what, metadata, policy) => {
    const before = names()
    const { code, message } = await caller.call(method, wire(), { ...emptyPath, ...metadata() })
    expect(code).toBe(permissionDenied)
    expect(message).toMatch(/^no sufficient privileges: /)
    expect(message).toMatch(policy)
    expect(names()).toEqual(before)
  })

  test('that breaks off in its message changes nothing, and the connection carries on', async () => {
    const before = names()
    const half = frame(wire()).subarray(0, 9)
    const stream = caller.begin(method, half)
    const ended = new Promise((resolve) => stream.once('close', resolve))
    stream.close(8)
    await ended
    expect((await caller.call(`${services}/Find`, new Uint8Array())).code).toBe(0)
    expect(names()).toEqual(before)
  })

  test('whose connection dies in its message changes nothing, and others are served', async () => {
    const before = names()
    const dying = await open()
    const stream = dying.begin(method, frame(wire()).subarray(0, 9))
    const ended = new Promise((resolve) => stream.once('close', resolve))
    dying.close()
    await ended
    expect((await caller.call(`${services}/Find`, new Uint8Array())).code).toBe(0)
    expect(names()).toEqual(before)
  })

  test('with bytes that are no message is refused, and the connection carries on', async () => {
    const before = names()
    expect((await caller.call(method, Buffer.alloc(32, 0xff), emptyPath)).code).not.toBe(0)
    expect((await caller.call(`${services}/Find`, new Uint8Array())).code).toBe(0)
    expect(names()).toEqual(before)
  })
})

describe('a request whose path begins with somebody else', () => {
  const prepended = (token: string) => {
    const wanted = request()
    const { path } = wanted.connection ?? {}
    path?.pathSegments.unshift(create(PathSegmentSchema, { name: 'victim', id: 'victim-0', token }))
    if (path) path.index = 1
    return toBinary(NetworkServiceRequestSchema, wanted)
  }
  const victim = mesh.issue('/victim').svid
  const own = (audience: string) => signToken({ svid: victim, audience, expiresMs: Date.now() + 600_000 })

  test.each([
    ['without a token of theirs', '', 'tokens_valid'],
    ['with a token of theirs for the server', own(idOf('/manager')), 'tokens_chained'],
    [
      'with a token of theirs for the caller, who is no relay',
      own(idOf('/client')),
      'relay: the path must start with the caller',
    ],
  ])('is refused %s', async (_what, token, policy) => {
    const { code, message } = await caller.call('/networkservice.NetworkService/Request', prepended(token))
    expect([code, message]).toEqual([permissionDenied, `no sufficient privileges: ${policy}`])
  })
})

describe('a watch of the registry', () => {
  test('that its reader drops in the middle of an answer leaves nothing behind', async () => {
    const query = create(NetworkServiceEndpointQuerySchema, { networkServiceEndpoint: { name: 'kept-1' }, watch: true })
    const watcher = await open()
    const seen = watcher.watch(`${endpoints}/Find`, toBinary(NetworkServiceEndpointQuerySchema, query))
    expect((await seen.next()).value?.length).toBeGreaterThan(0)
    watcher.close()
    expect((await caller.call(`${endpoints}/Register`, endpointOf('kept-1'), emptyPath)).code).toBe(0)
    expect(names().endpoints).toEqual(['kept-1'])
  })
})

describe('a question of more parts than honest ones have', () => {
  const many = Array.from({ length: 65 }, (_, i) => `s${i}`)
  const query = create(NetworkServiceEndpointQuerySchema, { networkServiceEndpoint: { networkServiceNames: many } })
  const selector = create(MonitorScopeSelectorSchema, { networkServices: many })

  test.each<[string, string, Uint8Array, string]>([
    ['to the registry', `${endpoints}/Find`, toBinary(NetworkServiceEndpointQuerySchema, query), 'service names'],
    ['to the manager', monitorPath, toBinary(MonitorScopeSelectorSchema, selector), 'network services'],
  ])('%s is refused, and says which', async (_what, path, wire, parts) => {
    expect(await caller.call(path, wire)).toMatchObject({
      code: failedPrecondition,
      message: `65 ${parts}, at most 64 are allowed`,
    })
  })
})
