import { once } from 'node:events'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { formatBundle } from '../../src/identity/bundle-document.ts'
import type { BundleOrigin, FederatedDomain } from '../../src/identity/federated-domain.ts'
import type { Federation } from '../../src/identity/federation.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { parsePolicyFile } from '../../src/identity/policy-file.ts'
import { type Acme, acme, globex, shownBy, spiffeEndpoint, webEndpoint } from './federation-rig.ts'
import { authorityOf, reasonOf, temporaryDir } from './fixtures.ts'
import { opensslMissing } from './openssl.ts'

const own: FederatedDomain = { trustDomain: 'acme.example', bundle: { profile: 'own' } }
const of = (bundle: BundleOrigin, trustDomain = 'globex.example'): FederatedDomain => ({ trustDomain, bundle })
const hourMs = 3_600_000

/** Everything of both domains, and the file with the first bundle. */
async function scene() {
  const here = acme()
  const there = await globex(here.clock)
  const path = join(temporaryDir(), 'globex.json')
  await writeFile(path, formatBundle(there.authority.document))
  const { url } = there.endpoint
  const origin = { profile: 'https_spiffe', url, endpointId: there.endpointId, path } as const
  return { here, there, origin, path }
}

async function rootsOf(federation: Federation, trustDomain = 'globex.example') {
  await federation.settled()
  return federation
    .bundles()
    .get(trustDomain)
    ?.map((der) => Buffer.from(der).toString('base64'))
}

/** The roots after that time, each time it is asked. */
const rootsAfter = (ms: number, here: Acme, federation: Federation) => async () => {
  await here.clock.advance(ms)
  return rootsOf(federation)
}

const shown = (authority: { readonly document: { readonly roots: readonly Uint8Array[] } }) =>
  authority.document.roots.map((der) => Buffer.from(der).toString('base64'))

