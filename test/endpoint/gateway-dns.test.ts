import dnsPacket from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { firstAddress, parseAddress, parsePrefix } from '../../src/base/ip.ts'
import { answerQuery } from '../../src/endpoint/gateway-dns.ts'
import { SiteNames } from '../../src/endpoint/site-names.ts'
import type { ZoneSource } from '../../src/endpoint/zone.ts'
import { buildUdp, parseUdp } from '../../src/tunnel/ip-packet.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const prefixes = ['10.64.0.0/16', '10.80.16.0/20', '10.90.0.0/30', 'fd00:64::/64'].map(parsePrefix)
const many = Array.from({ length: 60 }, (_, i) => `10.64.9.${i}`)
const names: Readonly<Record<string, readonly string[]>> = {
  web: ['10.64.0.1', 'fd00:64::1'],
  db: ['10.80.17.2'],
  tiny: ['10.90.0.1'],
  many,
}
const source: ZoneSource = {
  dnsDomain: 'blue.nsm.internal',
  prefixes,
  gateways: prefixes.map(firstAddress),
  addressesOf: (label) => (Object.hasOwn(names, label) ? names[label] : undefined),
  labelOf: (address) => Object.keys(names).find((label) => names[label]?.includes(address)),
}

type Type = 'A' | 'AAAA' | 'PTR' | 'SOA' | 'NS' | 'TXT' | 'MX' | 'ANY'

function ask(name: string, type: Type | string, edns = 1232) {
  const additionals: dnsPacket.Packet['additionals'] =
    edns === 0
      ? []
      : [
          {
            type: 'OPT',
            name: '.',
            udpPayloadSize: edns,
            extendedRcode: 0,
            ednsVersion: 0,
            flags: 0,
            flag_do: false,
            options: [],
          },
        ]
  const query = dnsPacket.encode({
    type: 'query',
    id: 4711,
    flags: dnsPacket.RECURSION_DESIRED,
    questions: [{ name, type: type as dnsPacket.RecordType }],
    additionals,
  })
  const reply = answerQuery(source, query)
  if (!reply) throw new Error('no reply')
  return { length: reply.length, ...dnsPacket.decode(Buffer.from(reply)) }
}

const dataOf = (answers: readonly dnsPacket.Answer[] | undefined) =>
  (answers ?? []).map((answer) => ('data' in answer ? answer.data : undefined))

const v6Reverse = (host: string) => `${host}.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa`

