import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { createLog, silentLog } from '../../src/base/log.ts'
import { type Dns, openDns } from '../../src/dns/dns.ts'
import { advanceUntil, askTcp, askUdp, questionBytes, until } from '../support/dns-client.ts'
import { DnsUpstream, reply, type Script, scripts } from '../support/dns-upstream.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { freePort } from '../support/free-port.ts'

const loopback = [{ address: '127.0.0.1', port: 0 }]
const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

async function open(host: Script): Promise<{ clock: FakeClock; dns: Dns; host: DnsUpstream; port: number }> {
  const clock = createFakeClock()
  const upstream = await DnsUpstream.open(host)
  const dns = await openDns({ clock, log: silentLog, listen: loopback, defaultUpstreams: [upstream.target] })
  closers.push(
    () => dns.close(),
    () => upstream.close(),
  )
  return { clock, dns, host: upstream, port: dns.listening.port }
}

const address = (found: { answers: readonly { type: string; data?: unknown }[] }) =>
  found.answers.filter(({ type }) => type === 'A' || type === 'AAAA').map(({ data }) => data)

describe('a reply to the client', () => {
  test('carries its id, its spelling, its RD and CD, and RA', async () => {
    const { port } = await open(scripts.answering('10.0.0.1'))
    const question = questionBytes('wWw.ExAmPlE', { id: 99, flags: 0x0110 })
    const found = await askUdp(port, question)
    expect(found.id).toBe(99)
    expect(found.bytes.subarray(12, question.length)).toEqual(question.subarray(12))
    expect(found.flags & 0x0190).toBe(0x0190)
    expect(found.opt).toBeUndefined()
  })

  test('carries our own OPT when the client sent one, with its DO', async () => {
    const { port, host } = await open(scripts.answering('10.0.0.1'))
    const found = await askUdp(port, questionBytes('a.example', { edns: 4096, dnssecOk: true }))
    expect(found.opt).toMatchObject({ udpPayloadSize: 1232, flag_do: true })
    expect(host.asked[0]?.packet.additionals?.[0]).toMatchObject({ udpPayloadSize: 1232, flag_do: true, options: [] })
  })

  test('lets nothing of the client go up but question, RD, CD, AD and DO', async () => {
    const { port, host } = await open(scripts.answering('10.0.0.1'))
    const cookie = Buffer.concat([questionBytes('a.example', { edns: 4096, flags: 0x07b0 })])
    await askUdp(port, cookie)
    const up = host.asked[0]?.raw
    expect(up?.readUInt16BE(2)).toBe(0x0130)
    expect(up?.length).toBe(cookie.length)
  })

  test('never carries AD of an upstream that is not asked to be believed', async () => {
    const { port } = await open((question) => [
      reply(question, { flags: 0x1a0, answers: [{ type: 'A', name: question.name, ttl: 1, data: '10.0.0.1' }] }),
    ])
    expect((await askUdp(port, questionBytes('a.example'))).flags & 0x20).toBe(0)
    expect((await askUdp(port, questionBytes('b.example', { flags: 0x120 }))).flags & 0x20).toBe(0x20)
  })

  const many: Script = (question) => {
    const answers = Array.from({ length: 40 }, (_, i) => ({
      type: 'A' as const,
      name: question.name,
      ttl: 60,
      data: `10.0.0.${i}`,
    }))
    return [reply(question, { answers })]
  }

  test.each([
    [undefined, true],
    [4096, false],
    [600, true],
  ])('that is too long for %s bytes is cut to the question with TC: %s', async (edns, cut) => {
    const { port } = await open(many)
    const found = await askUdp(port, questionBytes('many.example', edns ? { edns } : {}))
    expect((found.flags & 0x200) !== 0).toBe(cut)
    expect(found.answers.length).toBe(cut ? 0 : 40)
  })

  test('is whole over TCP', async () => {
    const { port } = await open(many)
    const [found] = await askTcp(port, [questionBytes('many.example')])
    expect(found?.answers.length).toBe(40)
  })
})

