import { join as joinPath } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { formatPrefix, parsePrefix } from '../../src/base/ip.ts'
import { silentLog } from '../../src/base/log.ts'
import { type ServeSettings, startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { holdPrefixes } from '../../src/endpoint/ipam-client.ts'
import type { Target } from '../../src/nsm/channel.ts'
import { freePort } from '../support/free-port.ts'
import { scratchDir } from '../support/scratch.ts'
import { enrolInto } from './enrol.ts'
import { GoMesh } from './go-mesh.ts'
import { buildGoPeers, suiteName } from './go-peers.ts'
import { type OurSite, startOurSite } from './our-site.ts'

const peers = await buildGoPeers()
const meshes: GoMesh[] = []

afterEach(async () => {
  for (const mesh of meshes.splice(0)) await mesh.close()
})

async function startMesh(): Promise<GoMesh> {
  const mesh = await GoMesh.start(peers.path ?? '')
  meshes.push(mesh)
  return mesh
}

/** Starts a vL3 endpoint of NSM whose prefix is a part of the network. */
async function serveTheirs(
  mesh: GoMesh,
  site: Pick<OurSite, 'url'>,
  flags: { name: string; link: string; ipam?: string; service?: string },
) {
  const more = { register: site.url, 'register-service': 'false', 'wireguard-port': await freePort() }
  return mesh.serve('vl3', { ipam: site.url, ...more, ...flags })
}

/** A client of NSM at the endpoint `at`, which looks a name up and reaches others; gives its address and what it saw. */
async function join(
  mesh: GoMesh,
  site: Pick<OurSite, 'url'>,
  wanted: { at: string; name: string; ask: string; reach?: string; service?: string },
) {
  const { at, reach = '', service = 'vl3', ...rest } = wanted
  const flags = { to: site.url, service, endpoint: at, reach, ...rest, 'wireguard-port': await freePort() }
  const { lines } = await mesh.connect(flags)
  const given: readonly string[] = JSON.parse(lines[0] ?? '{}').context.ip_context.src_ip_addrs
  const addresses = given.map((text) => text.replace(/\/\d+$/, ''))
  return { address: addresses[0] ?? '', addresses, saw: lines.slice(1) }
}

describe.skipIf(!peers.path)(suiteName('a vL3 endpoint of NSM and one of ours as two sites', peers), () => {
  test.each([
    ['NSM’s dials ours, which was there before it', 'vl3-1', 'true'],
    ['ours dials NSM’s, which has the lesser name', 'a-vl3', 'false'],
    ['ours dials NSM’s in the end when nobody does', 'vl3-1', 'false'],
  ] as const)('%s: members of each reach those of the other, by TCP and by name', async (_who, name, link) => {
    const mesh = await startMesh()
    const ours = await startOurSite(mesh, { name: 'ours-1' })
    await serveTheirs(mesh, ours, { name, link })
    const prefixes = () => ours.vl3.sites.linkWith(name)?.prefixes
    await expect.poll(prefixes).toEqual(['10.64.1.0/24'])
    const first = await join(mesh, ours, { at: name, name: 'go-1', ask: 'go-1.vl3' })
    expect(first.address).toMatch(/^10\.64\.1\./)
    const second = await join(mesh, ours, { at: 'ours-1', name: 'our-1', ask: 'go-1.vl3', reach: first.address })
    expect(second.address).toBe('10.64.0.1')
    expect(second.saw).toEqual(['ping 10.64.0.0', `dns NOERROR ${first.address}`, `reached ${first.address}`])
    const third = await join(mesh, ours, { at: name, name: 'go-2', ask: 'our-1.vl3', reach: second.address })
    expect(third.saw).toContain(`dns NOERROR ${second.address}`)
    expect(third.saw).toContain(`reached ${second.address}`)
  })

  test('NSM’s leaves: its link ends at once, and its names are nobody’s', async () => {
    const mesh = await startMesh()
    const ours = await startOurSite(mesh, { name: 'ours-1' })
    const theirs = await serveTheirs(mesh, ours, { name: 'vl3-1', link: 'true' })
    expect(ours.vl3.sites.linkWith('vl3-1')?.nameServers).toEqual(['10.64.1.1'])
    expect((await join(mesh, ours, { at: 'ours-1', name: 'early', ask: 'nobody.vl3' })).saw).toContain('dns SERVFAIL')
    expect(await theirs.stop()).toBe(0)
    expect(ours.vl3.sites.linkWith('vl3-1')).toBe(undefined)
    expect((await join(mesh, ours, { at: 'ours-1', name: 'late', ask: 'nobody.vl3' })).saw).toContain('dns NXDOMAIN')
  })

  test('a client of NSM hears an echo that comes back at once', async () => {
    const mesh = await startMesh()
    const ours = await startOurSite(mesh, { name: 'ours-1' })
    const own = '10.64.0.1'
    const { address, saw } = await join(mesh, ours, { at: 'ours-1', name: 'self', ask: 'self.vl3', reach: own })
    expect(address).toBe(own)
    expect(saw).toEqual(['ping 10.64.0.0', `dns NOERROR ${own}`, `reached ${own}`])
  })

  test('two of NSM and one of ours: every member reaches every other, by TCP and by name', async () => {
    const mesh = await startMesh()
    const ours = await startOurSite(mesh, { name: 'ours-1' })
    for (const name of ['vl3-1', 'vl3-2']) await serveTheirs(mesh, ours, { name, link: 'true' })
    const met: { name: string; address: string }[] = []
    for (const [at, name] of [
      ...[['vl3-1', 'a1'] as const, ['ours-1', 'b1'] as const, ['vl3-2', 'c1'] as const],
      ...[['vl3-1', 'a2'] as const, ['ours-1', 'b2'] as const, ['vl3-2', 'c2'] as const],
    ]) {
      const before = met.slice(-2)
      const reach = before.map(({ address }) => address).join()
      const ask = before[0]?.name ?? name
      const { address, saw } = await join(mesh, ours, { at, name, ask: `${ask}.vl3`, reach })
      expect(saw).toContain(`dns NOERROR ${before[0]?.address ?? address}`)
      for (const other of before) expect(saw).toContain(`reached ${other.address}`)
      met.push({ name, address })
    }
    expect(new Set(met.map(({ address }) => address.replace(/\d+$/, ''))).size).toBe(3)
  })
})

describe.skipIf(!peers.path)(suiteName('a vL3 endpoint of NSM as a further site of `nsm serve`', peers), () => {
  const service = 'blue'

  /** `nsm serve` and NSM's programs with identities that it gave for join strings. */
  async function startNetwork(prefixes: readonly string[] = ['10.64.0.0/16']) {
    const dir = await scratchDir()
    const settings: ServeSettings = {
      ...{ service, dnsDomain: service, prefixes, listen: `127.0.0.1:${await freePort()}` },
      ...{ wireguardPort: await freePort(), stateDir: joinPath(dir, 'state'), runtimeDir: joinPath(dir, 'run') },
    }
    let running = await startServe(settings, silentLog)
    const mesh = await GoMesh.startEnrolled(peers.path ?? '', ['vl3', 'client'], async (name, file) => {
      const wanted = name === 'vl3' ? { id: 'theirs', endpoint: true } : {}
      await enrolInto(file, (await inviteFromRunning(settings, { ttlMs: 60_000, ...wanted })).joinString)
    })
    meshes.push(mesh)
    mesh.onClose(() => running.stop())
    const restart = async () => {
      await running.stop()
      running = await startServe(settings, silentLog)
    }
    return { mesh, restart, site: { url: `tcp://${settings.listen}` } }
  }

  test('it leases its prefix, links and serves; after a restart of ours it is linked again by ours', async () => {
    const { mesh, restart, site } = await startNetwork()
    await serveTheirs(mesh, site, { name: 'blue-vl3-theirs', link: 'true', service })
    const far = await join(mesh, site, { service, at: 'blue-vl3-theirs', name: 'far', ask: 'far.blue' })
    expect(far.address).toMatch(/^10\.64\.1\./)
    const near = await join(mesh, site, { service, at: 'blue-vl3', name: 'near', ask: 'far.blue', reach: far.address })
    expect(near.saw).toEqual(['ping 10.64.0.0', `dns NOERROR ${far.address}`, `reached ${far.address}`])
    await restart()
    // NSM's clients heal to any endpoint of the service meanwhile: others tell whether the sites are linked.
    // Also one that has just come: then it is started again.
    const wanted = { service, at: 'blue-vl3-theirs', name: 'other', ask: 'other.blue' }
    const other = await vi.waitFor(() => join(mesh, site, wanted), { timeout: 120_000 })
    const late = { service, at: 'blue-vl3', name: 'late', ask: 'other.blue', reach: other.address }
    const seen = () => join(mesh, site, late).then(({ saw }) => saw)
    await expect.poll(seen).toContain(`reached ${other.address}`)
    expect(await seen()).toContain(`dns NOERROR ${other.address}`)
  })

  test('it leases a prefix of each family, and members reach each other by both', async () => {
    const { mesh, site } = await startNetwork(['10.64.0.0/16', 'fd64::/48'])
    const ipam = `${site.url},${site.url}`
    await serveTheirs(mesh, site, { name: 'blue-vl3-theirs', link: 'true', service, ipam })
    const far = await join(mesh, site, { service, at: 'blue-vl3-theirs', name: 'far', ask: 'far.blue' })
    expect(far.addresses).toEqual([expect.stringMatching(/^10\.64\.1\./), expect.stringMatching(/^fd64:0:0:1::/)])
    const reach = far.addresses.join()
    const near = await join(mesh, site, { service, at: 'blue-vl3', name: 'near', ask: 'far.blue', reach })
    expect(near.addresses).toEqual(['10.64.0.1', 'fd64::1'])
    const back = near.addresses.join()
    const late = await join(mesh, site, { service, at: 'blue-vl3-theirs', name: 'late', ask: 'near.blue', reach: back })
    expect(near.saw).toEqual(expect.arrayContaining(far.addresses.map((address) => `reached ${address}`)))
    expect(late.saw).toEqual(expect.arrayContaining(near.addresses.map((address) => `reached ${address}`)))
    expect(near.saw).toContain(`dns NOERROR ${far.address}`)
    expect(late.saw).toContain(`dns NOERROR ${near.address}`)
  })
})

describe.skipIf(!peers.path)(suiteName('the prefix service of NSM', peers), () => {
  const whole = parsePrefix('10.64.0.0/16')

  async function hold(mesh: GoMesh, service: Target, held: readonly string[] = []) {
    const channel = await mesh.channel(service, 'ours')
    const parts = { channel, wholes: [whole], held: held.map(parsePrefix), clock: systemClock, log: silentLog }
    const holding = holdPrefixes(parts)
    mesh.onClose(() => holding.close())
    return holding
  }

  test('gives each of our sites a part, and after its own restart the same one again', async () => {
    const mesh = await startMesh()
    const service = await mesh.serve('ipam', { prefix: '10.64.0.0/16' })
    const first = await hold(mesh, service)
    const take = (holding: typeof first) => holding.take(whole).then(formatPrefix)
    expect(await take(first)).toBe('10.64.0.0/24')
    expect(await take(await hold(mesh, service))).toBe('10.64.1.0/24')
    await service.stop()
    const again = await mesh.serve('ipam', { prefix: '10.64.0.0/16' }, service)
    const late = await hold(mesh, again, ['10.64.1.0/24'])
    await expect.poll(() => take(first)).toMatch(/^10\.64\.[1-9]\d*\.0/)
    expect(await take(late)).toMatch(/^10\.64\.[1-9]\d*\.0/)
    expect(await take(await hold(mesh, again))).not.toBe('10.64.0.0/24')
  })

  test('says that none is left, and the site is told so', async () => {
    const mesh = await startMesh()
    const service = await mesh.serve('ipam', { prefix: '10.64.0.0/24' })
    const [first, second] = [await hold(mesh, service), await hold(mesh, service)]
    expect(formatPrefix(await first.take(whole))).toBe('10.64.0.0/24')
    await expect(second.take(whole)).rejects.toMatchObject({ name: 'NsmError' })
  })

  test('divides one network between an endpoint of NSM and one of ours', async () => {
    const mesh = await startMesh()
    const service = await mesh.serve('ipam', { prefix: '10.64.0.0/16' })
    const part = formatPrefix(await (await hold(mesh, service)).take(whole))
    const ours = await startOurSite(mesh, { name: 'ours-1', part })
    await serveTheirs(mesh, ours, { name: 'vl3-1', link: 'true', ipam: service.url })
    expect(ours.vl3.sites.linkWith('vl3-1')?.prefixes).toEqual(['10.64.1.0/24'])
    const far = await join(mesh, ours, { at: 'vl3-1', name: 'far', ask: 'far.vl3' })
    const near = await join(mesh, ours, { at: 'ours-1', name: 'near', ask: 'far.vl3', reach: far.address })
    expect(near.saw).toContain(`reached ${far.address}`)
  })
})
