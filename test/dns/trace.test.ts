import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { type Dns, openDns, type ScopeMode, type Trace } from '../../src/dns/dns.ts'
import { advanceUntil, askUdp, questionBytes } from '../support/dns-client.ts'
import { alias, dislikesEdns } from '../support/dns-scenarios.ts'
import { DnsUpstream, delayed, type Script, scripts } from '../support/dns-upstream.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'

const A = scripts.answering('10.0.0.1')
const B = scripts.answering('10.0.0.2')
const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

interface Lab {
  readonly dns: Dns
  readonly clock: FakeClock
  readonly owner: DnsUpstream
  readonly host: DnsUpstream
  trace(name?: string, type?: string): Promise<Trace>
}

async function lab(parts: { owner: Script; host: Script; mode?: ScopeMode; second?: Script }): Promise<Lab> {
  const clock = createFakeClock()
  const [owner, host] = [await DnsUpstream.open(parts.owner, clock), await DnsUpstream.open(parts.host, clock)]
  const second = parts.second ? [await DnsUpstream.open(parts.second, clock)] : []
  const listen = [{ address: '127.0.0.1', port: 0 }]
  const defaultUpstreams = [host, ...second].map(({ target }) => target)
  const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams })
  dns.setScopes('c1', [{ suffix: 'case.test', mode: parts.mode ?? 'fanout', upstreams: [owner.target] }])
  closers.push(() => dns.close(), ...[owner, host, ...second].map((one) => () => one.close()))
  const trace = async (name = 'db.case.test', type = 'A') =>
    (await advanceUntil(clock, dns.trace({ name, type }, new AbortController().signal))).value
  return { dns, clock, owner, host, trace }
}

const told = ({ hops }: Trace, hop = 0) =>
  hops[hop]?.contestants.map(({ side, won, said, why }) => `${side} ${won ? 'won' : 'lost'} ${said}: ${why}`)