describe('https_spiffe', () => {
  test('begins with the bundle of a file and goes on with what the endpoint gives', async () => {
    const { here, there, origin } = await scene()
    const before = shown(there.authority)
    await there.authority.rotation.begin()
    const federation = await here.open()
    federation.setDomains([own, of(origin)])
    expect(await rootsOf(federation)).toEqual(shown(there.authority))
    expect(shown(there.authority)).toEqual([...before, expect.any(String)])
    expect(federation.status()).toEqual([{ trustDomain: 'globex.example', profile: 'https_spiffe', roots: 2 }])
  })

  test('asks again at the hint of the bundle, and the newest bundle vouches for the endpoint', async () => {
    const { here, there, origin } = await scene()
    const federation = await here.open()
    federation.setDomains([of(origin)])
    await federation.settled()
    await there.authority.rotation.begin()
    await here.clock.advance(1_520_000)
    await expect.poll(() => federation.bundles().get('globex.example')?.length).toBe(2)
    await there.endpoint.close()
    const moved = shownBy(there.authority, '/bundle', here.clock)
    expect(there.authority.rotation.view().phase).toBe('issuing')
    await spiffeEndpoint(moved, () => there.authority.document, there.endpoint.port)
    await there.authority.rotation.finish()
    await expect.poll(rootsAfter(300_000, here, federation)).toHaveLength(1)
    expect(await rootsOf(federation)).toEqual(shown(there.authority))
  })

  test('keeps the last bundle through an outage and a restart', async () => {
    const { here, there, origin, path } = await scene()
    const first = await here.open()
    first.setDomains([of(origin)])
    const roots = await rootsOf(first)
    await first.close()
    await there.endpoint.close()
    await rm(path)
    const second = await here.open()
    expect(second.bundles().size).toBe(0)
    second.setDomains([of(origin)])
    expect(await rootsOf(second)).toEqual(roots)
    expect(second.status()).toMatchObject([{ roots: 1, error: expect.stringContaining(there.endpoint.url) }])
    await here.clock.advance(48 * hourMs)
    expect(await rootsOf(second)).toEqual(roots)
    expect(here.warnings.length).toBe(1)
  })

  test('tries again with growing pauses, and says when it works again', async () => {
    const { here, there, origin } = await scene()
    await there.endpoint.close()
    const federation = await here.open()
    federation.setDomains([of(origin)])
    await federation.settled()
    await there.authority.rotation.begin()
    const state = shownBy(there.authority, '/bundle', here.clock)
    await spiffeEndpoint(state, () => there.authority.document, there.endpoint.port)
    await expect.poll(rootsAfter(1_000, here, federation)).toHaveLength(2)
    expect(federation.status()[0]).not.toHaveProperty('error')
  })

  test.each<[string, (at: Awaited<ReturnType<typeof scene>>) => Promise<BundleOrigin>]>([
    ['another workload of the domain', async ({ origin }) => ({ ...origin, endpointId: 'spiffe://globex.example/x' })],
    [
      'an SVID that another authority made for it',
      async ({ here, origin, there }) => {
        const forger = authorityOf('globex.example', here.clock)
        const forged = shownBy(forger, '/bundle', here.clock)
        const { url } = await spiffeEndpoint(forged, () => there.authority.document)
        return { ...origin, url }
      },
    ],
    [
      'a workload of ours',
      async ({ here, origin, there }) => {
        const { url } = await spiffeEndpoint(
          shownBy(here.authority, '/bundle', here.clock),
          () => there.authority.document,
        )
        return { ...origin, url }
      },
    ],
  ])('believes no endpoint that is %s', async (_who, originOf) => {
    const at = await scene()
    const federation = await at.here.open()
    await at.there.authority.rotation.begin()
    federation.setDomains([of(await originOf(at))])
    expect(await rootsOf(federation)).toHaveLength(1)
    expect(federation.status()[0]?.error).toMatch(/expected|certificate|signed/)
  })

  test('needs a first bundle, and says where to put it', async () => {
    const { here, there } = await scene()
    const federation = await here.open()
    federation.setDomains([of({ profile: 'https_spiffe', url: there.endpoint.url, endpointId: there.endpointId })])
    expect(await rootsOf(federation)).toBeUndefined()
    expect(federation.status()[0]?.error).toContain('no bundle of globex.example yet')
  })

  test('takes the bundle of one domain from the endpoint of another that is believed', async () => {
    const { here, there } = await scene()
    const hosted = await spiffeEndpoint(shownBy(here.authority, '/bundle', here.clock), () => there.authority.document)
    const federation = await here.open()
    const origin = { profile: 'https_spiffe', url: hosted.url, endpointId: 'spiffe://acme.example/bundle' } as const
    federation.setDomains([of(origin)])
    expect(await rootsOf(federation)).toEqual(shown(there.authority))
  })

  test('a new file of the administrator counts, the same one only once', async () => {
    const { here, there, origin, path } = await scene()
    const federation = await here.open()
    federation.setDomains([of(origin)])
    await federation.settled()
    there.give(() => ({ ...there.authority.document, roots: [], sequence: undefined }))
    await expect.poll(rootsAfter(300_000, here, federation)).toEqual([])
    expect(await rootsOf(federation)).toEqual([])
    const anew = authorityOf('globex.example', here.clock)
    await writeFile(path, formatBundle(anew.document))
    await expect.poll(rootsAfter(300_000, here, federation)).toEqual(shown(anew))
  })
})

describe('what an endpoint gives', () => {
  test('an older sequence is not taken', async () => {
    const { here, there, origin } = await scene()
    const federation = await here.open()
    federation.setDomains([of(origin)])
    const roots = await rootsOf(federation)
    const older = authorityOf('globex.example', here.clock)
    there.give(() => ({ ...older.document, sequence: 1 }))
    await here.clock.advance(360_000)
    await expect.poll(() => federation.status()[0]?.error).toContain('has the sequence 1 after')
    expect(await rootsOf(federation)).toEqual(roots)
  })

  test('an empty bundle revokes everything of the domain', async () => {
    const { here, there, origin } = await scene()
    const federation = await here.open()
    federation.setDomains([of(origin)])
    await federation.settled()
    const told: number[] = []
    federation.onChange(() => told.push(federation.bundles().get('globex.example')?.length ?? -1))
    there.give(() => ({ ...there.authority.document, roots: [] }))
    await here.clock.advance(360_000)
    await expect.poll(() => told).toEqual([0])
  })

  test('the roots of another domain are not taken for this one', async () => {
    const { here, there, origin } = await scene()
    const federation = await here.open()
    federation.setDomains([of(origin)])
    await federation.settled()
    there.give(() => ({ ...here.authority.document, sequence: undefined }))
    await here.clock.advance(360_000)
    await expect.poll(() => federation.status()[0]?.error).toContain('spiffe://acme.example')
  })
})

