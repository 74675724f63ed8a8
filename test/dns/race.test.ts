import packet from 'dns-packet'
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { type Dns, openDns, type ScopeMode } from '../../src/dns/dns.ts'
import { advanceUntil, askUdp, type ClientReply, questionBytes, until } from '../support/dns-client.ts'
import {
  ownersAddress as A,
  alias,
  hostsAddress as B,
  dislikesEdns,
  outcomeOf,
  scenarios,
  truncatedAlways,
} from '../support/dns-scenarios.ts'
import { DnsUpstream, reply, type Script, scripts } from '../support/dns-upstream.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'

const name = 'www.case.test'

interface Lab {
  readonly clock: FakeClock
  readonly dns: Dns
  readonly owner: DnsUpstream
  readonly host: DnsUpstream
  ask(question?: Buffer): Promise<{ value: ClientReply; elapsedMs: number }>
}

const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

async function lab(owner: Script, host: Script, mode: ScopeMode = 'fanout'): Promise<Lab> {
  const clock = createFakeClock()
  const [ownerServer, hostServer] = [await DnsUpstream.open(owner, clock), await DnsUpstream.open(host, clock)]
  const listen = [{ address: '127.0.0.1', port: 0 }]
  const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [hostServer.target] })
  dns.setScopes('c1', [{ suffix: 'case.test', mode, upstreams: [ownerServer.target] }])
  closers.push(
    () => dns.close(),
    () => ownerServer.close(),
    () => hostServer.close(),
  )
  const ask = (question = questionBytes(name, { edns: 1232 })) =>
    advanceUntil(clock, askUdp(dns.listening.port, question))
  return { clock, dns, owner: ownerServer, host: hostServer, ask }
}

const positiveB = scripts.answering(B)
const silent = scripts.silent

describe('a question under a scope', () => {
  test.each(scenarios)('$mode: owner / host $title', async ({ owner, host, ours, mode }) => {
    const { ask, host: hostServer } = await lab(owner, host, mode)
    const { value, elapsedMs } = await ask()
    expect(outcomeOf(value)).toBe(ours)
    expect(value.id).toBe(4711)
    expect(elapsedMs).toBeLessThanOrEqual(4_600)
    if (mode === 'exclusive') expect(hostServer.asked).toEqual([])
  })

  test('NXDOMAIN with a silent server comes after the grace, not after the deadline', async () => {
    const { ask } = await lab(scripts.nxdomain, silent)
    const { elapsedMs } = await ask()
    expect(elapsedMs).toBeGreaterThanOrEqual(250)
    expect(elapsedMs).toBeLessThanOrEqual(500)
  })

  test('silence everywhere ends as SERVFAIL with an extended error at the deadline, after three sends each', async () => {
    const { ask, owner, host } = await lab(silent, silent)
    const { value, elapsedMs } = await ask()
    expect(outcomeOf(value)).toBe('SERVFAIL')
    expect(value.extendedError).toBe(22)
    expect(elapsedMs).toBeLessThanOrEqual(4_600)
    expect([owner.asked.length, host.asked.length]).toEqual([3, 3])
    expect(new Set(owner.asked.map(({ raw }) => raw.readUInt16BE(0))).size).toBe(3)
  })

  test('prefer-service gives the host answer after the hold when the owner is silent', async () => {
    const { ask } = await lab(silent, positiveB, 'prefer-service')
    const { elapsedMs } = await ask()
    expect(elapsedMs).toBeGreaterThanOrEqual(300)
    expect(elapsedMs).toBeLessThanOrEqual(450)
  })

  test('a truncated reply whose whole form cannot be had becomes TC for the client', async () => {
    const { ask } = await lab(truncatedAlways, scripts.nxdomain)
    const { value } = await ask()
    expect(value.flags & 0x0200).toBe(0x0200)
    expect(value.answers).toEqual([])
  })

  test('an upstream that failed on EDNS is asked without it from then on', async () => {
    const { ask, owner } = await lab(dislikesEdns, scripts.nxdomain)
    await ask()
    await ask(questionBytes('second.case.test'))
    expect(owner.asked.map(({ hasOpt }) => hasOpt)).toEqual([true, false, false])
  })

  test('an owner that refuses connections is unreachable at once', async () => {
    const { ask, owner } = await lab(silent, scripts.nxdomain)
    await owner.close()
    const { value, elapsedMs } = await ask()
    expect(outcomeOf(value)).toBe('SERVFAIL')
    expect(elapsedMs).toBeLessThanOrEqual(400)
  })

  test('an owner silent for three questions is suspect and not waited for', async () => {
    const { ask, dns } = await lab(scripts.nxdomain, silent)
    for (const label of ['a', 'b', 'c', 'd']) await ask(questionBytes(`${label}.case.test`))
    expect(dns.status().upstreams.map(({ suspect }) => suspect)).toContain(true)
    const { elapsedMs } = await ask(questionBytes('e.case.test'))
    expect(elapsedMs).toBeLessThanOrEqual(100)
  })
})

