import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { create } from '@bufbuild/protobuf'
import { expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { createRegistryClient } from '../../src/registry/client.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore, type RegistryStore } from '../../src/registry/store.ts'
import { FakeClock, TestMesh } from '../nsm/mesh.ts'
import { scratchDir } from '../support/scratch.ts'

const service = (name: string) => ({ service: create(NetworkServiceSchema, { name }), owner: 'a' })
const endpoint = (name: string) => ({
  endpoint: create(NetworkServiceEndpointSchema, { name }),
  owner: 'a',
  expiresMs: 60_000.5,
})
const names = (store: RegistryStore) => [
  ...store.services().map(({ service: { name } }) => name),
  ...store.endpoints().map(({ endpoint: { name } }) => name),
]

async function openFile() {
  const path = join(await scratchDir(), 'registry.db')
  const store = openRegistryStore(path)
  const other = new DatabaseSync(path)
  const onDisk = () =>
    other
      .prepare('SELECT name FROM services UNION ALL SELECT name FROM endpoints ORDER BY name')
      .all()
      .map(({ name }) => name)
  return { path, store, other, onDisk }
}

/** From now on the file takes no turn of changes in which an endpoint has this name. */
function spoil(other: DatabaseSync, name: string) {
  other.exec(`CREATE TABLE parents (id INTEGER PRIMARY KEY);
    CREATE TABLE children (id INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
    CREATE TRIGGER spoil AFTER INSERT ON endpoints WHEN NEW.name = '${name}' BEGIN INSERT INTO children VALUES (9); END`)
}

test('a change of the store shows at once, and is on disk with all others of its turn when it is committed', async () => {
  const { store, onDisk } = await openFile()
  store.putService(service('net'))
  for (const name of ['one', 'two']) store.putEndpoint(endpoint(name))
  store.deleteEndpoint('one')
  expect([names(store), onDisk()]).toEqual([['net', 'two'], []])
  await store.committed()
  expect(onDisk()).toEqual(['net', 'two'])
  store.deleteService('net')
  await store.committed()
  expect(onDisk()).toEqual(['two'])
  store.close()
})

test('a store that is closed has all of its changes on disk', async () => {
  const { path, store } = await openFile()
  store.putEndpoint(endpoint('last'))
  store.close()
  const again = openRegistryStore(path)
  expect(again.endpoint('last')).toMatchObject({ owner: 'a', expiresMs: 60_000 })
  again.close()
})

test('changes that the disk does not take are undone together, and the next ones are taken', async () => {
  const { store, other, onDisk } = await openFile()
  store.putEndpoint(endpoint('first'))
  store.putService(service('net'))
  await store.committed()
  spoil(other, 'bad')
  store.putEndpoint(endpoint('bad'))
  store.putEndpoint(endpoint('beside'))
  store.deleteService('net')
  await expect(store.committed()).rejects.toThrow('FOREIGN KEY')
  expect([names(store), onDisk()]).toEqual([
    ['net', 'first'],
    ['first', 'net'],
  ])
  store.putEndpoint(endpoint('next'))
  await store.committed()
  expect(onDisk()).toEqual(['first', 'net', 'next'])
  store.close()
})

test('a registration is answered when it is on disk, and with a failure when it is not', async () => {
  const { store, other, onDisk } = await openFile()
  const clock = new FakeClock()
  const mesh = new TestMesh('test.internal', clock)
  const registry = createRegistry({ store, clock, log: silentLog })
  const server = await mesh.serve(registryServices(registry, clock))
  const client = createRegistryClient(mesh.channel(server, mesh.source('/nse')))
  await Promise.all([client.registerService({ name: 'net' }), client.registerEndpoint({ name: 'good' })])
  expect(onDisk()).toEqual(['good', 'net'])
  spoil(other, 'bad')
  await expect(client.registerEndpoint({ name: 'bad' })).rejects.toThrow('internal failure')
  expect((await client.findEndpoints({})).map(({ name }) => name)).toEqual(['good'])
  await client.unregisterEndpoint({ name: 'good' })
  expect(onDisk()).toEqual(['net'])
  await mesh.close()
  registry.close()
  store.close()
})