describe('the cache', () => {
  test('answers again without asking, with the time to live that is left', async () => {
    const { port, host, clock, dns } = await open(scripts.answering('10.0.0.1', 60))
    await askUdp(port, questionBytes('a.example'))
    await clock.advance(20_500)
    const again = await askUdp(port, questionBytes('A.EXAMPLE', { id: 7, edns: 1232 }))
    expect(again.answers).toMatchObject([{ ttl: 40, data: '10.0.0.1' }])
    expect([again.id, again.opt?.udpPayloadSize, host.asked.length]).toEqual([7, 1232, 1])
    await clock.advance(40_000)
    await askUdp(port, questionBytes('a.example'))
    expect(host.asked).toHaveLength(2)
    expect(dns.status()).toMatchObject({ counters: { queries: 3, cacheHits: 1 }, cache: { entries: 1 } })
  })

  test('keeps DO and CD apart', async () => {
    const { port, host } = await open(scripts.answering('10.0.0.1', 60))
    await askUdp(port, questionBytes('a.example'))
    await askUdp(port, questionBytes('a.example', { edns: 1232, dnssecOk: true }))
    await askUdp(port, questionBytes('a.example', { flags: 0x0110 }))
    expect(host.asked).toHaveLength(3)
  })

  test('is forgotten when a scope comes or goes, and not when it stays the same', async () => {
    const { port, host, dns } = await open(scripts.nxdomain)
    const owner = await DnsUpstream.open(scripts.answering('10.0.0.9'))
    closers.push(() => owner.close())
    expect((await askUdp(port, questionBytes('db.corp.example'))).rcode).toBe('NXDOMAIN')
    const scopes = [{ suffix: 'corp.example', mode: 'exclusive' as const, upstreams: [owner.target] }]
    dns.setScopes('c1', scopes)
    expect(address(await askUdp(port, questionBytes('db.corp.example')))).toEqual(['10.0.0.9'])
    dns.setScopes('c1', [...scopes])
    await askUdp(port, questionBytes('db.corp.example'))
    expect(owner.asked).toHaveLength(1)
    dns.removeOwner('c1')
    expect((await askUdp(port, questionBytes('db.corp.example'))).rcode).toBe('NXDOMAIN')
    expect(host.asked).toHaveLength(2)
  })
})

describe('questions in flight', () => {
  test('for the same record are one: each client gets its own id, spelling and size', async () => {
    const { port, host, dns, clock } = await open(scripts.silent)
    const asked = [
      askUdp(port, questionBytes('a.example', { id: 1 })),
      askUdp(port, questionBytes('A.example', { id: 2, edns: 900 })),
    ]
    await until(() => dns.status().counters.joined === 1)
    host.script = scripts.answering('10.0.0.1')
    const { value } = await advanceUntil(clock, Promise.all(asked))
    expect(value.map(({ id, opt }) => [id, opt?.udpPayloadSize])).toEqual([
      [1, undefined],
      [2, 1232],
    ])
    expect(value[1]?.bytes.subarray(13, 14).toString()).toBe('A')
  })

  test('are bounded for one client port: the 257th is refused at once', async () => {
    const { port, clock, dns } = await open(scripts.silent)
    const socket = createSocket('udp4')
    const replies: number[] = []
    socket.on('message', (message) => replies.push(message.readUInt16BE(2) & 15))
    for (let i = 0; i < 257; i++) socket.send(questionBytes(`n${i}.example`, { id: i }), port, '127.0.0.1')
    await until(() => replies.length === 1)
    expect(replies).toEqual([5])
    await clock.advance(4_600)
    await until(() => replies.length === 257)
    expect(new Set(replies)).toEqual(new Set([5, 2]))
    expect(dns.status().counters).toMatchObject({ unreachable: 256, drops: { 'per-client': 1 } })
    socket.close()
  })
})

describe('a flood', () => {
  test('of 1,200 questions from six ports is bounded: 1,024 are asked for, the others are refused with an extended error', async () => {
    const { port, clock, dns } = await open(scripts.silent)
    const sockets = Array.from({ length: 6 }, () => createSocket('udp4'))
    const replies: Buffer[] = []
    const ports = 200
    for (const [s, socket] of sockets.entries()) {
      socket.on('message', (message) => replies.push(message))
      for (let i = 0; i < ports; i++)
        socket.send(questionBytes(`n${i}-${s}.example`, { edns: 1232 }), port, '127.0.0.1')
    }
    await until(() => dns.status().counters.queries === 1_200 && replies.length === 176)
    expect(dns.status().counters.drops).toMatchObject({ 'in-flight': 176, 'per-client': 0 })
    for (const reply of replies) {
      expect(reply.readUInt16BE(2) & 15).toBe(5)
      expect(reply.subarray(-6).toString('hex')).toBe('000f00020000')
    }
    await clock.advance(4_600)
    await until(() => replies.length === 1_200)
    for (const socket of sockets) socket.close()
  })
})