describe('an alias without its end', () => {
  test('is completed under the scope of its target', async () => {
    const owner: Script = (question) => {
      if (question.name === 'target.case.test') return scripts.answering(A, 30)(question)
      return alias(question)
    }
    const { ask } = await lab(owner, scripts.nxdomain)
    const { value } = await ask()
    expect(value.answers.map(({ type, name: of }) => `${type} ${of}`)).toEqual([`CNAME ${name}`, 'A target.case.test'])
    expect(outcomeOf(value)).toBe(A)
  })

  test('that leaves the scope is asked of the host, never of the owner', async () => {
    const owner: Script = (question) => [
      reply(question, { answers: [{ type: 'CNAME', name: question.name, ttl: 60, data: 'public.example' }] }),
    ]
    const { ask, owner: server, host } = await lab(owner, positiveB, 'exclusive')
    const { value } = await ask()
    expect(outcomeOf(value)).toBe(B)
    expect(server.asked.map((question) => question.name)).toEqual([name])
    expect(host.asked.map((question) => question.name)).toEqual(['public.example'])
  })

  test('whose target does not exist becomes NXDOMAIN with the chain', async () => {
    const owner: Script = (question) => (question.name === name ? alias(question) : scripts.nxdomain(question))
    const { ask } = await lab(owner, scripts.nxdomain, 'exclusive')
    const { value } = await ask()
    expect([value.rcode, value.answers.length, value.authorities.length]).toEqual(['NXDOMAIN', 1, 1])
  })

  test('that runs in a circle ends as SERVFAIL after eight hops', async () => {
    const owner: Script = (question) => {
      const data = question.name === name ? 'target.case.test' : name
      return [reply(question, { answers: [{ type: 'CNAME', name: question.name, ttl: 60, data }] })]
    }
    const { ask, owner: server } = await lab(owner, scripts.nxdomain, 'exclusive')
    const { value } = await ask()
    expect(value.rcode).toBe('SERVFAIL')
    expect(server.asked.length).toBeLessThanOrEqual(9)
  })
})

describe('the host resolvers', () => {
  test('are asked one after the other: the next after 200 ms of silence', async () => {
    const clock = createFakeClock()
    const [first, second] = [await DnsUpstream.open(silent), await DnsUpstream.open(positiveB)]
    const listen = [{ address: '127.0.0.1', port: 0 }]
    const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [first.target, second.target] })
    closers.push(
      () => dns.close(),
      () => first.close(),
      () => second.close(),
    )
    const { value, elapsedMs } = await advanceUntil(clock, askUdp(dns.listening.port, questionBytes('x.example')))
    expect(outcomeOf(value)).toBe(B)
    expect(elapsedMs).toBeGreaterThanOrEqual(200)
    expect(elapsedMs).toBeLessThanOrEqual(350)
  })

  test('one that knows speaks for all: a "no" of the first asks nobody else', async () => {
    const clock = createFakeClock()
    const [first, second] = [await DnsUpstream.open(scripts.nxdomain), await DnsUpstream.open(positiveB)]
    const listen = [{ address: '127.0.0.1', port: 0 }]
    const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [first.target, second.target] })
    closers.push(
      () => dns.close(),
      () => first.close(),
      () => second.close(),
    )
    const { value } = await advanceUntil(clock, askUdp(dns.listening.port, questionBytes('x.example')))
    expect(value.rcode).toBe('NXDOMAIN')
    await clock.advance(1_000)
    expect(second.asked).toEqual([])
  })

  test('the next is asked at once when the first refuses', async () => {
    const clock = createFakeClock()
    const [first, second] = [await DnsUpstream.open(scripts.rcode(5)), await DnsUpstream.open(positiveB)]
    const listen = [{ address: '127.0.0.1', port: 0 }]
    const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [first.target, second.target] })
    closers.push(
      () => dns.close(),
      () => first.close(),
      () => second.close(),
    )
    const asked = askUdp(dns.listening.port, questionBytes('x.example'))
    await until(() => second.asked.length > 0)
    expect(outcomeOf(await asked)).toBe(B)
    expect(clock.monotonicMs()).toBe(1_800_000_000_000)
  })
})

test('the scripted upstream and the client use an independent codec', () => {
  expect(packet.decode(questionBytes('a.b')).questions?.[0]?.name).toBe('a.b')
})
