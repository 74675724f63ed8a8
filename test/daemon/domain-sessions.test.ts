import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { afterEach, describe, expect, test } from 'vitest'
import { writeFileAtomic } from '../../src/base/files.ts'
import { silentLog } from '../../src/base/log.ts'
import { listServices } from '../../src/daemon/list-services.ts'
import { createNameService } from '../../src/daemon/name-service.ts'
import type { SvidText } from '../../src/daemon/protocol.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import type { IdentityState } from '../../src/identity/source.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { type PeerCall, unary } from '../../src/nsm/grpc.ts'
import { createRegistry } from '../../src/registry/registry.ts'
import { registryServices } from '../../src/registry/server.ts'
import { openRegistryStore } from '../../src/registry/store.ts'
import { TestMesh } from '../nsm/mesh.ts'
import { openDomainDns } from '../support/domain-dns.ts'
import { scratchDir } from '../support/scratch.ts'

const { signal } = new AbortController()
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** A domain `far.test` that a name server knows, with the services `blue` and `red`, and a machine with an SVID. */
async function start() {
  const mesh = new TestMesh('test.internal')
  const registry = createRegistry({ store: openRegistryStore(':memory:'), clock: mesh.clock, log: silentLog })
  for (const name of ['blue', 'red'])
    registry.registerService(create(NetworkServiceSchema, { name }), 'spiffe://test.internal/x')
  const calls: PeerCall[] = []
  const close = unary(NetworkService.method.close, async (_connection, call) => {
    calls.push(call)
    return {}
  })
  const server = await mesh.serve([...registryServices(registry, mesh.clock), close], mesh.source('/border'))
  const dns = await openDomainDns({ 'far.test': { registry: server.port, manager: server.port } })
  const dir = await scratchDir()
  const settings = { stateDir: dir, runtimeDir: dir, logLevel: 'info' as const, resolvConf: join(dir, 'resolv.conf') }
  const names = createNameService(async () => [dns.target])
  const sessions = new Sessions({ settings, clock: mesh.clock, log: silentLog, names })
  closers.push(
    () => mesh.close(),
    () => registry.close(),
    () => dns.close(),
    () => sessions.close(),
  )
  const svidFiles = pemOf(mesh.issue('/laptop'))
  return { sessions, svidFiles, url: `tcp://127.0.0.1:${server.port}`, dns, calls, mesh, clock: mesh.clock }
}

function pemOf({ svid, bundles }: IdentityState): SvidText {
  return {
    svidPem: certificatesToPem(svid.chain),
    keyPem: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    bundlePem: certificatesToPem(bundles.get('test.internal') ?? []),
  }
}

describe('Sessions.open with SVID files', () => {
  test('follows them: a further connect finds the same session, with the SVID that is there by then', async () => {
    const { sessions, svidFiles, url, mesh } = await start()
    const dir = await scratchDir()
    const paths = {
      svidPath: join(dir, 'svid.pem'),
      keyPath: join(dir, 'key.pem'),
      bundlePath: join(dir, 'bundle.pem'),
    }
    const write = async (pem: SvidText) => {
      for (const [name, text] of Object.entries({ svid: pem.svidPem, key: pem.keyPem, bundle: pem.bundlePem })) {
        await writeFileAtomic(join(dir, `${name}.pem`), text)
      }
    }
    await write(svidFiles)
    const session = await sessions.open({ svidFiles: { ...svidFiles, paths }, manager: url }, signal)
    const before = session.source.current().svid
    const renewed = new Promise((resolve) => session.source.onChange(resolve))
    const next = pemOf(mesh.issue('/laptop'))
    await write(next)
    await renewed
    expect(session.source.current().svid.privateKey.equals(before.privateKey)).toBe(false)
    expect(await sessions.open({ svidFiles: { ...next, paths }, manager: url }, signal)).toBe(session)
    expect((await session.registry.findServices({})).map(({ name }) => name)).toEqual(['blue', 'red'])
  })

  test('refuses a key that others may read, and says what to do', async () => {
    const { sessions, svidFiles, url } = await start()
    const path = join(await scratchDir(), 'all.pem')
    await writeFileAtomic(path, 'x', 0o644)
    const paths = { svidPath: path, keyPath: path, bundlePath: path }
    await expect(sessions.open({ svidFiles: { ...svidFiles, paths }, manager: url }, signal)).rejects.toMatchObject({
      code: 'PERMISSION',
      next: `chmod 600 ${path}`,
    })
  })
})