describe('vL3 name server', () => {
  test.each([
    ['web.blue.nsm.internal', 'A', ['10.64.0.1']],
    ['web.blue.nsm.internal', 'AAAA', ['fd00:64::1']],
    ['WeB.bLuE.NSM.Internal', 'A', ['10.64.0.1']],
    ['gateway.blue.nsm.internal', 'A', ['10.64.0.0', '10.80.16.0', '10.90.0.0']],
    ['gateway.blue.nsm.internal', 'AAAA', ['fd00:64::']],
    ['blue.nsm.internal', 'NS', ['gateway.blue.nsm.internal']],
    ['1.0.64.10.in-addr.arpa', 'PTR', ['web.blue.nsm.internal']],
    ['0.0.64.10.in-addr.arpa', 'PTR', ['gateway.blue.nsm.internal']],
    ['2.17.80.10.in-addr.arpa', 'PTR', ['db.blue.nsm.internal']],
    ['1.0.90.10.in-addr.arpa', 'PTR', ['tiny.blue.nsm.internal']],
    [v6Reverse('1'), 'PTR', ['web.blue.nsm.internal']],
    ['64.10.in-addr.arpa', 'NS', ['gateway.blue.nsm.internal']],
    ['31.80.10.in-addr.arpa', 'NS', ['gateway.blue.nsm.internal']],
  ])('%s %s is %j with authority', (name, type, expected) => {
    const reply = ask(name, type)
    expect(reply).toMatchObject({ id: 4711, rcode: 'NOERROR', flag_aa: true, flag_qr: true, flag_ra: false })
    expect(dataOf(reply.answers)).toEqual(expected)
    expect(reply.questions?.[0]?.name).toBe(name)
    for (const answer of reply.answers ?? []) expect(answer.name).toBe(name)
  })

  test.each([
    ['web.blue.nsm.internal', 'TXT', 'NOERROR', 'blue.nsm.internal'],
    ['db.blue.nsm.internal', 'AAAA', 'NOERROR', 'blue.nsm.internal'],
    ['blue.nsm.internal', 'A', 'NOERROR', 'blue.nsm.internal'],
    ['nobody.blue.nsm.internal', 'A', 'NXDOMAIN', 'blue.nsm.internal'],
    ['x.web.blue.nsm.internal', 'A', 'NXDOMAIN', 'blue.nsm.internal'],
    ['__proto__.blue.nsm.internal', 'A', 'NXDOMAIN', 'blue.nsm.internal'],
    ['9.9.64.10.in-addr.arpa', 'A', 'NOERROR', '64.10.in-addr.arpa'],
    ['9.200.64.10.in-addr.arpa', 'PTR', 'NXDOMAIN', '64.10.in-addr.arpa'],
    ['9.64.10.in-addr.arpa', 'PTR', 'NOERROR', '64.10.in-addr.arpa'],
    ['x.64.10.in-addr.arpa', 'PTR', 'NXDOMAIN', '64.10.in-addr.arpa'],
    ['256.0.64.10.in-addr.arpa', 'PTR', 'NXDOMAIN', '64.10.in-addr.arpa'],
    ['7.1.0.64.10.in-addr.arpa', 'PTR', 'NXDOMAIN', '64.10.in-addr.arpa'],
    ['9.31.80.10.in-addr.arpa', 'PTR', 'NXDOMAIN', '31.80.10.in-addr.arpa'],
    ['2.0.90.10.in-addr.arpa', 'PTR', 'NOERROR', '2.0.90.10.in-addr.arpa'],
    [v6Reverse('9'), 'PTR', 'NXDOMAIN', '0.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa'],
    ['0.0.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa', 'PTR', 'NOERROR', '0.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa'],
  ])('%s %s is %s without answers and the SOA of %s', (name, type, rcode, zone) => {
    const reply = ask(name, type)
    expect(reply).toMatchObject({ rcode, flag_aa: true, answers: [] })
    expect(reply.authorities).toMatchObject([
      { type: 'SOA', name: zone, ttl: 5, data: { mname: 'gateway.blue.nsm.internal', minimum: 5 } },
    ])
  })

  test.each([
    ['example.com', 'A'],
    ['nsm.internal', 'SOA'],
    ['xblue.nsm.internal', 'A'],
    ['.', 'NS'],
    ['10.in-addr.arpa', 'PTR'],
    ['in-addr.arpa', 'PTR'],
    ['1.0.65.10.in-addr.arpa', 'PTR'],
    ['1.32.80.10.in-addr.arpa', 'PTR'],
    ['80.10.in-addr.arpa', 'SOA'],
    ['5.0.90.10.in-addr.arpa', 'PTR'],
    ['4.6.0.0.0.0.d.f.ip6.arpa', 'PTR'],
  ])('%s %s is not ours: refused without authority', (name, type) => {
    expect(ask(name, type)).toMatchObject({ rcode: 'REFUSED', flag_aa: false, answers: [], authorities: [] })
  })

  test('the apex answers SOA, and ANY gives all there is', () => {
    expect(ask('blue.nsm.internal', 'SOA').answers).toMatchObject([{ type: 'SOA', name: 'blue.nsm.internal' }])
    expect(dataOf(ask('web.blue.nsm.internal', 'ANY').answers)).toEqual(['10.64.0.1', 'fd00:64::1'])
  })

  test('an answer beyond the size of the client is truncated: 512 bytes without EDNS, 1232 with it', () => {
    const plain = ask('many.blue.nsm.internal', 'A', 0)
    expect([plain.flag_tc, plain.answers?.length, plain.additionals?.length]).toEqual([true, 0, 0])
    expect(plain.length).toBeLessThanOrEqual(512)
    const edns = ask('many.blue.nsm.internal', 'A', 4096)
    expect([edns.flag_tc, edns.answers?.length]).toEqual([false, 60])
    expect(edns.length).toBeLessThanOrEqual(1232)
  })

  test('a class that is not the Internet is refused', () => {
    const query = dnsPacket.encode({
      type: 'query',
      questions: [{ name: 'web.blue.nsm.internal', type: 'A', class: 'CH' }],
    })
    expect(dnsPacket.decode(Buffer.from(answerQuery(source, query) ?? []))).toMatchObject({ rcode: 'REFUSED' })
  })

  test('a label that holds dots is not taken for several', () => {
    const name = 'blue.nsm.internal'
    const question = [name.length, ...Buffer.from(name), 0, 0, 1, 0, 1]
    const query = Buffer.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...question])
    expect((answerQuery(source, query)?.[3] ?? 0) & 0x0f).toBe(5)
  })

  test('no garbage makes it throw, answer a response or answer without the question id (property)', () => {
    const query = dnsPacket.encode({ type: 'query', id: 7, questions: [{ name: 'web.blue.nsm.internal', type: 'A' }] })
    const mutated = fc.array(fc.tuple(fc.nat(query.length - 1), fc.nat(255)), { maxLength: 6 }).map((changes) => {
      const bytes = Uint8Array.from(query)
      for (const [at, value] of changes) bytes[at] = value
      return bytes
    })
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), (bytes) => {
        const reply = answerQuery(source, bytes)
        if (((bytes[2] ?? 0x80) & 0x80) !== 0) expect(reply).toBeUndefined()
        if (reply) expect([...reply.subarray(0, 2), (reply[2] ?? 0) & 0x80]).toEqual([bytes[0], bytes[1], 0x80])
      }),
      { numRuns: 2_000 },
    )
  })
})