describe('names that never leave', () => {
  test.each<[string, 'A' | 'AAAA' | 'TXT' | 'PTR', string, unknown[]]>([
    ['localhost', 'A', 'NOERROR', ['127.0.0.1']],
    ['x.localhost', 'AAAA', 'NOERROR', ['::1']],
    ['localhost', 'TXT', 'NOERROR', []],
    ['nsm.localhost', 'A', 'NOERROR', ['127.0.0.1']],
    ['foo.invalid', 'A', 'NXDOMAIN', []],
    ['abc.onion', 'A', 'NXDOMAIN', []],
    ['_dns.resolver.arpa', 'A', 'NOERROR', []],
    ['b._dns-sd._udp.example', 'PTR', 'NXDOMAIN', []],
    ['1.0.0.127.in-addr.arpa', 'PTR', 'NOERROR', []],
  ])('%s %s is %s here', async (name, type, rcode, addresses) => {
    const { port, host } = await open(scripts.answering('10.6.6.6'))
    const found = await askUdp(port, questionBytes(name, { type }))
    expect([found.rcode, address(found), host.asked.length]).toEqual([rcode, addresses, 0])
    if (found.answers.length === 0) expect(found.authorities[0]?.type).toBe('SOA')
  })

  test('the canary of browsers says no only while a scope exists', async () => {
    const { port, dns, host } = await open(scripts.answering('10.0.0.1'))
    expect((await askUdp(port, questionBytes('use-application-dns.net'))).rcode).toBe('NOERROR')
    dns.setScopes('c1', [{ suffix: 'corp.example', mode: 'fanout', upstreams: [host.target] }])
    expect((await askUdp(port, questionBytes('use-application-dns.net'))).rcode).toBe('NXDOMAIN')
  })

  test.each<[string, Buffer]>([
    ['ANY', Buffer.concat([questionBytes('a.example').subarray(0, -3), Buffer.of(255, 0, 1)])],
    ['AXFR', questionBytes('a.example', { type: 'AXFR' })],
    ['class CH', Buffer.concat([questionBytes('version.bind').subarray(0, -1), Buffer.of(3)])],
  ])('%s is refused', async (_what, bytes) => {
    const { port, host } = await open(scripts.answering('10.0.0.1'))
    expect((await askUdp(port, bytes)).rcode).toBe('REFUSED')
    expect(host.asked).toEqual([])
  })
})

describe('scopes', () => {
  test('of several owners with one suffix are asked together, in the strictest mode', async () => {
    const { port, dns, host } = await open(scripts.answering('10.6.6.6'))
    const [one, two] = [await DnsUpstream.open(scripts.nxdomain), await DnsUpstream.open(scripts.answering('10.0.0.2'))]
    closers.push(
      () => one.close(),
      () => two.close(),
    )
    dns.setScopes('c1', [{ suffix: 'corp.example', mode: 'fanout', upstreams: [one.target] }])
    dns.setScopes('c2', [{ suffix: 'Corp.Example.', mode: 'exclusive', upstreams: [two.target] }])
    expect(address(await askUdp(port, questionBytes('db.corp.example')))).toEqual(['10.0.0.2'])
    expect(host.asked).toEqual([])
    expect(dns.status().scopes).toMatchObject([
      {
        suffix: 'corp.example',
        mode: 'exclusive',
        servers: [one, two].map(({ target }) => `127.0.0.1:${target.port}`),
      },
    ])
  })

  test('given as a prefix own the reverse names of its addresses', async () => {
    const { port, dns, host } = await open(scripts.nxdomain)
    const owner = await DnsUpstream.open(scripts.nodata)
    closers.push(() => owner.close())
    dns.setScopes('c1', [{ suffix: '10.64.0.0/20', mode: 'exclusive', upstreams: [owner.target] }])
    await askUdp(port, questionBytes('5.15.64.10.in-addr.arpa', { type: 'PTR' }))
    await askUdp(port, questionBytes('5.16.64.10.in-addr.arpa', { type: 'PTR' }))
    expect([owner.asked.length, host.asked.length]).toEqual([1, 1])
  })

  test('without servers refuse rather than guess', async () => {
    const { port, dns } = await open(scripts.answering('10.0.0.1'))
    dns.setScopes('c1', [{ suffix: 'corp.example', mode: 'exclusive', upstreams: [] }])
    expect((await askUdp(port, questionBytes('db.corp.example'))).rcode).toBe('REFUSED')
  })

  test('that are no domain or have too many servers are refused and change nothing', async () => {
    const { dns, host } = await open(scripts.silent)
    const upstreams = Array.from({ length: 9 }, () => host.target)
    expect(() => dns.setScopes('c1', [{ suffix: 'a..b', mode: 'fanout', upstreams: [] }])).toThrow('a..b')
    expect(() => dns.setScopes('c1', [{ suffix: 'a.b', mode: 'fanout', upstreams }])).toThrow('at most 8')
    expect(dns.status().scopes).toEqual([])
  })

  test('keep a name outside all of them away from every service, also on silence', async () => {
    const { port, dns, clock } = await open(scripts.silent)
    const owner = await DnsUpstream.open(scripts.answering('10.6.6.6'))
    closers.push(() => owner.close())
    dns.setScopes('c1', [{ suffix: 'corp.example', mode: 'fanout', upstreams: [owner.target] }])
    for (const name of ['example', 'xcorp.example', 'corp.example.org', 'printer']) {
      const { value } = await advanceUntil(clock, askUdp(port, questionBytes(name)))
      expect(value.rcode).toBe('SERVFAIL')
    }
    expect(owner.asked).toEqual([])
  })

  test('fan out with an owner that gave the address: its "no" for the other family is final', async () => {
    const { port, dns, host } = await open(scripts.silent)
    const owner = await DnsUpstream.open((question) =>
      question.type === 'A' ? scripts.answering('10.0.0.1')(question) : scripts.nodata(question),
    )
    closers.push(() => owner.close())
    dns.setScopes('c1', [{ suffix: 'corp.example', mode: 'fanout', upstreams: [owner.target] }])
    await askUdp(port, questionBytes('db.corp.example'))
    const six = await askUdp(port, questionBytes('db.corp.example', { type: 'AAAA' }))
    expect([six.rcode, six.answers.length]).toEqual(['NOERROR', 0])
    expect(host.asked.length).toBe(2)
  })
})

