import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import { createLog, silentLog } from '../../src/base/log.ts'
import { type Dns, openDns } from '../../src/dns/dns.ts'
import { advanceUntil, askUdp, type ClientReply, questionBytes, until } from '../support/dns-client.ts'
import { outcomeOf } from '../support/dns-scenarios.ts'
import { DnsUpstream, delayed, scripts } from '../support/dns-upstream.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'

const listen = [{ address: '127.0.0.1', port: 0 }]
const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

async function lab(
  clock: FakeClock = createFakeClock(),
): Promise<{ dns: Dns; clock: FakeClock; first: DnsUpstream; second: DnsUpstream }> {
  const [first, second] = [
    await DnsUpstream.open(delayed(scripts.answering('10.0.0.1'), 200), clock),
    await DnsUpstream.open(scripts.answering('10.0.0.2'), clock),
  ]
  const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [] })
  closers.push(
    () => dns.close(),
    () => first.close(),
    () => second.close(),
  )
  return { dns, clock, first, second }
}

const scope = (upstream: DnsUpstream) => [
  { suffix: 'case.test', mode: 'exclusive' as const, upstreams: [upstream.target] },
]
const ask = (dns: Dns, name: string): Promise<ClientReply> => askUdp(dns.listening.port, questionBytes(name))

describe('changed settings', () => {
  test('let the servers of before answer what they were asked, and send the next question to the new ones', async () => {
    const { dns, clock, first, second } = await lab()
    dns.setScopes('c1', scope(first))
    const before = ask(dns, 'a.case.test')
    await first.sawQuestions(1)
    dns.setScopes('c1', scope(second))
    const after = ask(dns, 'b.case.test')
    expect(outcomeOf(await after)).toBe('10.0.0.2')
    expect(outcomeOf((await advanceUntil(clock, before)).value)).toBe('10.0.0.1')
    expect([first.asked.length, second.asked.length]).toEqual([1, 1])
  })

  test('do not bring back a reply that was asked of the servers of before', async () => {
    const { dns, clock, first, second } = await lab()
    dns.setScopes('c1', scope(first))
    const before = ask(dns, 'a.case.test')
    await first.sawQuestions(1)
    dns.setScopes('c1', scope(second))
    await advanceUntil(clock, before)
    expect(outcomeOf(await ask(dns, 'a.case.test'))).toBe('10.0.0.2')
  })

  test('end the wait for a silent server of before when it would be asked again', async () => {
    const { dns, clock, first, second } = await lab()
    first.script = scripts.silent
    dns.setScopes('c1', scope(first))
    const before = ask(dns, 'a.case.test')
    await first.sawQuestions(1)
    dns.setScopes('c1', scope(second))
    const { value, elapsedMs } = await advanceUntil(clock, before)
    expect(outcomeOf(value)).toBe('SERVFAIL')
    expect(elapsedMs).toBeLessThanOrEqual(1_100)
    expect(first.asked).toHaveLength(1)
  })
})

test('more than 1,024 scopes of all owners together are a USAGE error and change nothing', async () => {
  const { dns, first } = await lab()
  const upstreams = [first.target]
  const scopes = Array.from({ length: 1_000 }, (_, i) => ({ suffix: `a${i}.test`, mode: 'fanout' as const, upstreams }))
  dns.setScopes('c1', scopes)
  expect(() => dns.setScopes('c2', scopes.slice(0, 25))).toThrow('1025 scopes')
  expect(dns.status().scopes).toHaveLength(1_000)
  dns.setScopes('c1', scopes.slice(0, 999))
  expect(dns.status().scopes).toHaveLength(999)
})

test('the scope of the root takes every name but those of longer scopes, and keeps figures of its own', async () => {
  const { dns, first, second, clock } = await lab()
  dns.setScopes('c1', [{ suffix: '.', mode: 'exclusive', upstreams: [second.target] }, ...scope(first)])
  expect(outcomeOf(await ask(dns, 'anything.example'))).toBe('10.0.0.2')
  expect(outcomeOf((await advanceUntil(clock, ask(dns, 'a.case.test'))).value)).toBe('10.0.0.1')
  const { scopes, others } = dns.status()
  expect(scopes.map(({ suffix, figures }) => [suffix, figures.queries])).toEqual([
    ['.', 1],
    ['case.test', 1],
  ])
  expect(others.figures.queries).toBe(0)
})

