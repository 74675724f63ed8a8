import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { afterAll, expect, test } from 'vitest'
import { ConnectionEventSchema, MonitorScopeSelectorSchema } from '../../src/nsm/generated/connection_pb.js'
import {
  NetworkServiceEndpointQuerySchema,
  NetworkServiceEndpointResponseSchema,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../../src/nsm/generated/registry_pb.js'
import { firstRequest, TestMesh } from '../nsm/mesh.ts'
import { openWireCaller, type WireCaller } from '../support/wire-caller.ts'
import { startManagerRig } from './manager-rig.ts'

/* NSM's managers and forwarders keep a stream of events open for each connection they pass on, and two watches of the
 * registry: a server must hold many of them, and still be there for everybody else. */

const callers = 6
const streamsEach = 90
const mesh = new TestMesh()
const ownId = 'spiffe://test.internal/manager'
afterAll(() => mesh.close())

test('hundreds of idle watches and monitors are held, each is told what it waits for, and calls are answered', async () => {
  const { registry, server } = await startManagerRig(mesh)
  const { svid } = mesh.issue('/forwarder')
  const opened = await Promise.all(Array.from({ length: callers }, () => openWireCaller(server, svid, ownId)))
  for (const caller of opened) mesh.onClose(() => caller.close())

  const monitors = opened.flatMap((caller, at) =>
    Array.from({ length: streamsEach / 2 }, (_, n) => monitor(caller, `connection-${at}-${n}`)),
  )
  const watches = opened.flatMap((caller) => Array.from({ length: streamsEach / 2 }, () => watch(caller)))
  for (const events of monitors) {
    const { value } = await events.next()
    expect(Object.keys(fromBinary(ConnectionEventSchema, value ?? new Uint8Array([255])).connections)).toEqual([])
  }
  const told = watches.map((changes) => changes.next())
  const endpoint = { name: 'late-1', networkServiceNames: ['late'], url: 'tcp://127.0.0.1:9' }
  await mesh.client(server, '/other').close(firstRequest().connection ?? expect.fail())
  registry.registerService(create(NetworkServiceSchema, { name: 'late' }), ownId)
  registry.registerEndpoint(create(NetworkServiceEndpointSchema, endpoint), ownId, mesh.clock.wallMs() + 60_000)
  for (const { value } of await Promise.all(told)) {
    const { networkServiceEndpoint } = fromBinary(NetworkServiceEndpointResponseSchema, value ?? new Uint8Array())
    expect(networkServiceEndpoint?.name).toBe('late-1')
  }
})

function monitor(caller: WireCaller, id: string) {
  const selector = create(MonitorScopeSelectorSchema, { pathSegments: [{ name: 'client', id }] })
  return caller.watch(
    '/connection.MonitorConnection/MonitorConnections',
    toBinary(MonitorScopeSelectorSchema, selector),
  )
}

function watch(caller: WireCaller) {
  const query = create(NetworkServiceEndpointQuerySchema, {
    networkServiceEndpoint: { networkServiceNames: ['late'] },
    watch: true,
  })
  return caller.watch(
    '/registry.NetworkServiceEndpointRegistry/Find',
    toBinary(NetworkServiceEndpointQuerySchema, query),
  )
}