describe.skipIf(opensslMissing !== '')(`https_web ${opensslMissing}`, () => {
  const body = () => formatBundle(authorityOf('globex.example').document)

  test('takes a bundle when an authority of the web vouches for the host', async () => {
    const document = body()
    const web = await webEndpoint(() => ({ body: document }))
    const federation = await acme().open({ webRoots: web.roots })
    federation.setDomains([of({ profile: 'https_web', url: web.url })])
    expect(await rootsOf(federation)).toHaveLength(1)
  })

  test.each<[string, { status?: number; headers?: object; body?: string }, RegExp]>([
    ['a redirect', { status: 302, headers: { location: '/other' } }, /status 302/],
    ['an error', { status: 500 }, /status 500/],
    ['no JSON', { body: '<html>' }, /not JSON/],
    ['more than a MiB', { body: `{"keys":[],"x":"${'x'.repeat(1_100_000)}"}` }, /too long/],
  ])('takes no bundle from %s', async (_what, answer, why) => {
    const web = await webEndpoint(() => answer)
    const federation = await acme().open({ webRoots: web.roots })
    federation.setDomains([of({ profile: 'https_web', url: web.url })])
    expect(await rootsOf(federation)).toBeUndefined()
    expect(federation.status()[0]?.error).toMatch(why)
    expect(web.asked).toEqual(['/bundle'])
  })

  test.each<[string, (port: number) => string, (roots: string) => object]>([
    ['an unknown authority', (port) => `https://127.0.0.1:${port}/bundle`, () => ({})],
    ['another host name', (port) => `https://localhost:${port}/bundle`, (webRoots) => ({ webRoots })],
  ])('believes no host of %s', async (_what, urlOf, change) => {
    const document = body()
    const web = await webEndpoint(() => ({ body: document }))
    const federation = await acme().open(change(web.roots))
    federation.setDomains([of({ profile: 'https_web', url: urlOf(web.port) })])
    expect(await rootsOf(federation)).toBeUndefined()
    expect(web.asked).toEqual([])
  })
})

describe('a bundle in a file', () => {
  test('is read in both forms, again when it changes, and stays while it is broken', async () => {
    const here = acme()
    const there = authorityOf('globex.example', here.clock)
    const path = join(temporaryDir(), 'globex.pem')
    await writeFile(path, certificatesToPem(there.document.roots))
    const federation = await here.open()
    federation.setDomains([of({ profile: 'file', path })])
    expect(await rootsOf(federation)).toEqual(shown(there))
    await writeFile(path, 'broken')
    await here.clock.advance(5_000)
    await expect.poll(() => federation.status()[0]?.error).toContain('not JSON')
    expect(await rootsOf(federation)).toEqual(shown(there))
    const anew = authorityOf('globex.example', here.clock)
    await writeFile(path, formatBundle(anew.document))
    await expect.poll(rootsAfter(5_000, here, federation)).toEqual(shown(anew))
  })

  test('that is not there gives nothing', async () => {
    const federation = await acme().open()
    federation.setDomains([of({ profile: 'file', path: join(temporaryDir(), 'none.json') })])
    expect(await rootsOf(federation)).toBeUndefined()
    expect(federation.status()[0]?.error).toContain('ENOENT')
  })
})

test.each([
  ['acme', 'globex'],
  ['globex', 'acme'],
])('the policy of %s in docs/identity.md federates with %s', async (name, other) => {
  const text = await readFile(join(import.meta.dirname, '../../docs/identity.md'), 'utf8')
  const yaml = new RegExp(`\`\`\`yaml ${name}.yaml\n([^\`]*)\`\`\``).exec(text)?.[1] ?? ''
  const { policy, trustDomain } = parsePolicyFile(yaml, `${name}.yaml`)
  expect(trustDomain).toBe(`${name}.example`)
  expect(policy.rules.domains[1]).toMatchObject({
    trustDomain: `${other}.example`,
    bundle: { profile: 'https_spiffe', endpointId: `spiffe://${other}.example/server`, path: `${other}.json` },
  })
})

