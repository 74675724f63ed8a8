import { afterEach, describe, expect, test } from 'vitest'
import { formatPrefix } from '../../src/base/ip.ts'
import { silentLog } from '../../src/base/log.ts'
import { prefixOfScope } from '../../src/dns/answer-bounds.ts'
import { type Dns, openDns, type ScopeMode } from '../../src/dns/dns.ts'
import { advanceUntil, askUdp, type ClientReply, questionBytes, until } from '../support/dns-client.ts'
import { DnsUpstream, reply, type Script, scripts } from '../support/dns-upstream.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'

const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

interface Lab {
  readonly dns: Dns
  readonly clock: FakeClock
  readonly red: DnsUpstream
  readonly host: DnsUpstream
  ask(name: string, type?: 'A' | 'AAAA'): Promise<ClientReply>
}

/** A service `red` on 10.64.0.0/16 and fd64::/16, a service `green` on 10.65.0.0/16, and the host's resolver. */
async function lab(scripted: { red: Script; host: Script; green?: Script; mode?: ScopeMode }): Promise<Lab> {
  const clock = createFakeClock()
  const red = await DnsUpstream.open(scripted.red)
  const green = await DnsUpstream.open(scripted.green ?? scripts.nxdomain)
  const host = await DnsUpstream.open(scripted.host)
  const listen = [{ address: '127.0.0.1', port: 0 }]
  const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [host.target] })
  const mode = scripted.mode ?? 'fanout'
  const scopes = (upstream: DnsUpstream, suffixes: readonly string[]) =>
    suffixes.map((suffix) => ({ suffix, mode, upstreams: [upstream.target] }))
  dns.setScopes('red', scopes(red, ['red.test', '64.10.in-addr.arpa', '4.6.d.f.ip6.arpa']))
  dns.setScopes('green', scopes(green, ['green.test', '10.65.0.0/16']))
  closers.push(
    () => dns.close(),
    () => red.close(),
    () => green.close(),
    () => host.close(),
  )
  const ask = async (name: string, type: 'A' | 'AAAA' = 'A') =>
    (await advanceUntil(clock, askUdp(dns.listening.port, questionBytes(name, { type, edns: 1232 })))).value
  return { dns, clock, red, host, ask }
}

const aaaa =
  (address: string): Script =>
  (question) => [reply(question, { answers: [{ type: 'AAAA', name: question.name, ttl: 60, data: address }] })]
const aliasTo =
  (target: string): Script =>
  (question) => [reply(question, { answers: [{ type: 'CNAME', name: question.name, ttl: 60, data: target }] })]

/** The data of the last record, or the rcode with its extended error. */
function outcome({ answers, rcode, extendedError }: ClientReply): string {
  const last = answers.at(-1)
  if (last?.type === 'A' || last?.type === 'AAAA') return last.data
  return `${rcode} ${extendedError}`
}

describe("an answer of the host's resolver", () => {
  test.each([
    ['outside all tunnels', scripts.answering('192.0.2.1'), 'A', '192.0.2.1'],
    ['on this machine', scripts.answering('127.0.0.1'), 'A', '127.0.0.1'],
    ['inside a tunnel', scripts.answering('10.64.0.5'), 'A', 'SERVFAIL 15'],
    ['inside the other tunnel', scripts.answering('10.65.0.5'), 'A', 'SERVFAIL 15'],
    ['inside a tunnel over IPv6', aaaa('fd64::5'), 'AAAA', 'SERVFAIL 15'],
    ['inside a tunnel as a mapped address', aaaa('::ffff:10.64.0.5'), 'AAAA', 'SERVFAIL 15'],
  ] as const)('%s becomes what it should', async (_where, host, type, expected) => {
    const { ask } = await lab({ red: scripts.nxdomain, host })
    expect(outcome(await ask('www.public.test', type))).toBe(expected)
  })

  test('inside a tunnel does not win against the service itself', async () => {
    const { ask } = await lab({ red: scripts.answering('10.64.0.9'), host: scripts.answering('10.64.0.5') })
    expect(outcome(await ask('db.red.test'))).toBe('10.64.0.9')
  })

  test('inside a tunnel is believed again once the service has gone', async () => {
    const { ask, dns } = await lab({ red: scripts.nxdomain, host: scripts.answering('10.64.0.5') })
    expect(outcome(await ask('www.public.test'))).toBe('SERVFAIL 15')
    dns.removeOwner('red')
    expect(outcome(await ask('www.public.test'))).toBe('10.64.0.5')
  })

  test('that is an alias into a service gives no address of it', async () => {
    const { ask } = await lab({ red: scripts.answering('10.64.0.9'), host: aliasTo('db.red.test') })
    expect(outcome(await ask('www.public.test'))).toBe('SERVFAIL 15')
  })
})

