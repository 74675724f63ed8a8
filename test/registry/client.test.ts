import { create, toBinary } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { afterEach, describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import {
  NetworkServiceEndpointResponseSchema,
  NetworkServiceResponseSchema,
} from '../../src/nsm/generated/registry_pb.js'
import { createRegistryClient } from '../../src/registry/client.ts'
import { FakeClock, TestMesh } from '../nsm/mesh.ts'
import { frame } from '../support/grpc-frames.ts'
import { type ScriptedCall, startScriptedServer } from '../support/scripted-server.ts'

/* Our registry client against a registry that is not ours, and not well. */

const meshes: TestMesh[] = []
afterEach(async () => {
  for (const mesh of meshes.splice(0)) await mesh.close()
})

async function start(onCall: (call: ScriptedCall) => void) {
  const clock = new FakeClock()
  const mesh = new TestMesh('test.internal', clock)
  meshes.push(mesh)
  const server = await startScriptedServer(mesh.issue('/registry').svid, onCall)
  mesh.onClose(() => server.close())
  return { clock, server, client: createRegistryClient(mesh.channel(server)) }
}

const service = toBinary(
  NetworkServiceResponseSchema,
  create(NetworkServiceResponseSchema, { networkService: { name: 'a' } }),
)
const endpoint = (name: string, endMs: number | undefined, deleted = false) =>
  toBinary(
    NetworkServiceEndpointResponseSchema,
    create(NetworkServiceEndpointResponseSchema, {
      networkServiceEndpoint: { name, ...(endMs === undefined ? {} : { expirationTime: timestampFromMs(endMs) }) },
      deleted,
    }),
  )

describe('a search', () => {
  test.each<[string, (call: ScriptedCall) => void]>([
    ['accepts and never answers', () => {}],
    ['begins to answer and never ends', (call) => call.send(service)],
    ['sends half an answer and waits', (call) => call.sendBytes(frame(service).subarray(0, 7))],
  ])('of a registry that %s ends after 15 s', async (_what, act) => {
    const { client, clock, server } = await start(act)
    const searches = [client.findServices({}), client.findEndpoints({})].map((search) =>
      search.catch((error: unknown) => error),
    )
    await expect.poll(() => server.seen.length).toBe(2)
    clock.advance(15_000)
    for (const failure of await Promise.all(searches)) {
      expect(failure).toMatchObject({ code: 'UNREACHABLE', message: 'the registry did not answer within 15 s' })
    }
  })

  test('ends with its caller before that', async () => {
    const { client, server } = await start(() => {})
    const stop = new AbortController()
    const searching = client.findServices({}, stop.signal).catch((error: unknown) => error)
    await expect.poll(() => server.seen.length).toBe(1)
    stop.abort(new NsmError('LOST', 'enough', 'nothing'))
    expect(await searching).toMatchObject({ message: 'enough' })
  })

  test.each<[string, (call: ScriptedCall) => void, string]>([
    [
      'goes away in the middle of an answer',
      (call) => {
        call.sendBytes(frame(service).subarray(0, 7))
        call.disconnect()
      },
      'UNREACHABLE',
    ],
    ['answers what is no message', (call) => call.send(Buffer.alloc(16, 0xff)), 'UNREACHABLE'],
    ['refuses', (call) => call.end(7, 'no sufficient privileges'), 'REFUSED'],
  ])('of a registry that %s fails at once', async (_what, act, code) => {
    const { client } = await start(act)
    await expect(client.findServices({})).rejects.toMatchObject({ code })
  })

  test('leaves out what is over and what is deleted, and keeps what has no end', async () => {
    const now = Date.now()
    const { client } = await start((call) => {
      call.send(endpoint('over', now - 60_000))
      call.send(endpoint('gone', now + 60_000, true))
      call.send(endpoint('there', now + 60_000))
      call.send(endpoint('endless', undefined))
      call.end()
    })
    expect((await client.findEndpoints({})).map(({ name }) => name)).toEqual(['there', 'endless'])
  })
})

describe('a registration', () => {
  test('sends on the path that the registry answered, name by name, and begins anew after it was taken back', async () => {
    const paths: unknown[] = []
    const { client } = await start((call) => {
      paths.push(call.metadata['path'])
      call.send(new Uint8Array(), { path: `{"Index":0,"PathSegments":[{"token":"t${paths.length}"}]}` })
      call.end()
    })
    const first = '{"Index":0,"PathSegments":[]}'
    await client.registerEndpoint({ name: 'a' })
    await client.registerEndpoint({ name: 'b' })
    await client.registerEndpoint({ name: 'a' })
    await client.unregisterEndpoint({ name: 'a' })
    await client.registerEndpoint({ name: 'a' })
    expect(paths).toEqual([
      first,
      first,
      '{"Index":0,"PathSegments":[{"token":"t1"}]}',
      '{"Index":0,"PathSegments":[{"token":"t3"}]}',
      first,
    ])
  })
})
