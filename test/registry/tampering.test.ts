import { create } from '@bufbuild/protobuf'
import { ChannelCredentials, Client, Metadata, type ServiceError } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { createClientSecurity } from '../../src/identity/tls-client.ts'
import { signToken } from '../../src/identity/token.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import type { Connection } from '../../src/nsm/generated/connection_pb.js'
import { NetworkService, type NetworkServiceRequest } from '../../src/nsm/generated/networkservice_pb.js'
import { NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { fromCallEnd } from '../../src/nsm/grpc-errors.ts'
import { startPath } from '../../src/nsm/path.ts'
import { createManager } from '../../src/registry/manager.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { firstRequest, TestMesh } from '../nsm/mesh.ts'
import { methodDefinition } from '../support/grpc-js-method.ts'

/* A caller with a real certificate that tampers with everything it may choose itself. The service has no endpoint, so a
 * request that passes the checks ends as NOT_FOUND. */

const mesh = new TestMesh()
const source = mesh.source('/client')
const { svid } = source.current()
const id = (path: string) => `spiffe://test.internal${path}`
const endMs = Date.now() + 600_000
const good = () => signToken({ svid, audience: id('/manager'), expiresMs: endMs })
let client: Client

beforeAll(async () => {
  const { clock } = mesh
  const registry = createRegistry({ store: openRegistryStore(':memory:'), clock, log: silentLog })
  registry.registerService(create(NetworkServiceSchema, { name: 'net' }), id('/manager'))
  const manager = createManager({
    name: 'manager-1',
    registry,
    localEndpoint: () => undefined,
    dial: (target) => openChannel({ target, source, clock }),
    clock,
    log: silentLog,
  })
  const server = await mesh.serve(manager.services)
  const security = createClientSecurity({ as: { source } })
  const credentials = ChannelCredentials.createFromSecureContext(security.secureContext, security.verifyOptions)
  client = new Client(`127.0.0.1:${server.port}`, credentials, { 'grpc.ssl_target_name_override': security.serverName })
})
afterAll(async () => {
  client.close()
  await mesh.close()
})

function send(metadata: readonly (readonly [string, string])[], request = firstRequest()): Promise<unknown> {
  const codec = methodDefinition(NetworkService.method.request)
  const sent = new Metadata()
  for (const [key, value] of metadata) sent.add(key, value)
  return new Promise((resolve) => {
    const options = { deadline: Date.now() + 5_000 }
    const done = (error: ServiceError | null, answer?: Connection) => resolve(error ? fromCallEnd(error) : answer)
    client.makeUnaryRequest(codec.path, codec.requestSerialize, codec.responseDeserialize, request, sent, options, done)
  })
}

const expires = ['nsm-client-token-expires', new Date(endMs).toISOString()] as const
const bearer = (token: string) => [['nsm-client-token', token] as const, expires]
const withPath = (change: (connection: Connection) => unknown): NetworkServiceRequest => {
  const request = firstRequest({}, 'client-1')
  if (request.connection) change(request.connection)
  return request
}

describe('the manager, called by a peer that tampers', () => {
  test('lets an honest call through to the search for an endpoint', async () => {
    expect(await send(bearer(good()))).toMatchObject({ code: 'NOT_FOUND' })
  })

  test.each([
    ['no metadata', [], 'prev_token_signed'],
    ['a token without its end', bearer(good()).slice(0, 1), 'prev_token_signed'],
    ['an end without a token', [expires], 'prev_token_signed'],
    ['two tokens', [...bearer(good()), ['nsm-client-token', good()] as const], 'prev_token_signed'],
    [
      'an end that is no time',
      [['nsm-client-token', good()] as const, ['nsm-client-token-expires', 'soon'] as const],
      'prev_token_signed',
    ],
    ['a token of 17 KiB', bearer('a'.repeat(17_000)), 'prev_token_signed'],
    ['garbage', bearer('x.y.z'), 'tokens_valid'],
    ['another audience', bearer(signToken({ svid, audience: id('/other'), expiresMs: endMs })), 'tokens_chained'],
    [
      'an expired token',
      bearer(signToken({ svid, audience: id('/manager'), expiresMs: Date.now() - 5_000 })),
      'tokens_expired',
    ],
    [
      'the token of another key',
      bearer(signToken({ svid: mesh.issue('/client').svid, audience: id('/manager'), expiresMs: endMs })),
      'prev_token_signed',
    ],
    [
      'a made-up sub',
      bearer(signToken({ svid: { ...svid, spiffeId: id('/admin') }, audience: id('/manager'), expiresMs: endMs })),
      'sub_is_peer',
    ],
  ])('refuses %s', async (_what, metadata, policy) => {
    expect(await send(metadata)).toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining(`no sufficient privileges: ${policy}`),
    })
  })

  test.each([
    ['no path', withPath((connection) => delete connection.path), 'prev_token_signed'],
    [
      'a path that begins with the server',
      withPath((c) => Object.assign(c, { path: startPath('manager-1', c.id) })),
      'prev_token_signed',
    ],
    ['a path of somebody else before it', withPath((c) => prepend(c)), 'no sufficient privileges'],
    ['another id than its segment has', withPath((c) => Object.assign(c, { id: 'other' })), 'should be equal'],
    ['an index behind the path', withPath((c) => Object.assign(c.path ?? {}, { index: 7 })), 'should be less or equal'],
    [
      '65 segments',
      withPath((c) => Object.assign(c.path ?? {}, { pathSegments: repeat(c.path?.pathSegments ?? []) })),
      '65 path segments',
    ],
  ])('refuses %s', async (_what, request, why) => {
    expect(await send(bearer(good()), request)).toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining(why),
    })
  })
})

function prepend(connection: Connection): void {
  const path = startPath('victim', 'victim-0')
  const [victim] = path.pathSegments
  if (!victim || !connection.path) return
  victim.token = good()
  connection.path.pathSegments = [victim, ...connection.path.pathSegments]
  connection.path.index = 1
}

function repeat<T>(list: readonly T[]): T[] {
  return Array.from({ length: 65 }, () => list[0]).filter((one) => one !== undefined)
}