describe('an upstream', () => {
  test('bound to an address this machine does not have is unreachable at once, and never asked another way', async () => {
    const { port, dns, host } = await open(scripts.silent)
    const upstreams = [{ ...host.target, localAddress: '198.51.100.77' }]
    dns.setScopes('c1', [{ suffix: 'corp.example', mode: 'exclusive', upstreams }])
    for (const name of ['a.corp.example', 'b.corp.example']) {
      const found = await askUdp(port, questionBytes(name, { edns: 1232 }))
      expect([found.rcode, found.extendedError]).toEqual(['SERVFAIL', 23])
    }
    expect(host.asked).toEqual([])
  })

  test('bound to a local address is asked from it', async () => {
    const { port, dns } = await open(scripts.silent)
    const server = createSocket('udp4')
    server.bind(0, '127.0.0.1')
    await once(server, 'listening')
    const upstreams = [{ address: '127.0.0.1', port: server.address().port, localAddress: '127.0.0.77' }]
    dns.setScopes('c1', [{ suffix: 'corp.example', mode: 'exclusive', upstreams }])
    const client = createSocket('udp4')
    client.send(questionBytes('a.corp.example'), port, '127.0.0.1')
    const [, from] = await once(server, 'message')
    expect(from.address).toBe('127.0.0.77')
    client.close()
    server.close()
  })

  test('shows round trip, silences and rejected datagrams in the status', async () => {
    const { port, dns, clock } = await open((question) => [
      reply(question, { name: 'evil.test' }),
      ...(question.name === 'slow.example' ? [] : scripts.answering('10.0.0.1')(question)),
    ])
    await askUdp(port, questionBytes('a.example'))
    await advanceUntil(clock, askUdp(port, questionBytes('slow.example')))
    expect(dns.status().upstreams).toMatchObject([{ replies: 1, rejected: 4, silences: 3, suspect: true, sent: 4 }])
  })
})

