import { create } from '@bufbuild/protobuf'
import { afterEach, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { unary } from '../../src/nsm/grpc.ts'
import { enterPath, leavePath, stampTokens, trimPath } from '../../src/nsm/path.ts'
import { createRegistryClient } from '../../src/registry/client.ts'
import { createManager } from '../../src/registry/manager.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { firstRequest, TestMesh } from '../nsm/mesh.ts'

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

/** A manager with its registry, and an endpoint of an identity whose url `/nse` has registered. */
async function startNetwork(endpointPath: string) {
  const mesh = new TestMesh()
  open.push(() => mesh.close())
  const { clock } = mesh
  const source = mesh.source('/manager')
  const registry = createRegistry({ store: openRegistryStore(':memory:'), clock, log: silentLog })
  const manager = createManager({
    name: 'manager-1',
    registry,
    localEndpoint: () => undefined,
    dial: (target, expected) => openChannel({ target, source, clock, expect: expected }),
    clock,
    log: silentLog,
  })
  const server = await mesh.serve([...registryServices(registry, clock), ...manager.services], source)
  open.push(
    () => registry.close(),
    () => manager.close(),
  )
  const asked: string[] = []
  const endpoint = await mesh.serve(
    [
      unary(NetworkService.method.request, async (request, call) => {
        asked.push(request.connection?.networkService ?? '')
        const connection = request.connection ?? create(ConnectionSchema)
        const entered = enterPath(connection, { name: 'nse', newId: () => 'nse-1' })
        const caller = { token: call.peer.token ?? '', expiresMs: call.peer.tokenExpiresMs ?? 0 }
        const stamped = stampTokens(entered.connection, { caller, own: call.own.token(call.peer.spiffeId) })
        return leavePath(trimPath(stamped), entered.callerIndex)
      }),
      unary(NetworkService.method.close, async () => ({})),
    ],
    mesh.source(endpointPath),
  )
  const registrar = createRegistryClient(mesh.channel(server, mesh.source('/nse')))
  await registrar.registerService({ name: 'net' })
  const url = `tcp://127.0.0.1:${endpoint.port}`
  await registrar.registerEndpoint({ name: 'nse', url, networkServiceNames: ['net'] })
  return { client: mesh.client(server), asked }
}

test('a manager passes a request on to the server of the identity that registered the endpoint', async () => {
  const { client, asked } = await startNetwork('/nse')
  await client.request(firstRequest())
  expect(asked).toEqual(['net'])
})

test('a manager says nothing to another identity at the url of an endpoint', async () => {
  const { client, asked } = await startNetwork('/impostor')
  await expect(client.request(firstRequest())).rejects.toMatchObject({ code: 'IDENTITY' })
  expect(asked).toEqual([])
})
