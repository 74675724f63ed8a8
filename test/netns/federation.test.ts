import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { eventually, MeshRig, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()
/** The servers of the companies; that of acme.example runs the name server too. */
const addresses = { acme: '192.0.2.1', globex: '192.0.2.2' }
type Company = keyof typeof addresses

/* acme.example has the network `shared` and a machine in it, globex.example a gateway that may join it and a laptop that may
 * not. Each company has its server, its authority and its policy file. */
describe.skipIf(why !== undefined)(`two companies in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  let names: ChildProcess
  const inAcme: string[] = []

  beforeAll(async () => {
    rig = await MeshRig.open('nsmd5', ['acme', 'globex', 'machine', 'gateway', 'laptop'])
    for (const one of ['acme', 'globex', 'machine', 'gateway', 'laptop']) {
      await writeFile(
        `/etc/netns/${rig.prefix}-${one}/resolv.conf`,
        `nameserver ${addresses.acme}\noptions timeout:15\n`,
      )
    }
    const program = resolve(import.meta.dirname, 'name-server-program.ts')
    const places = Object.entries(addresses).map(([name, address]) => `${name}.example=${address}:5001`)
    const args = ['netns', 'exec', `${rig.prefix}-acme`, process.execPath, program, addresses.acme, ...places]
    names = spawn('ip', args, { stdio: ['ignore', 'pipe', 'inherit'] })
    if (names.stdout) await once(names.stdout, 'data')
    for (const [company, service, range] of [
      ['acme', 'shared', '10.70.0.0/16'],
      ['globex', 'inner', '10.71.0.0/16'],
    ] as const) {
      await admit(company, undefined)
      const domain = ['--trust-domain', `${company}.example`, '--policy', join(rig.dir, `${company}.yaml`)]
      await rig.serveOn(company, ...domain, '--service', service, '--prefix', range)
    }
    for (const company of ['acme', 'globex'] as const) {
      await rig.file(`${company}.json`, (await rig.nsm(company, 'ca', 'bundle')).out)
    }
  })
  afterAll(async () => {
    const gone = once(names, 'exit')
    names.kill('SIGTERM')
    await gone
    await rig.close()
  })

  /** Writes a company's policy; the server sees it by itself. */
  async function admit(company: Company, other: Company | undefined) {
    const grants = {
      acme: `
    - { name: own, who: "spiffe://acme.example/**", may: [find, request], services: [shared] }
    - { name: way, who: spiffe://globex.example/server, may: [find, relay], services: [shared] }
    - { name: gateway, who: spiffe://globex.example/gateway, may: [find, request], services: [shared] }`,
      globex: `
    - { name: own, who: "spiffe://globex.example/**", may: [find, request], services: [inner, shared@acme.example] }`,
    }
    const federated = other
      ? `
    - { td: ${other}.example, bundle: { profile: https_spiffe, url: "https://${addresses[other]}:5001/bundle", endpoint_id: spiffe://${other}.example/server, bundle_file: ${other}.json } }`
      : ''
    const domains = `
    - { td: ${company}.example, bundle: own }${federated}`
    await rig.file(
      `${company}.yaml`,
      `admission:\n  default: deny\n  domains:${domains}\n  grants:${grants[company]}\n`,
    )
  }

  async function invite(company: Company, id: string): Promise<string> {
    return rig.file(`${id}.join`, (await rig.nsm(company, 'invite', '--id', `/${id}`)).out)
  }

  const connect = (machine: string, file: string, ask: string) =>
    rig.nsm(machine, 'connect', ask, '--join', file, '--name', machine, '--timeout', '60s', '--json')

  test('refuse each other before they federate', async () => {
    const file = await invite('globex', 'gateway')
    const { code, out } = await connect('gateway', file, 'shared@acme.example')
    expect([code, JSON.parse(out).error.message]).toEqual([4, expect.stringContaining('do not trust each other')])
  })

  test('share one service: packets flow between members of both', async () => {
    await admit('acme', 'globex')
    await admit('globex', 'acme')
    const own = await connect('machine', await invite('acme', 'machine'), 'shared')
    expect(own.code, own.out).toBe(0)
    inAcme.push(...JSON.parse(own.out).connections[0].addresses.map((text: string) => text.split('/')[0]))
    let joined = { code: 1, out: '' }
    await eventually(async () => {
      joined = await rig.nsm('gateway', 'connect', 'shared@acme.example', '--name', 'gateway', '--json')
      return joined.code === 0
    })
    for (const address of inAcme) expect(await rig.pings('gateway', address)).toBe(true)
  })

  test('admit one workload of the other company and not another', async () => {
    const { code, out } = await connect('laptop', await invite('globex', 'laptop'), 'shared@acme.example')
    expect([code, JSON.parse(out).error.code]).toEqual([5, 'REFUSED'])
  })

  test('go on while acme changes its root, of which globex has not heard yet', async () => {
    const [address = ''] = inAcme
    expect((await rig.nsm('acme', 'ca', 'rotate', '--after', '1s')).code).toBe(0)
    const phase = async () => JSON.parse((await rig.nsm('acme', 'ca', 'status', '--json')).out).phase
    await expect.poll(phase).toBe('issuing')
    expect(await rig.pings('gateway', address)).toBe(true)
    expect((await rig.nsm('gateway', 'disconnect')).code).toBe(0)
    const { code, out } = await rig.nsm('gateway', 'connect', 'shared@acme.example', '--name', 'gateway', '--json')
    expect(code, out).toBe(0)
    expect(await rig.pings('gateway', address)).toBe(true)
    const { domains } = JSON.parse((await rig.nsm('globex', 'ca', 'status', '--json')).out)
    expect(domains).toEqual([{ trustDomain: 'acme.example', profile: 'https_spiffe', roots: 1 }])
  })

  test('one deleted line ends it, and nobody else notices', async () => {
    const [address = ''] = inAcme
    await admit('acme', undefined)
    await expect.poll(() => rig.reaches('gateway', address)).toBe(false)
    const { connections } = await rig.status('machine')
    expect(connections.map(({ state }) => state)).toEqual(['up'])
    expect(await rig.pings('machine', '10.70.0.0')).toBe(true)
  })
})
