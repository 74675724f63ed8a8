import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { createLocalJWKSet, jwtVerify } from 'jose'
import { afterEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { Applications } from '../../src/daemon/applications.ts'
import { type RunningServe, type ServeSettings, startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { bundleOfRunning } from '../../src/daemon/serve-ca.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import type { JwtSource, TokenSource } from '../../src/nsm/workload-jwt.ts'
import { scratchDir } from '../support/scratch.ts'

/* Servers with their own authority, sites and federated domains as they are started, members as a background process has
 * them, and applications at its socket. */

const { signal } = new AbortController()
const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

class Company {
  readonly dir: string
  readonly domain: string
  running: RunningServe | undefined

  constructor(dir: string, domain: string) {
    this.dir = dir
    this.domain = domain
  }

  settings(site = 'one'): ServeSettings {
    const stateDir = join(this.dir, this.domain, site)
    return {
      ...{ service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal', trustDomain: this.domain },
      ...{ listen: '127.0.0.1:0', wireguardPort: 0, stateDir, runtimeDir: join(stateDir, 'run') },
    }
  }

  async serve(site = 'one', more: Partial<ServeSettings> = {}): Promise<RunningServe> {
    const running = await startServe({ ...this.settings(site), ...more }, silentLog, signal)
    closers.push(() => running.stop())
    this.running = running
    return running
  }

  invite(more: { readonly id?: string; readonly endpoint?: boolean } = {}, site = 'one') {
    return inviteFromRunning(this.settings(site), { ttlMs: 60_000, ...more })
  }

  /** Who joined, by its machine's background process. */
  async member(id: string, site = 'one'): Promise<TokenSource> {
    const stateDir = await scratchDir()
    const settings = { stateDir, runtimeDir: join(stateDir, 'run'), logLevel: 'info' as const, resolvConf: '/nowhere' }
    const sessions = new Sessions({ settings, clock: systemClock, log: silentLog })
    closers.push(() => sessions.close())
    const { joinString } = await this.invite({ id }, site)
    return (await sessions.open({ joinString }, signal)).source
  }

  get policyPath(): string {
    return join(this.dir, `${this.domain}.yaml`)
  }

  /** The policy: grants for these IDs, and other domains by the file of their bundle. */
  async allow(who: readonly string[], others: readonly Company[] = []): Promise<void> {
    const domains = others.map(({ domain }) => ({ td: domain, bundle: { profile: 'file', path: `${domain}.json` } }))
    const grants = who.map((id, i) => ({ name: `g${i}`, who: id, may: ['find', 'request'], services: ['blue'] }))
    const admission = { default: 'deny', domains: [{ td: this.domain, bundle: 'own' }, ...domains], grants }
    await writeFile(this.policyPath, JSON.stringify({ admission }))
    await this.running?.reload()
  }

  async publish(): Promise<void> {
    await writeFile(join(this.dir, `${this.domain}.json`), await bundleOfRunning(this.settings()))
  }
}

const tokensOf = ({ jwt }: TokenSource): JwtSource => {
  if (!jwt) throw new Error('it has no tokens')
  return jwt
}
const tokenOf = async (source: TokenSource, audience: string) => {
  const { svids } = await tokensOf(source).fetch({ audience: [audience], spiffeId: '' }, signal)
  return svids[0]?.svid ?? ''
}
const judge = (source: TokenSource, svid: string, audience = 'web') =>
  tokensOf(source)
    .validate({ audience, svid }, signal)
    .then(
      ({ spiffeId }) => spiffeId,
      ({ code }) => code,
    )

describe('JWT-SVIDs of nsm serve', () => {
  test('come to a member of a further site by way of it, and are believed at every site', async () => {
    const company = new Company(await scratchDir(), 'a.test')
    await company.serve()
    const { joinString } = await company.invite({ endpoint: true })
    await company.serve('two', { joinString: joinString ?? '', site: 'two' })
    const [near, far] = [await company.member('/near'), await company.member('/far', 'two')]
    expect(await judge(near, await tokenOf(far, 'web'))).toBe('spiffe://a.test/far')
    expect(await judge(far, await tokenOf(near, 'web'))).toBe('spiffe://a.test/near')
    expect(await judge(far, await tokenOf(far, 'db'))).toBe('USAGE')
  })

  test('are given by what the policy says at the moment', async () => {
    const company = new Company(await scratchDir(), 'a.test')
    const [anna, bob] = ['spiffe://a.test/anna', 'spiffe://a.test/bob']
    await company.allow([anna, bob])
    await company.serve('one', { policyPath: company.policyPath })
    const [source, other] = [await company.member('/anna'), await company.member('/bob')]
    expect(await judge(other, await tokenOf(source, 'web'))).toBe(anna)
    await company.allow([anna])
    // Whoever lost its last grant loses its connection first.
    const asked = () => tokenOf(other, 'web').catch(({ code, message }) => `${code} ${message}`)
    await expect.poll(asked).toMatch(/^PERMISSION .*NOT_GRANTED$/)
    expect(await judge(source, await tokenOf(source, 'db'), 'db')).toBe(anna)
  })

  test('are believed by another company that federates, and no longer once its line is deleted', async () => {
    const dir = await scratchDir()
    const [acme, globex] = [new Company(dir, 'acme.test'), new Company(dir, 'globex.test')]
    for (const one of [acme, globex]) {
      await one.allow([`spiffe://${one.domain}/**`])
      await one.serve('one', { policyPath: one.policyPath })
      await one.publish()
    }
    const [alice, gus] = [await acme.member('/alice'), await globex.member('/gus')]
    const token = await tokenOf(alice, 'web')
    expect(await judge(gus, token)).toBe('USAGE')
    await globex.allow([`spiffe://${globex.domain}/**`], [acme])
    await expect.poll(() => judge(gus, token)).toBe('spiffe://acme.test/alice')
    await globex.allow([`spiffe://${globex.domain}/**`])
    await expect.poll(() => judge(gus, token)).toBe('USAGE')
  })
})

describe('applications that know the Workload API alone', () => {
  const atSocket = async (source: TokenSource) => {
    const path = join(await scratchDir(), 'workload.sock')
    const applications = new Applications({ path, sources: () => [source], clock: systemClock, log: silentLog })
    closers.push(() => applications.close())
    await applications.follow()
    const workload = await openWorkloadApi({ socket: `unix://${path}`, clock: systemClock, log: silentLog })
    closers.push(() => workload.close())
    return tokensOf(workload)
  }

  /** A web server that believes whom the keys at its socket vouch for, and says who came. */
  const webServer = async (jwt: JwtSource, domain: string) => {
    let text = ''
    for await (const { bundles } of jwt.bundles(signal)) {
      text = Buffer.from(bundles[`spiffe://${domain}`] ?? []).toString()
      break
    }
    const keys = createLocalJWKSet(JSON.parse(text))
    const server = createServer((request, response) => {
      const token = request.headers.authorization?.replace(/^Bearer /, '') ?? ''
      jwtVerify(token, keys, { audience: 'web', algorithms: ['ES256'] }).then(
        ({ payload }) => response.end(payload.sub),
        () => response.writeHead(401).end(),
      )
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    closers.push(async () => void server.close())
    const { port } = server.address() as AddressInfo
    return async (token: string) => {
      const answer = await fetch(`http://127.0.0.1:${port}/`, { headers: { authorization: `Bearer ${token}` } })
      return answer.ok ? answer.text() : answer.status
    }
  }

  test('show each other who they are, and nobody else may', async () => {
    const company = new Company(await scratchDir(), 'a.test')
    await company.serve()
    const [client, server] = [
      await atSocket(await company.member('/client')),
      await atSocket(await company.member('/web')),
    ]
    const call = await webServer(server, 'a.test')
    const spiffeId = 'spiffe://a.test/client'
    const { svids } = await client.fetch({ audience: ['web'], spiffeId }, signal)
    expect(svids).toMatchObject([{ spiffeId }])
    expect(await call(svids[0]?.svid ?? '')).toBe(spiffeId)
    const other = await client.fetch({ audience: ['other'], spiffeId }, signal)
    expect(await call(other.svids[0]?.svid ?? '')).toBe(401)
    const stranger = new Company(await scratchDir(), 'a.test')
    await stranger.serve()
    const same = await atSocket(await stranger.member('/client'))
    const forged = await same.fetch({ audience: ['web'], spiffeId }, signal)
    expect(await call(forged.svids[0]?.svid ?? '')).toBe(401)
  })

  test('are told by the status what is wrong with what they ask', async () => {
    const company = new Company(await scratchDir(), 'a.test')
    await company.serve()
    const jwt = await atSocket(await company.member('/app'))
    const ask = (audience: string[], spiffeId = '') =>
      jwt.fetch({ audience, spiffeId }, signal).then(
        () => 'given',
        ({ code }) => code,
      )
    expect(await ask([])).toBe('USAGE')
    expect(await ask([''])).toBe('USAGE')
    expect(await ask(['web'], 'spiffe://a.test/other')).toBe('PERMISSION')
    expect(await ask(['web'], 'spiffe://b.test/app')).toBe('PERMISSION')
    expect(await ask(['web'])).toBe('given')
    await expect(jwt.validate({ audience: '', svid: 'a.b.c' }, signal)).rejects.toMatchObject({ code: 'USAGE' })
  })
})