test('other resolvers of the host make every server as unknown as at the start', async () => {
  const { dns, clock, first, second } = await lab()
  dns.setScopes('c1', scope(first))
  await advanceUntil(clock, ask(dns, 'a.case.test'))
  expect(dns.status().upstreams[0]?.roundTripMs).toBeGreaterThan(100)
  dns.setDefaultUpstreams([second.target])
  expect(dns.status().upstreams[0]?.roundTripMs).toBe(100)
})

test('a scope keeps its figures through changes and loses them with the scope', async () => {
  const { dns, first, second, clock } = await lab()
  dns.setScopes('c1', scope(first))
  await advanceUntil(clock, ask(dns, 'a.case.test'))
  dns.setScopes('c1', scope(second))
  await ask(dns, 'a.case.test')
  await ask(dns, 'a.case.test')
  const [found] = dns.status().scopes
  expect(found?.figures).toMatchObject({ queries: 3, cacheHits: 1, won: { service: 2 } })
  expect(found?.hostServers).toEqual([])
  dns.setScopes('c1', [])
  dns.setScopes('c1', scope(second))
  expect(dns.status().scopes[0]?.figures).toMatchObject({ queries: 0, won: { service: 0 } })
})

test("a scope's server that asks us back is found by the probe and left out", async () => {
  const lines: string[] = []
  const log = createLog({ level: 'warn', format: 'text', write: (line) => lines.push(line), wallMs: () => 0 })
  const dns = await openDns({ clock: createFakeClock(), log, listen, defaultUpstreams: [] })
  const mirror = createSocket('udp4')
  mirror.bind(0, '127.0.0.1')
  await once(mirror, 'listening')
  mirror.on('message', (message) => mirror.send(message, dns.listening.port, '127.0.0.1'))
  dns.setScopes('c1', [
    { suffix: 'case.test', mode: 'fanout', upstreams: [{ address: '127.0.0.1', port: mirror.address().port }] },
  ])
  await until(() => dns.status().scopes[0]?.servers.length === 0)
  expect(lines.join()).toContain('leads back')
  expect((await ask(dns, 'a.case.test')).rcode).toBe('REFUSED')
  expect(dns.status().counters.drops).toMatchObject({ probe: 1, 'no-server': 1 })
  mirror.close()
  await dns.close()
})

describe('a question that is refused', () => {
  const raw = (change: (bytes: Buffer) => void) => {
    const bytes = Buffer.concat([questionBytes('a.case.test')])
    change(bytes)
    return bytes
  }
  const tsig = (() => {
    const bytes = Buffer.concat([questionBytes('a.case.test'), Buffer.from('016b0000fa00ff00000000000200ff', 'hex')])
    bytes.writeUInt16BE(1, 10)
    return bytes
  })()

  test.each<[string, Buffer, string]>([
    ['class', raw((bytes) => bytes.writeUInt16BE(3, bytes.length - 2)), 'REFUSED'],
    ['meta-type', raw((bytes) => bytes.writeUInt16BE(255, bytes.length - 4)), 'REFUSED'],
    ['signed', tsig, 'REFUSED'],
    ['opcode', raw((bytes) => bytes.writeUInt16BE(0x2900, 2)), 'NOTIMP'],
    ['malformed', raw((bytes) => bytes.writeUInt16BE(2, 4)), 'FORMERR'],
    ['no-server', questionBytes('other.example'), 'REFUSED'],
  ])('is counted as %s', async (why, bytes, rcode) => {
    const { dns, first } = await lab()
    dns.setScopes('c1', scope(first))
    expect((await askUdp(dns.listening.port, bytes)).rcode).toBe(rcode)
    const drops = Object.entries(dns.status().counters.drops).filter(([, count]) => count > 0)
    expect(drops).toEqual([[why, 1]])
    expect(first.asked).toEqual([])
  })
})

test('a "no" while a server was silent lives 5 s at the client too', async () => {
  const { dns, clock, first, second } = await lab()
  first.script = scripts.nxdomain
  second.script = scripts.silent
  dns.setScopes('c1', [{ suffix: 'case.test', mode: 'fanout', upstreams: [first.target, second.target] }])
  const { value } = await advanceUntil(clock, ask(dns, 'a.case.test'))
  expect(value).toMatchObject({ rcode: 'NXDOMAIN', authorities: [{ type: 'SOA', ttl: 5 }] })
})
