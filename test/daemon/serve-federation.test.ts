import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { type RunningServe, startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { bundleOfRunning, rotateRunning } from '../../src/daemon/serve-ca.ts'
import { type Credentials, Sessions } from '../../src/daemon/sessions.ts'
import { openEndpointStore } from '../../src/endpoint/store.ts'
import { createCsr } from '../../src/identity/csr.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { renewIdentity } from '../../src/nsm/exchange.ts'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { wireGuardMechanism } from '../../src/nsm/wireguard-mechanism.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'
import { rejectionOf } from '../identity/fixtures.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { scratchDir } from '../support/scratch.ts'

const names = vi.hoisted(() => new Map<string, number>())
vi.mock('../../src/daemon/name-service.ts', () => ({
  createNameService: () => ({
    srv: async (name: string) => {
      const port = names.get(name.replace(/^[^.]+\.nsm-system\./, ''))
      return port === undefined ? [] : [{ target: 'here', port, priority: 0, weight: 0 }]
    },
    addresses: async () => ['127.0.0.1'],
  }),
}))

const { signal } = new AbortController()
const closers: (() => Promise<void>)[] = []
beforeEach(() => names.clear())
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** A company: its server with a policy file, and its members. */
class Company {
  readonly dir: string
  readonly name: string
  readonly domain: string
  running: RunningServe | undefined

  constructor(dir: string, name: string) {
    this.dir = join(dir, name)
    this.name = name
    this.domain = `${name}.example`
  }

  get settings() {
    const { dir, name, domain } = this
    return {
      ...{ service: name, prefixes: ['10.64.0.0/16'], dnsDomain: `${name}.nsm.internal`, trustDomain: domain },
      ...{
        listen: `127.0.0.1:${names.get(domain) ?? 0}`,
        wireguardPort: 0,
        stateDir: dir,
        runtimeDir: join(dir, 'run'),
      },
      policyPath: `${dir}.yaml`,
    }
  }

  async start(): Promise<RunningServe> {
    const running = await startServe(this.settings, silentLog, signal)
    this.running = running
    closers.push(() => running.stop())
    names.set(this.domain, running.info.port)
    return running
  }

  /** Everything is granted to everybody of these domains. */
  async admit(...others: readonly Company[]): Promise<void> {
    for (const other of others) await writeFile(`${this.dir}-${other.name}.json`, await bundleOfRunning(other.settings))
    const domains = others.map(({ name, domain }) => ({
      td: domain,
      bundle: {
        profile: 'https_spiffe',
        url: `https://127.0.0.1:${names.get(domain)}/bundle`,
        endpoint_id: `spiffe://${domain}/server`,
        bundle_file: `${this.name}-${name}.json`,
      },
    }))
    const services = ['*', '*@acme.example', '*@globex.example']
    const grants = [this, ...others].map(({ name, domain }) => ({
      ...{ name, who: `spiffe://${domain}/**`, may: ['find', 'request', 'relay', 'monitor'], services },
    }))
    const own = { td: this.domain, bundle: 'own' }
    const policy = { admission: { default: 'deny', domains: [own, ...domains], grants } }
    await writeFile(`${this.dir}.yaml`, JSON.stringify(policy))
    await this.running?.reload()
  }

  /** Who has an address of the network. */
  holders(dir = this.dir): readonly string[] {
    const store = openEndpointStore(join(dir, 'endpoint.db'))
    const leases = store.leases(this.name).filter(({ releasedMs }) => releasedMs === undefined)
    store.close()
    return leases.map(({ spiffeId }) => spiffeId)
  }

  async member(credentials: Partial<Credentials> = {}) {
    const dir = await scratchDir()
    const settings = { stateDir: dir, runtimeDir: join(dir, 'run'), logLevel: 'info' as const, resolvConf: '/nowhere' }
    const sessions = new Sessions({ settings, clock: systemClock, log: silentLog })
    closers.push(() => sessions.close())
    const { joinString } = await inviteFromRunning(this.settings, { ttlMs: 60_000 })
    return sessions.open({ joinString, ...credentials }, signal)
  }
}

async function companies() {
  const dir = await scratchDir()
  const [acme, globex] = [new Company(dir, 'acme'), new Company(dir, 'globex')]
  for (const one of [acme, globex]) {
    await one.admit()
    await one.start()
  }
  return { acme, globex }
}

async function federated() {
  const both = await companies()
  await both.acme.admit(both.globex)
  await both.globex.admit(both.acme)
  return both
}

const mechanism = () =>
  wireGuardMechanism({
    ...{ srcIp: '127.0.0.1', srcPort: 51_820, mtuBytes: 1_420 },
    srcPublicKey: publicKeyOf(generatePrivateKey()),
  })
const ask = (networkService: string) => ({
  ...firstRequest({ networkService }),
  mechanismPreferences: [mechanism()],
})

describe('two companies that do not federate', () => {
  test('refuse each other, and say what to do', async () => {
    const { globex } = await companies()
    const { client } = await globex.member()
    await expect(client.request(ask('acme@acme.example'), signal)).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringContaining('do not trust each other'),
      next: expect.stringContaining('federate'),
    })
  })
})

