import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { noAudit } from '../../src/base/audit.ts'
import { systemClock } from '../../src/base/clock.ts'
import { NsmError, toNsmError } from '../../src/base/errors.ts'
import { createLog, silentLog } from '../../src/base/log.ts'
import { UndoStack } from '../../src/base/undo.ts'
import { serveAuditPath } from '../../src/daemon/paths.ts'
import { checkPolicy, testPolicy } from '../../src/daemon/policy-methods.ts'
import { type RunningServe, type ServeSettings, startServe } from '../../src/daemon/serve.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { openPolicy } from '../../src/daemon/serve-policy.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { formatBundle } from '../../src/identity/bundle-document.ts'
import { createCsr } from '../../src/identity/csr.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { renewIdentity } from '../../src/nsm/exchange.ts'
import { ConnectionEventType } from '../../src/nsm/generated/connection_pb.js'
import { createRegistryClient } from '../../src/registry/client.ts'
import { keyOf, wireGuardOffer } from '../endpoint/vl3-rig.ts'
import { firstRequest, TestMesh } from '../nsm/mesh.ts'
import { startIssuer } from '../support/oidc-issuer.ts'
import { type PolicyWords, policyText } from '../support/policy.ts'
import { scratchDir } from '../support/scratch.ts'

let dir: string
let path: string
const lines: string[] = []
const closers: (() => unknown)[] = []
const log = createLog({ level: 'debug', format: 'json', write: (line) => lines.push(line), wallMs: Date.now })
const { signal } = new AbortController()
const idOf = (member: string) => `spiffe://test.internal${member}`
const grant = (who: string, more: object = {}) => ({
  who: idOf(who),
  may: ['find', 'request'],
  services: ['blue'],
  ...more,
})
const both: PolicyWords = { grants: [grant('/alice'), grant('/bob')] }
const onlyBob: PolicyWords = { grants: [grant('/bob')] }

