import { join as joinPath } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import type { Vl3Settings } from '../../src/endpoint/vl3.ts'
import { signToken } from '../../src/identity/token.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { createManager } from '../../src/registry/manager.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { FakeClock, firstRequest, TestMesh } from '../nsm/mesh.ts'
import { admissionOf } from '../support/policy.ts'
import { scratchDir } from '../support/scratch.ts'
import { addressesOf, keyOf, openRig, wireGuardOffer } from './vl3-rig.ts'

const open: TestMesh[] = []

afterEach(async () => {
  for (const mesh of open.splice(0)) await mesh.close()
})

/** Client, TLS, manager and vL3 as `nsm serve` has them; only the hub is a fake one. */
async function startServe(wish: Partial<Vl3Settings> = {}) {
  const clock = new FakeClock()
  const mesh = new TestMesh('test.internal', clock)
  open.push(mesh)
  const source = mesh.source('/manager')
  const { svid } = source.current()
  const ownToken = (audience: string) => {
    const expiresMs = clock.wallMs() + 600_000
    return { token: signToken({ svid, audience, expiresMs }), expiresMs }
  }
  const path = joinPath(await scratchDir(), 'vl3.db')
  const rig = await openRig(path, { ownToken, ...wish, clock })
  const registry = createRegistry({ store: openRegistryStore(':memory:'), clock, log: silentLog })
  registry.registerService(create(NetworkServiceSchema, { name: 'blue', payload: 'IP' }), svid.spiffeId)
  const endpoint = { name: 'vl3-blue', url: 'inproc://', networkServiceNames: ['blue'] }
  registry.registerEndpoint(create(NetworkServiceEndpointSchema, endpoint), svid.spiffeId, clock.wallMs() + 86_400_000)
  const manager = createManager({
    name: 'manager-1',
    registry,
    localEndpoint: (name) => (name === 'vl3-blue' ? rig.vl3 : undefined),
    dial: (target, expect) => openChannel({ target, source, clock, expect }),
    clock,
    log: silentLog,
  })
  const server = await mesh.serve(manager.services, source)
  mesh.onClose(() => {
    manager.close()
    registry.close()
    return rig.vl3.stop()
  })
  const ask = (name: string, key = keyOf(name)) => ({
    ...firstRequest({ networkService: 'blue' }, name),
    mechanismPreferences: [wireGuardOffer(key)],
  })
  return { clock, mesh, rig, ask, client: (path: string) => mesh.client(server, path) }
}

describe('vL3 behind the manager', () => {
  test('the answer passes the checks of a client, refresh keeps it, close ends it', async () => {
    const { rig, ask, client } = await startServe()
    const alice = client('/alice')
    const first = await alice.request(ask('laptop'))
    expect(addressesOf(first)).toEqual(['10.64.0.1/32'])
    expect(first.path?.pathSegments.map(({ name }) => name)).toEqual(['laptop', 'manager-1', 'vl3-blue'])
    expect(first.mechanism?.parameters['dst_ip']).toBe('127.0.0.1')
    const again = await alice.request({ ...ask('laptop'), connection: first })
    expect(addressesOf(again)).toEqual(['10.64.0.1/32'])
    expect(again.path?.pathSegments.map(({ id }) => id)).toEqual(first.path?.pathSegments.map(({ id }) => id))
    expect(rig.vl3.members()).toMatchObject([
      { spiffeId: 'spiffe://test.internal/alice', connectionId: 'laptop-0', label: 'laptop' },
    ])
    await alice.close(again)
    expect([rig.vl3.members(), rig.hub.peers.size]).toEqual([[], 0])
  })

  test('a client that lost its connection but not its id takes its address over; the old one ends without harm', async () => {
    const { rig, ask, client } = await startServe()
    const old = await client('/alice').request(ask('laptop'))
    const restarted = client('/alice')
    const first = await restarted.request(ask('laptop', keyOf('new')))
    expect(addressesOf(first)).toEqual(addressesOf(old))
    await restarted.close(old)
    expect(rig.vl3.members()).toMatchObject([{ publicKey: keyOf('new') }])
  })

  test('refusals keep their codes on the wire: key of another, exhausted pool, not admitted', async () => {
    const { ask, client } = await startServe({
      prefixes: ['10.64.0.0/30'],
      admission: admissionOf({
        grants: ['alice', 'bob', 'carol'].map((name) => ({
          who: `spiffe://test.internal/${name}`,
          may: ['request'],
          services: ['*'],
        })),
      }),
    })
    await client('/alice').request(ask('a'))
    await expect(client('/bob').request(ask('b', keyOf('a')))).rejects.toMatchObject({ code: 'REFUSED' })
    await expect(client('/mallory').request(ask('m'))).rejects.toMatchObject({ code: 'REFUSED' })
    await client('/bob').request(ask('b'))
    await expect(client('/carol').request(ask('c'))).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('address pool 10.64.0.0/30 is exhausted'),
    })
  })

  test('a lease that nobody renews ends', async () => {
    const { rig, clock, ask, client } = await startServe()
    await client('/alice').request(ask('laptop'))
    clock.advance(600_000)
    await expect.poll(() => rig.hub.peers.size).toBe(0)
    expect(rig.vl3.members()).toEqual([])
  })
})