describe('Sessions.open for a service of another domain', () => {
  test('asks DNS for the servers of the domain when no manager is named', async () => {
    const { sessions, svidFiles, url } = await start()
    const session = await sessions.open({ svidFiles, domain: 'far.test' }, signal)
    expect(session).toMatchObject({ address: '127.0.0.1', url, domain: 'far.test' })
    expect((await session.registry.findServices({})).map(({ name }) => name)).toEqual(['blue', 'red'])
  })

  test('gives one session for a domain, and one for each identity', async () => {
    const { sessions, svidFiles } = await start()
    const first = await sessions.open({ svidFiles, domain: 'far.test' }, signal)
    expect(await sessions.open({ svidFiles, domain: 'far.test' }, signal)).toBe(first)
    const other = await sessions.open({ svidFiles, domain: 'far.test', tokenLifetimeMs: 60_000 }, signal)
    expect(other).not.toBe(first)
  })

  test('asks the manager when one is named: it knows the way', async () => {
    const { sessions, svidFiles, url, dns } = await start()
    const session = await sessions.open({ svidFiles, manager: url, domain: 'far.test' }, signal)
    expect(session).not.toHaveProperty('domain')
    expect(dns.asked).toEqual([])
  })

  test('says NOT_FOUND for a domain that DNS does not know', async () => {
    const { sessions, svidFiles } = await start()
    const opening = sessions.open({ svidFiles, domain: 'nowhere.test' }, signal)
    await expect(opening).rejects.toMatchObject({ code: 'NOT_FOUND', next: expect.stringContaining('SRV') })
  })

  test.each([
    ['a domain', { domain: 'far.test' }],
    ['a manager', {}],
  ])('signs tokens for %s that live no longer than asked', async (_what, whom) => {
    const { sessions, svidFiles, url, calls, clock } = await start()
    const manager = 'domain' in whom ? {} : { manager: url }
    const session = await sessions.open({ svidFiles, ...whom, ...manager, tokenLifetimeMs: 60_000 }, signal)
    await session.client.close(create(ConnectionSchema, { id: 'c', networkService: 'blue' }))
    const [call] = calls
    const leftMs = (call?.peer.tokenExpiresMs ?? 0) - clock.wallMs()
    expect(leftMs).toBeGreaterThan(0)
    expect(leftMs).toBeLessThanOrEqual(60_000)
  })
})

describe('listServices of another domain', () => {
  test('shows what the domain itself knows, by pattern', async () => {
    const { sessions, svidFiles } = await start()
    const session = await sessions.open({ svidFiles, domain: 'far.test' }, signal)
    const listed = async (pattern: string) => {
      const { services } = await listServices(session, { pattern }, signal)
      return services.map(({ name }) => name)
    }
    expect(await listed('*@far.test')).toEqual(['blue', 'red'])
    expect(await listed('b*@far.test')).toEqual(['blue'])
  })

  test('asks an own manager for all of the domain', async () => {
    const { sessions, svidFiles, url } = await start()
    const session = await sessions.open({ svidFiles, manager: url }, signal)
    const asked: unknown[] = []
    const registry = {
      ...session.registry,
      async findServices(query: object) {
        asked.push(query)
        return [create(NetworkServiceSchema, { name: 'blue@far.test', payload: 'IP' })]
      },
      async findEndpoints(query: object) {
        asked.push(query)
        return []
      },
    }
    const { services } = await listServices({ ...session, registry }, { pattern: 'bl*@far.test' }, signal)
    expect(services).toMatchObject([{ name: 'blue@far.test', endpoints: [] }])
    expect(asked).toEqual([{ name: '@far.test' }, { name: '@far.test' }])
  })
})