beforeEach(async () => {
  lines.length = 0
  dir = await scratchDir()
  path = join(dir, 'policy.json')
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

function settingsOf(more: Partial<ServeSettings> = {}): ServeSettings {
  const dirs = { stateDir: join(dir, 'server'), runtimeDir: join(dir, 'server', 'run') }
  const network = { service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal' }
  return {
    ...network,
    ...dirs,
    listen: '127.0.0.1:0',
    wireguardPort: 0,
    trustDomain: 'test.internal',
    policyPath: path,
    ...more,
  }
}

async function serve(words: PolicyWords, more: Partial<ServeSettings> = {}): Promise<RunningServe> {
  await writeFile(path, policyText(words))
  const running = await startServe(settingsOf(more), log, signal)
  closers.push(running.stop)
  return running
}

/** As an editor does it that replaces the file. */
async function rewrite(words: PolicyWords): Promise<void> {
  await writeFile(`${path}.new`, policyText(words))
  await rename(`${path}.new`, path)
}

/** A machine that joined by this ID, its way to the manager, and the events of its connections. */
async function member(id: string) {
  const { joinString = '' } = await inviteFromRunning(settingsOf(), { id, ttlMs: 60_000 })
  const place = { stateDir: join(dir, id), runtimeDir: join(dir, id), resolvConf: join(dir, 'resolv.conf') }
  const sessions = new Sessions({ settings: { ...place, logLevel: 'info' }, clock: systemClock, log: silentLog })
  closers.push(() => sessions.close())
  const session = await sessions.open({ joinString }, signal)
  return { session, ...managerOf(session.channel, id) }
}

function managerOf(channel: Parameters<typeof createNsmClient>[0], name: string) {
  const client = createNsmClient(channel)
  const offer = wireGuardOffer(keyOf(name))
  const connect = (service = 'blue') =>
    client.request({ ...firstRequest({ networkService: service }, name.slice(1)), mechanismPreferences: [offer] })
  const stop = new AbortController()
  closers.push(() => stop.abort())
  return {
    connect,
    refused: () => refusal(connect()),
    events: () => client.monitor({}, stop.signal)[Symbol.asyncIterator](),
  }
}

const refusal = (failing: Promise<unknown>) =>
  failing.then(
    () => undefined,
    (error: unknown) => [toNsmError(error).code, toNsmError(error).message],
  )

const notGranted = ['REFUSED', 'no sufficient privileges: NOT_GRANTED: request blue']

const left = () => lines.filter((line) => line.includes('a member left')).map((line) => JSON.parse(line).peer)
/** Two cores are shared with what is waited for. */
const often = { interval: 20 }

describe('nsm serve with a policy', () => {
  test('admits by grant, and says to everybody else what was not granted', async () => {
    await serve(both)
    const [alice, eve] = [await member('/alice'), await member('/eve')]
    expect((await alice.connect()).context?.ipContext?.srcIpAddrs).toEqual(['10.64.0.1/32'])
    expect(await eve.refused()).toEqual(notGranted)
    expect((await alice.session.registry.findServices({}, signal)).map(({ name }) => name)).toEqual(['blue'])
    expect(await eve.session.registry.findServices({}, signal)).toEqual([])
  })

  test('a grant that leaves the file ends its lease and its connection, and no other notices', async () => {
    await serve(both)
    const [alice, bob] = [await member('/alice'), await member('/bob')]
    await alice.connect()
    await bob.connect()
    const [ofAlice, ofBob] = [alice.events(), bob.events()]
    await Promise.all([ofAlice.next(), ofBob.next()])
    const nextOfBob = ofBob.next().then(({ value }) => value?.type)
    await rewrite(onlyBob)
    await expect.poll(left, often).toEqual([idOf('/alice')])
    await expect(drain(ofAlice)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(await alice.refused()).toEqual(notGranted)
    await bob.connect()
    expect(await nextOfBob).toBe(ConnectionEventType.UPDATE)
    await rewrite(both)
    await expect.poll(() => alice.refused(), often).toBeUndefined()
  })

  test('a policy that changes all the time disturbs nobody whom each of them admits', async () => {
    const running = await serve(both)
    const [alice, bob] = [await member('/alice'), await member('/bob')]
    const refusals = { alice: new Set<string>(), bob: new Set<string>() }
    // A bounded number: each is a connection of its own, and an identity has a limit of them.
    const ask = async (who: typeof alice, seen: Set<string>) => {
      for (let asked = 0; asked < 40; asked++) {
        const [code, message] = (await who.refused()) ?? []
        if (code !== undefined) seen.add(message?.includes('NOT_GRANTED') ? 'NOT_GRANTED' : code)
      }
    }
    for (let round = 0; round < 10; round++) {
      const asking = Promise.all([ask(alice, refusals.alice), ask(bob, refusals.bob)])
      await rewrite(round % 2 === 0 ? onlyBob : both)
      await running.reload()
      await asking
    }
    expect([...refusals.bob]).toEqual([])
    expect([...refusals.alice].filter((code) => !['NOT_GRANTED', 'UNREACHABLE'].includes(code))).toEqual([])
    expect(refusals.alice).toContain('NOT_GRANTED')
  })

  test('the audit ties a connection to the grant that let it in, and a refusal to the line that did not', async () => {
    const denies = [{ who: idOf('/eve'), reason: 'left the company' }]
    const running = await serve(both)
    const [alice, eve] = [await member('/alice'), await member('/eve')]
    await alice.connect()
    await rewrite({ ...both, denies })
    await running.reload()
    await expect.poll(() => eve.refused()).toEqual(notGranted)
    await running.stop()
    const events = (await readFile(serveAuditPath(settingsOf()), 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    const of = (name: string) => events.filter(({ event }) => event === name)
    expect(of('policy.reload')).toMatchObject([
      { grants: 2, denies: 0 },
      { grants: 2, denies: 1, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) },
    ])
    expect(of('conn.up')).toMatchObject([
      { id: idOf('/alice'), grant: 'grant-0', service: 'blue', address: '10.64.0.1/32' },
    ])
    expect(of('grant.deny').slice(0, 1)).toMatchObject([
      { id: idOf('/eve'), reason: 'DENIED', action: 'request', service: 'blue', line: expect.any(Number) },
    ])
  })

  test('leases of a former run are not brought back for whom the policy no longer admits', async () => {
    const first = await serve(both)
    const alice = await member('/alice')
    await alice.connect()
    await first.stop()
    lines.length = 0
    await serve(onlyBob)
    expect(lines.filter((line) => line.includes('was dropped')).map((line) => JSON.parse(line).peer)).toEqual([
      idOf('/alice'),
    ])
  })

  test('a bad file changes nothing and is told, until it is good again', async () => {
    await serve(both)
    const alice = await member('/alice')
    await alice.connect()
    await writeFile(path, policyText(onlyBob).replace('deny', 'allow'))
    const state = () => checkPolicy(settingsOf())
    await expect.poll(async () => (await state()).error, often).toMatch(/policy\.json line \d+: admission\.default/)
    expect((await state()).grants).toBe(2)
    expect(await alice.refused()).toBeUndefined()
    await rewrite(onlyBob)
    await expect.poll(state, often).toMatchObject({ grants: 1 })
    expect(await state()).not.toHaveProperty('error')
    await expect.poll(left, often).toEqual([idOf('/alice')])
  })

  test('a file that is gone changes nothing', async () => {
    await serve(both)
    const alice = await member('/alice')
    await rename(path, `${path}.away`)
    await expect.poll(async () => (await checkPolicy(settingsOf())).error, often).toMatch('cannot be read')
    expect(await alice.refused()).toBeUndefined()
  })

  test('reload reads the file at once', async () => {
    const running = await serve(both)
    await rewrite(onlyBob)
    await running.reload()
    expect(await checkPolicy(settingsOf())).toMatchObject({ grants: 1 })
  })

  test('a denied identity gets no further certificate, one without a grant does', async () => {
    const running = await serve(both)
    const [alice, eve] = [await member('/alice'), await member('/eve')]
    const renew = (who: typeof alice) =>
      refusal(renewIdentity(who.session.channel, { csr: createCsr(generateKey()), trustDomain: 'test.internal' }))
    expect(await renew(eve)).toBeUndefined()
    await rewrite({ ...both, denies: [{ who: idOf('/alice'), reason: 'stolen' }] })
    await running.reload()
    await expect.poll(async () => (await renew(alice))?.[1]).toContain('DENIED')
    expect(await alice.refused()).toEqual(notGranted)
  })

  test('a domain that leaves the file takes its workloads along while they are connected', async () => {
    const globex = new TestMesh('globex.example')
    closers.push(() => globex.close())
    const roots = globex.authority.bundles.get('globex.example') ?? []
    const document = { roots, jwtKeys: [], sequence: 1, refreshHintMs: 300_000 }
    await writeFile(join(dir, 'globex.json'), formatBundle(document))
    const domains = [{ td: 'globex.example', bundle: { profile: 'file', path: 'globex.json' } }]
    const theirs = { who: 'spiffe://globex.example/gw', may: ['find', 'request'], services: ['blue'] }
    const words = { domains, grants: [...(both.grants ?? []), theirs] }
    const { info } = await serve(words)
    const bob = await member('/bob')
    await bob.connect()
    const ours = bob.session.source.current().bundles.get('test.internal') ?? []
    const workload = (id: string) => {
      const state = globex.issue(id)
      const source = createFixedSource({ ...state, bundles: new Map([...state.bundles, ['test.internal', ours]]) })
      const channel = openChannel({ target: { address: '127.0.0.1', port: info.port }, source, clock: systemClock })
      closers.push(() => channel.close())
      return { channel, ...managerOf(channel, id) }
    }
    const gateway = workload('/gw')
    await expect.poll(() => gateway.refused(), often).toBeUndefined()
    expect(await workload('/other').refused()).toEqual([
      'REFUSED',
      'no sufficient privileges: NOT_GRANTED: request blue',
    ])
    expect((await createRegistryClient(gateway.channel).findServices({})).map(({ name }) => name)).toEqual(['blue'])
    const events = gateway.events()
    await events.next()
    await rewrite({ grants: words.grants })
    await expect.poll(left, often).toEqual(['spiffe://globex.example/gw'])
    await expect(drain(events)).rejects.toMatchObject({ code: expect.stringMatching('UNREACHABLE|IDENTITY') })
    expect(await bob.refused()).toBeUndefined()
  })

  test('a policy is in force although somebody could not end what it does not admit, and says so', async () => {
    await writeFile(path, policyText(both))
    const undo = new UndoStack(log)
    closers.push(() => undo.run())
    const federation = { setDomains() {} }
    const around = { log, audit: noAudit, undo, own: idOf('/server'), trustDomain: 'test.internal', clock: systemClock }
    const policy = await openPolicy({ policyPath: path }, { ...around, federation, oidc: { setIssuers() {} } })
    policy.admission.onChange(() => {
      throw new NsmError('BUG', 'the disk is full', 'make room')
    })
    await writeFile(path, policyText(onlyBob))
    await policy.reload()
    expect(policy.state()).toMatchObject({ grants: 1 })
    expect(policy.state()).not.toHaveProperty('error')
    expect(policy.admission.isAdmitted(idOf('/alice'))).toBe(false)
    expect(lines.join()).toContain('the disk is full')
    expect(lines.join()).not.toContain('the one before stays')
  })

  test('issuers of the policy file come and go with it', async () => {
    const issuer = await startIssuer()
    closers.push(() => issuer.close())
    const rule = (repository: string) => ({
      name: 'ci',
      match: { repository_id: repository },
      id: '/ci/{repository_id}',
    })
    const withIssuer = (repository: string) =>
      policyText(both).replace(
        '{',
        `{ "issuers": ${JSON.stringify([{ name: 'ci', issuer: issuer.url, rules: [rule(repository)] }])},`,
      )
    await writeFile(path, withIssuer('5678'))
    const running = await startServe(settingsOf(), log, signal)
    closers.push(running.stop)
    const join = async (name: string, repository: string) => {
      const place = { stateDir: `${dir}/${name}`, runtimeDir: `${dir}/${name}`, resolvConf: `${dir}/resolv.conf` }
      const sessions = new Sessions({ settings: { ...place, logLevel: 'info' }, clock: systemClock, log: silentLog })
      closers.push(() => sessions.close())
      const idToken = await issuer.token({ repository_id: repository })
      return sessions.open({ joinString: running.openJoinString ?? '', idToken }, signal)
    }
    expect((await join('one', '5678')).source.current().svid.spiffeId).toBe(idOf('/ci/5678'))
    expect((await refusal(join('two', '1')))?.[1]).toContain('NO_RULE')
    await writeFile(path, withIssuer('1'))
    await running.reload()
    expect((await join('three', '1')).source.current().svid.spiffeId).toBe(idOf('/ci/1'))
    expect((await refusal(join('four', '5678')))?.[1]).toContain('NO_RULE')
    await writeFile(path, policyText(both))
    await running.reload()
    expect((await refusal(join('five', '1')))?.[1]).toContain('ISSUER_UNKNOWN')
  })

  test('answers nsm policy test with the line that decides, and for its own servers', async () => {
    await serve({ ...both, denies: [{ who: idOf('/mallory'), reason: 'x' }] })
    const ask = (id: string, action = 'request') => testPolicy(settingsOf(), { id: idOf(id), action, service: 'blue' })
    expect(await ask('/alice')).toMatchObject({ isGranted: true, grant: 'grant-0', path, line: expect.any(Number) })
    expect(await ask('/mallory')).toMatchObject({ isGranted: false, reason: 'DENIED', line: expect.any(Number) })
    expect(await ask('/eve')).toMatchObject({ isGranted: false, reason: 'NOT_GRANTED' })
    expect(await ask('/server', 'relay')).toMatchObject({ isGranted: true })
    await expect(ask('/alice', 'everything')).rejects.toMatchObject({ code: 'USAGE' })
    const file = await testPolicy(settingsOf(), { id: idOf('/alice'), action: 'find', path })
    expect(file).toMatchObject({ isGranted: true, grant: 'grant-0' })
    expect(await checkPolicy(settingsOf(), path)).toMatchObject({ domains: 1, grants: 2, denies: 1 })
  })

  test.each([
    ['of another trust domain', { td: 'other.example' }, {}, 'this server is of test.internal'],
    ['beside --relay', {}, { relays: ['spiffe://a.example/b'] }, 'relays are named in one way'],
  ])('refuses a policy %s at start', async (_what, words, more, message) => {
    await writeFile(path, policyText(words))
    await expect(startServe(settingsOf(more), log, signal)).rejects.toMatchObject({
      code: 'USAGE',
      message: expect.stringContaining(message),
    })
  })

  test('refuses a policy that is not there at start, and none is asked of a server without one', async () => {
    await expect(startServe(settingsOf(), log, signal)).rejects.toMatchObject({ code: 'USAGE' })
    const { policyPath: _, ...plain } = settingsOf()
    closers.push((await startServe(plain, log, signal)).stop)
    await expect(checkPolicy(settingsOf())).rejects.toMatchObject({ code: 'USAGE' })
  })
})

/** Reads on until the stream ends. */
async function drain(events: AsyncIterator<unknown>): Promise<void> {
  while (!(await events.next()).done);
}