describe('an answer of a service', () => {
  test.each([
    ['its own prefix', '10.64.0.9', '10.64.0.9'],
    ["another service's prefix", '10.65.0.9', 'SERVFAIL 15'],
    ['the open Internet', '192.0.2.1', 'SERVFAIL 15'],
    ['this machine', '127.0.0.1', 'SERVFAIL 15'],
  ])('in %s becomes what it should', async (_where, address, expected) => {
    const { ask } = await lab({ red: scripts.answering(address), host: scripts.rcode(5), mode: 'exclusive' })
    expect(outcome(await ask('db.red.test'))).toBe(expected)
  })

  test('outside its prefixes leaves the answer to the host', async () => {
    const { ask } = await lab({ red: scripts.answering('192.0.2.66'), host: scripts.answering('192.0.2.1') })
    expect(outcome(await ask('www.red.test'))).toBe('192.0.2.1')
  })

  test('may be an alias to a public name, whose address the host gives', async () => {
    const host: Script = (question) =>
      question.name === 'www.public.test' ? scripts.answering('192.0.2.1')(question) : scripts.nxdomain(question)
    const { ask } = await lab({ red: aliasTo('www.public.test'), host })
    expect(outcome(await ask('www.red.test'))).toBe('192.0.2.1')
  })

  test('may not be an alias to an address of another service', async () => {
    const { ask } = await lab({
      red: aliasTo('db.green.test'),
      green: scripts.answering('10.65.0.9'),
      host: scripts.nxdomain,
    })
    expect(outcome(await ask('www.red.test'))).toBe('SERVFAIL 15')
  })
})

describe('a service that goes while it is asked', () => {
  test('ends the question at once and nothing is sent to it any more', async () => {
    const { dns, red, clock } = await lab({ red: scripts.silent, host: scripts.nxdomain, mode: 'exclusive' })
    const asked = askUdp(dns.listening.port, questionBytes('db.red.test', { edns: 1232 }))
    await red.sawQuestions(1)
    dns.removeOwner('red')
    expect(outcome(await asked)).toBe('SERVFAIL 23')
    await clock.advance(5_000)
    await until(() => dns.status().upstreams.every(({ sent, replies }) => sent === replies))
    expect(red.asked).toHaveLength(1)
  })
})

test.each([
  ['10.64.0.0/16', '10.64.0.0/16'],
  ['64.10.in-addr.arpa', '10.64.0.0/16'],
  ['10.IN-ADDR.ARPA', '10.0.0.0/8'],
  ['1.0.64.10.in-addr.arpa', '10.64.0.1/32'],
  ['0.0.d.f.ip6.arpa', 'fd00::/16'],
  ['in-addr.arpa', undefined],
  ['arpa', undefined],
  ['64.10.in-addr.example', undefined],
  ['1.1.0.64.10.in-addr.arpa', undefined],
  ['256.10.in-addr.arpa', undefined],
  ['064.10.in-addr.arpa', undefined],
  ['g.d.f.ip6.arpa', undefined],
  [`${'0.'.repeat(33)}ip6.arpa`, undefined],
  ['red.test', undefined],
])('a scope %s stands for the prefix %s', (suffix, expected) => {
  const prefix = prefixOfScope(suffix)
  expect(prefix && formatPrefix(prefix)).toBe(expected)
})