describe('TCP clients', () => {
  test('may pipeline: every question is answered, also after the client closed its half', async () => {
    const { port } = await open(scripts.answering('10.0.0.1'))
    const questions = Array.from({ length: 40 }, (_, id) => questionBytes(`n${id}.example`, { id }))
    const replies = await askTcp(port, questions)
    expect(replies.map(({ id }) => id).sort((a, b) => a - b)).toEqual(Array.from({ length: 40 }, (_, id) => id))
  })

  test.each([
    ['a length of 0', '0000'],
    ['a length beyond 4 KiB', 'ffff'],
    ['a response', '000c000181800001000000000000'],
  ])('that send %s are cut off', async (_what, hex) => {
    const { port } = await open(scripts.silent)
    const socket = connect(port, '127.0.0.1')
    socket.write(Buffer.from(hex, 'hex'))
    await once(socket, 'close')
    expect(socket.bytesRead).toBe(0)
  })

  test('beyond the 64th are turned away', async () => {
    const { port } = await open(scripts.answering('10.0.0.1'))
    const sockets = Array.from({ length: 64 }, () => connect(port, '127.0.0.1'))
    for (const socket of sockets) await once(socket, 'connect')
    const late = connect(port, '127.0.0.1')
    late.on('error', () => {})
    await once(late, 'close')
    for (const socket of sockets) socket.destroy()
  })
})

describe('the listener', () => {
  test('takes the next candidate when one is held, and says who holds the last', async () => {
    const { port } = await open(scripts.silent)
    const settings = { clock: createFakeClock(), log: silentLog, defaultUpstreams: [] }
    const second = await openDns({ ...settings, listen: [{ address: '127.0.0.1', port }, ...loopback] })
    expect(second.listening.port).not.toBe(port)
    await second.close()
    await expect(openDns({ ...settings, listen: [{ address: '127.0.0.1', port }] })).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining(`pid ${process.pid}`),
    })
  })

  test('is given up with the resolver: the port is free again', async () => {
    const clock = createFakeClock()
    const listen = [{ address: '127.0.0.1', port: await freePort() }]
    const first = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [] })
    await first.close()
    const again = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [] })
    expect(again.listening).toEqual(first.listening)
    await again.close()
  })

  test('stays alive under random datagrams', async () => {
    const { port, dns } = await open(scripts.answering('10.0.0.1'))
    const socket = createSocket('udp4')
    const base = questionBytes('a.example', { edns: 1232 })
    const garbage = fc.sample(fc.uint8Array({ maxLength: 80 }), 500)
    for (const bytes of garbage) socket.send(Buffer.concat([base.subarray(0, 12), bytes]), port, '127.0.0.1')
    await until(() => dns.status().counters.drops.malformed > 200)
    expect(address(await askUdp(port, questionBytes('b.example')))).toEqual(['10.0.0.1'])
    socket.close()
  })
})

describe('loops', () => {
  test('our own address is never an upstream', async () => {
    const { dns, host } = await open(scripts.silent)
    dns.setDefaultUpstreams([dns.listening, { address: '127.0.0.55', port: 53 }, host.target])
    expect(dns.status().upstreams.map(({ port }) => port)).toEqual([host.target.port])
  })

  test('an upstream that asks us back is found by the probe and left out', async () => {
    const lines: string[] = []
    const log = createLog({ level: 'warn', format: 'text', write: (line) => lines.push(line), wallMs: () => 0 })
    const clock = createFakeClock()
    const dns = await openDns({ clock, log, listen: loopback, defaultUpstreams: [] })
    const mirror = createSocket('udp4')
    mirror.bind(0, '127.0.0.1')
    await once(mirror, 'listening')
    mirror.on('message', (message) => mirror.send(message, dns.listening.port, '127.0.0.1'))
    dns.setDefaultUpstreams([{ address: '127.0.0.1', port: mirror.address().port }])
    await until(() => dns.status().upstreams.length === 0)
    expect(lines.join()).toContain('leads back')
    mirror.close()
    await dns.close()
  })
})

describe('ids and ports towards an upstream', () => {
  test('differ from question to question', async () => {
    const ports = new Set<number>()
    const clock = createFakeClock()
    const server = createSocket('udp4')
    server.bind(0, '127.0.0.1')
    await once(server, 'listening')
    const ids: number[] = []
    server.on('message', (message, from) => {
      ids.push(message.readUInt16BE(0))
      ports.add(from.port)
    })
    const target = { address: '127.0.0.1', port: server.address().port }
    const dns = await openDns({ clock, log: silentLog, listen: loopback, defaultUpstreams: [target] })
    const client = createSocket('udp4')
    for (let i = 0; i < 100; i++)
      client.send(questionBytes(`n${i}.example`, { id: 1 }), dns.listening.port, '127.0.0.1')
    await until(() => ids.length >= 101)
    expect(new Set(ids).size).toBeGreaterThan(90)
    expect(ports.size).toBeGreaterThanOrEqual(10)
    client.close()
    server.close()
    await dns.close()
  })
})