describe('a trace', () => {
  test('names scope, mode, contestants, their answers and times, and hears the loser after the end', async () => {
    const { trace, owner } = await lab({ owner: A, host: delayed(B, 400) })
    const found = await trace('DB.case.test')
    expect(found).toMatchObject({ name: 'db.case.test', type: 'A', answeredBy: 'upstreams', inCache: false })
    expect(found.answer).toMatchObject({ rcode: 'NOERROR', answers: [{ data: '10.0.0.1', ttlSeconds: 60 }] })
    expect(found.hops).toMatchObject([{ name: 'db.case.test', scope: 'case.test', mode: 'fanout' }])
    const [first, second] = found.hops[0]?.contestants ?? []
    expect(first).toMatchObject({ server: `127.0.0.1:${owner.target.port}`, askedAfterMs: 0, sends: 1, detours: [] })
    expect(second?.reply?.answers).toMatchObject([{ data: '10.0.0.2' }])
    expect(second?.answeredAfterMs).toBeGreaterThanOrEqual(400)
    expect(told(found)).toEqual([
      'service won positive: first positive answer',
      expect.stringMatching(/^host lost positive: positive too, \d+\.\d ms after the end$/),
    ])
  })

  test.each<[string, Parameters<typeof lab>[0], readonly (string | RegExp)[]]>([
    [
      'the silent one',
      { owner: scripts.silent, host: B },
      ['service lost silent: no answer to 3 queries', 'host won positive: first positive answer'],
    ],
    [
      'what does not know',
      { owner: scripts.rcode(2), host: scripts.nxdomain },
      ['service lost failure: does not know', 'host won nxdomain: the best answer when all had spoken'],
    ],
    [
      'a "no" of lower rank',
      { owner: scripts.nxdomain, host: scripts.nodata },
      [
        'service lost nxdomain: a "no" of lower rank than the winner',
        'host won nodata: the best answer when all had spoken',
      ],
    ],
    [
      'equals',
      { owner: scripts.nxdomain, host: scripts.nxdomain },
      ['service won nxdomain: the best answer when all had spoken', 'host lost nxdomain: the same, but not the first'],
    ],
    [
      'an address that is turned down',
      { owner: scripts.answering('127.0.0.1'), host: B },
      [
        'service lost failure: turned down: it holds an address that this server may not give',
        'host won positive: first positive answer',
      ],
    ],
    [
      "the service's own no",
      { owner: scripts.nodata, host: B, mode: 'prefer-service' },
      ["service won nodata: the service's own answer, an empty one", /^host lost positive: positive too/],
    ],
    [
      "the host's no without the service",
      { owner: scripts.silent, host: scripts.nxdomain },
      [
        'service lost silent: no answer to 3 queries',
        'host lost nxdomain: not believed: no server of the scope could be asked',
      ],
    ],
    ['only one', { owner: scripts.nxdomain, host: B, mode: 'exclusive' }, ['service won nxdomain: the only one asked']],
    [
      'a resolver that was not needed',
      { owner: scripts.nxdomain, host: B, second: B },
      [
        'service lost nxdomain: a "no" of lower rank than the winner',
        'host won positive: first positive answer',
        'host lost not-asked: not asked: a resolver of this machine before it knew',
      ],
    ],
  ])('tells why: %s', async (_case, parts, expected) => {
    const { trace } = await lab(parts)
    const found = told(await trace()) ?? []
    expect(found).toHaveLength(expected.length)
    for (const [i, want] of expected.entries()) expect(found[i]).toMatch(want)
  })

  test('tells of a detour without EDNS', async () => {
    const { trace } = await lab({ owner: dislikesEdns, host: scripts.nxdomain })
    expect((await trace()).hops[0]?.contestants[0]).toMatchObject({ won: true, detours: ['without-edns'], sends: 2 })
  })

  test('shows a race per alias that leads to another scope', async () => {
    const { trace } = await lab({
      owner: (question) => (question.name.startsWith('db') ? alias(question) : A(question)),
      host: scripts.nxdomain,
    })
    const found = await trace()
    expect(found.hops.map(({ name, scope }) => `${name} ${scope}`)).toEqual([
      'db.case.test case.test',
      'target.case.test case.test',
    ])
    expect(found.answer.answers.map(({ type }) => type)).toEqual(['CNAME', 'A'])
  })

  test('asks past the cache, and says whether the cache has it', async () => {
    const { trace, dns, owner, clock } = await lab({ owner: A, host: scripts.nxdomain })
    await advanceUntil(clock, askUdp(dns.listening.port, questionBytes('db.case.test', { edns: 1232 })))
    expect((await trace()).inCache).toBe(true)
    expect(owner.asked).toHaveLength(2)
    expect(dns.flush()).toBe(1)
    expect((await trace()).inCache).toBe(false)
    expect(dns.status().scopes[0]?.figures).toMatchObject({ queries: 1, won: { service: 1, host: 0, nobody: 0 } })
  })

  test.each([
    ['localhost', 'A', 'NOERROR'],
    ['db.case.test', 'ANY', 'REFUSED'],
  ])('of %s %s is answered here', async (name, type, rcode) => {
    const { trace } = await lab({ owner: A, host: B })
    expect(await trace(name, type)).toMatchObject({ answeredBy: 'here', hops: [], answer: { rcode } })
  })

  test.each([
    ['a..b', 'A'],
    ['a.b', 'NOTYPE'],
    ['a.b', 'TYPE70000'],
  ])('of %s %s is a USAGE error', async (name, type) => {
    const { dns } = await lab({ owner: A, host: B })
    await expect(dns.trace({ name, type }, new AbortController().signal)).rejects.toMatchObject({ code: 'USAGE' })
  })

  test('ends with the reason of its signal', async () => {
    const { dns, owner } = await lab({ owner: scripts.silent, host: scripts.silent })
    const stop = new AbortController()
    const traced = dns.trace({ name: 'a.case.test', type: 'A' }, stop.signal)
    await owner.sawQuestions(1)
    stop.abort(new TypeError('enough'))
    await expect(traced).rejects.toThrow('enough')
  })
})