/** What a gateway without other sites answers to a raw IP packet. */
function answerPacket(zone: ZoneSource, packet: Uint8Array): Uint8Array | undefined {
  const sent: Uint8Array[] = []
  const send = (reply: Uint8Array) => void sent.push(reply)
  new SiteNames({ zone, others: () => [], port: 1, send, clock: createFakeClock() }).take(packet)
  return sent[0]
}

describe('the gateway', () => {
  const query = dnsPacket.encode({ type: 'query', id: 7, questions: [{ name: 'web.blue.nsm.internal', type: 'A' }] })
  const packet = (wish: Partial<Parameters<typeof buildUdp>[0]> = {}) =>
    buildUdp({
      source: parseAddress('10.64.0.9'),
      sourcePort: 40_000,
      destination: parseAddress('10.64.0.0'),
      destinationPort: 53,
      payload: query,
      ...wish,
    })

  test.each([
    ['IPv4', {}],
    ['IPv6', { source: parseAddress('fd00:64::9'), destination: parseAddress('fd00:64::') }],
  ])('%s: answers from the gateway to the port that asked', (_, wish) => {
    const asked = parseUdp(packet(wish))
    const answered = parseUdp(answerPacket(source, packet(wish)) ?? new Uint8Array())
    expect(answered).toMatchObject({
      source: asked?.destination,
      sourcePort: 53,
      destination: asked?.source,
      destinationPort: 40_000,
    })
    expect(dataOf(dnsPacket.decode(Buffer.from(answered?.payload ?? [])).answers)).toEqual(['10.64.0.1'])
  })

  test.each([
    ['to another port', packet({ destinationPort: 54 })],
    ['to another member', packet({ destination: parseAddress('10.64.0.1') })],
    ['with a flipped bit', packet().map((byte, i) => (i === 40 ? byte ^ 1 : byte))],
    ['that is a fragment', packet().map((byte, i) => (i === 6 ? 0x20 : byte))],
    ['that is a response', packet({ payload: Uint8Array.from(query).map((byte, i) => (i === 2 ? 0x80 : byte)) })],
    ['cut short', packet().subarray(0, 50)],
    ['that is empty', new Uint8Array()],
  ])('a packet %s gets no answer', (_, bytes) => {
    expect(answerPacket(source, bytes)).toBeUndefined()
  })

  test('no garbage makes it throw (property)', () => {
    const changed = fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 4 }).map((changes) => {
      const bytes = Uint8Array.from(packet())
      for (const [at, value] of changes) bytes[at] = value
      return bytes
    })
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 120 }), changed), (bytes) => {
        answerPacket(source, bytes)
      }),
      { numRuns: 2_000 },
    )
  })
})