describe('two companies that federate', () => {
  test('reach a service of the other through their own server', async () => {
    const { globex } = await federated()
    const { client, registry } = await globex.member()
    const answer = await client.request(ask('acme@acme.example'), signal)
    expect(answer).toMatchObject({
      networkService: 'acme@acme.example',
      networkServiceEndpointName: 'acme-vl3@acme.example',
      path: { pathSegments: [{}, { name: 'nsm-manager.globex.example' }, { name: 'nsm-manager.acme.example' }, {}] },
    })
    expect(answer.context?.ipContext?.srcIpAddrs).toHaveLength(1)
    expect(await registry.findEndpoints({ networkServiceNames: ['acme@acme.example'] }, signal)).toHaveLength(1)
    await client.close(answer, signal)
  })

  test("reach the other's server directly when it is named as the manager", async () => {
    const { acme, globex } = await federated()
    const manager = `tcp://127.0.0.1:${names.get(acme.domain)}`
    const { client, source, home, channel } = await globex.member({ manager, domain: acme.domain })
    expect([...source.current().bundles.keys()].sort()).toEqual(['acme.example', 'globex.example'])
    const answer = await client.request(ask('acme@acme.example'), signal)
    expect(answer.path?.pathSegments.map(({ name }) => name).slice(1)).toEqual(['nsm-manager.acme.example', 'acme-vl3'])
    await client.close(answer, signal)
    const wanted = { csr: createCsr(generateKey()), trustDomain: globex.domain }
    expect((await renewIdentity(home, wanted, signal)).spiffeId).toBe(source.current().svid.spiffeId)
    await expect(renewIdentity(channel, wanted, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test('a manager of another domain than the one that was asked for is not believed', async () => {
    const { acme, globex } = await federated()
    const manager = `tcp://127.0.0.1:${names.get(acme.domain)}`
    const { client } = await globex.member({ manager, domain: 'other.example' })
    await expect(client.request(ask('acme'), signal)).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test('members that were there before learn of the federation', async () => {
    const { acme, globex } = await companies()
    const { source, client } = await globex.member()
    expect([...source.current().bundles.keys()]).toEqual(['globex.example'])
    await acme.admit(globex)
    await globex.admit(acme)
    await expect.poll(() => source.current().bundles.has('acme.example')).toBe(true)
    expect((await client.request(ask('acme@acme.example'), signal)).networkService).toBe('acme@acme.example')
  })

  test('one deleted line ends what the other company has', async () => {
    const { acme, globex } = await federated()
    const own = await acme.member()
    const ours = await own.client.request(ask('acme'), signal)
    const manager = `tcp://127.0.0.1:${names.get(acme.domain)}`
    const direct = await globex.member({ manager, domain: acme.domain })
    const relayed = await globex.member()
    const follow = async ({ client }: typeof direct) => {
      for await (const { type } of client.monitor({}, signal)) expect(type).toBeDefined()
    }
    const answers = [
      await direct.client.request(ask('acme@acme.example'), signal),
      await relayed.client.request(ask('acme@acme.example'), signal),
    ]
    const watch = follow(direct).then(
      () => 'ended',
      () => 'cut',
    )
    expect(acme.holders()).toHaveLength(3)
    await acme.admit()
    expect(await watch).toMatch(/ended|cut/)
    await expect.poll(() => acme.holders()).toEqual([own.source.current().svid.spiffeId])
    for (const [index, { client }] of [direct, relayed].entries()) {
      const request = create(NetworkServiceRequestSchema, { ...ask('acme@acme.example'), connection: answers[index] })
      const again = () => rejectionOf(client.request(request, signal))
      await expect.poll(again).toBe('IDENTITY')
    }
    const again = await own.client.request(create(NetworkServiceRequestSchema, { connection: ours }), signal)
    expect(again.context?.ipContext?.srcIpAddrs).toEqual(ours.context?.ipContext?.srcIpAddrs)
  })

  test('a further site hears of the deleted line and ends the same', async () => {
    const { acme, globex } = await federated()
    const { joinString } = await inviteFromRunning(acme.settings, { id: 'west', ttlMs: 60_000, endpoint: true })
    const { policyPath: _, trustDomain: __, ...settings } = acme.settings
    const stateDir = `${acme.dir}-west`
    const runtimeDir = join(stateDir, 'run')
    const site = await startServe({ ...settings, joinString, listen: '127.0.0.1:0', stateDir, runtimeDir }, silentLog)
    closers.push(() => site.stop())
    const manager = `tcp://127.0.0.1:${site.info.port}`
    const { client } = await globex.member({ manager, domain: acme.domain })
    const networkServiceEndpointName = 'acme-vl3-west@acme.example'
    const wanted = firstRequest({ networkService: 'acme@acme.example', networkServiceEndpointName })
    await client.request({ ...wanted, mechanismPreferences: [mechanism()] }, signal)
    expect([acme.holders(), acme.holders(stateDir)]).toEqual([[], [expect.stringContaining('globex.example/member/')]])
    await acme.admit()
    await expect.poll(() => acme.holders(stateDir)).toEqual([])
    const soon = AbortSignal.timeout(2_000)
    await expect(client.request(ask('acme@acme.example'), soon)).rejects.toThrow()
  })

  test('an emptied bundle revokes everything of its domain: leases and connections end', async () => {
    const { acme, globex } = await federated()
    const path = `${acme.dir}-globex.json`
    const policy = await readFile(acme.settings.policyPath, 'utf8')
    const { admission } = JSON.parse(policy)
    admission.domains[1].bundle = { profile: 'file', path }
    await writeFile(acme.settings.policyPath, JSON.stringify({ admission }))
    await acme.running?.reload()
    const manager = `tcp://127.0.0.1:${names.get(acme.domain)}`
    const { client } = await globex.member({ manager, domain: acme.domain })
    await expect.poll(() => client.request(ask('acme@acme.example'), signal)).toBeDefined()
    expect(acme.holders()).toHaveLength(1)
    await writeFile(path, '{"keys":[]}')
    await expect.poll(() => acme.holders()).toEqual([])
    await expect(client.request(ask('acme@acme.example'), AbortSignal.timeout(2_000))).rejects.toThrow()
  })

  test('go on believing each other while the other server is away, also after a restart', async () => {
    const { acme, globex } = await federated()
    await acme.running?.stop()
    await globex.running?.stop()
    await acme.start()
    const { source } = await acme.member()
    expect([...source.current().bundles.keys()].sort()).toEqual(['acme.example', 'globex.example'])
  })

  test('a new root of the other company is learned before it signs', async () => {
    const { acme, globex } = await federated()
    const { source } = await globex.member()
    await rotateRunning(acme.settings, { finish: false })
    await globex.admit()
    await globex.admit(acme)
    await expect.poll(() => source.current().bundles.get('acme.example')?.length).toBe(2)
  })
})