describe('setDomains', () => {
  test('takes a domain out at once, from the disk too, and tells it once', async () => {
    const { here, origin } = await scene()
    const federation = await here.open()
    federation.setDomains([own, of(origin)])
    await federation.settled()
    let told = 0
    federation.onChange(() => told++)
    federation.setDomains([own])
    expect([federation.bundles().size, told, federation.status()]).toEqual([0, 1, []])
    federation.setDomains([own])
    await federation.settled()
    expect([told, await readFile(here.path, 'utf8')]).toEqual([1, '{}\n'])
  })

  test('leaves a domain alone that stays as it is, and begins anew with one whose url is another', async () => {
    const { here, there, origin, path } = await scene()
    const federation = await here.open()
    federation.setDomains([of(origin)])
    await federation.settled()
    await there.authority.rotation.begin()
    federation.setDomains([of({ ...origin }), own])
    expect(await rootsOf(federation)).toHaveLength(1)
    federation.setDomains([of({ profile: 'https_web', url: there.endpoint.url }), own])
    expect(federation.bundles().size).toBe(0)
    expect(await rootsOf(federation)).toBeUndefined()
    federation.setDomains([of({ profile: 'file', path })])
    expect(await rootsOf(federation)).toHaveLength(1)
  })

  test.each<[string, readonly FederatedDomain[]]>([
    ['twice the same domain', [of({ profile: 'file', path: 'x' }), of({ profile: 'file', path: 'y' })]],
    ['a name that is none', [of({ profile: 'file', path: 'x' }, 'Globex.example')]],
    ['a foreign domain as our own', [of({ profile: 'own' })]],
    ['our own from elsewhere', [of({ profile: 'file', path: 'x' }, 'acme.example')]],
    ['plain http', [of({ profile: 'https_web', url: 'http://globex.example/' })]],
    ['a user in the url', [of({ profile: 'https_web', url: 'https://a:b@globex.example/' })]],
    ['no url', [of({ profile: 'https_web', url: 'globex.example' })]],
    ['no workload', [of({ profile: 'https_spiffe', url: 'https://x/', endpointId: 'spiffe://globex.example' })]],
    ['no SPIFFE ID', [of({ profile: 'https_spiffe', url: 'https://x/', endpointId: 'globex' })]],
  ])('refuses %s and changes nothing', async (_what, domains) => {
    const { here, origin } = await scene()
    const federation = await here.open()
    federation.setDomains([of(origin)])
    expect(reasonOf(() => federation.setDomains(domains))).toBe('USAGE')
    expect(await rootsOf(federation)).toHaveLength(1)
  })

  test('waits for no endpoint that never answers: neither when its domain goes nor at the end', async () => {
    const open = new Set<Socket>()
    const silent = createServer((socket) => {
      open.add(
        socket
          .on('close', () => open.delete(socket))
          .on('error', () => {})
          .resume(),
      )
    })
    silent.listen(0, '127.0.0.1')
    await once(silent, 'listening')
    onTestFinished(() => void silent.close())
    const { port } = silent.address() as AddressInfo
    const federation = await acme().open()
    for (const end of [async () => federation.setDomains([]), () => federation.close()]) {
      federation.setDomains([of({ profile: 'https_web', url: `https://127.0.0.1:${port}/` })])
      await expect.poll(() => open.size).toBe(1)
      await end()
      await expect.poll(() => open.size).toBe(0)
    }
    expect(federation.bundles().size).toBe(0)
  })

  test('a stored file that is damaged is fetched again', async () => {
    const { here, origin } = await scene()
    const first = await here.open()
    first.setDomains([of(origin)])
    await first.close()
    await writeFile(here.path, '{"globex.example":{"origin":1}}', { mode: 0o600 })
    const second = await here.open()
    second.setDomains([of(origin)])
    expect(await rootsOf(second)).toHaveLength(1)
  })
})
