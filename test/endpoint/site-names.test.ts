import dnsPacket from 'dns-packet'
import { describe, expect, test } from 'vitest'
import { parseAddress, parsePrefix } from '../../src/base/ip.ts'
import { answerQuery } from '../../src/endpoint/gateway-dns.ts'
import { SiteNames } from '../../src/endpoint/site-names.ts'
import type { Presence } from '../../src/endpoint/site-watch.ts'
import type { ZoneSource } from '../../src/endpoint/zone.ts'
import { buildUdp, parseUdp, type UdpDatagram } from '../../src/tunnel/ip-packet.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const answersPort = 30_000
const member = '10.64.0.9'

function zoneOf(gateway: string, names: Readonly<Record<string, string>>): ZoneSource {
  return {
    dnsDomain: 'blue.nsm.internal',
    prefixes: [parsePrefix('10.64.0.0/16')],
    gateways: [parseAddress(gateway)],
    addressesOf: (label) => (names[label] === undefined ? undefined : [names[label]]),
    labelOf: (address) => Object.keys(names).find((label) => names[label] === address),
  }
}

const zones: Readonly<Record<string, ZoneSource>> = {
  '10.64.0.0': zoneOf('10.64.0.0', { a: '10.64.0.1' }),
  '10.64.1.0': zoneOf('10.64.1.0', { a: '10.64.1.6', b: '10.64.1.1', twin: '10.64.1.7' }),
  '10.64.2.0': zoneOf('10.64.2.0', { c: '10.64.2.1', twin: '10.64.2.7' }),
}

type Known = Readonly<Record<string, Presence>>

/** The gateway 10.64.0.0 with two other sites; `silent` ones do not answer, `known` is what their watch says of them. */
function open(silent: readonly string[] = [], known: Known = { '10.64.1.0': 'live', '10.64.2.0': 'live' }) {
  const clock = createFakeClock()
  const sent: Uint8Array[] = []
  const asked: string[] = []
  const zone = zones['10.64.0.0'] as ZoneSource
  const names: SiteNames = new SiteNames({
    zone,
    others: () => Object.entries(known).map(([server, presence]) => ({ nameServers: [server], presence })),
    port: answersPort,
    clock,
    send(packet) {
      const datagram = parseUdp(packet)
      const to = datagram && [...Object.keys(zones)].find((gateway) => same(datagram.destination, gateway))
      if (!datagram || to === undefined) return void sent.push(packet)
      asked.push(to)
      const payload = silent.includes(to) ? undefined : answerQuery(zones[to] as ZoneSource, datagram.payload)
      if (payload) names.take(buildUdp({ ...swapped(datagram), payload }))
    },
  })
  return { clock, names, sent, asked }
}

/** The way back. */
function swapped({ source, sourcePort, destination, destinationPort }: UdpDatagram) {
  return { source: destination, sourcePort: destinationPort, destination: source, destinationPort: sourcePort }
}

function same(address: { readonly bits: bigint }, text: string): boolean {
  return parseAddress(text).bits === address.bits
}

function query(name: string, from = member, type: 'A' | 'PTR' | 'AAAA' = 'A'): Uint8Array {
  return buildUdp({
    source: parseAddress(from),
    sourcePort: 4_000,
    destination: parseAddress('10.64.0.0'),
    destinationPort: 53,
    payload: dnsPacket.encode({ type: 'query', id: 77, questions: [{ name, type }] }),
  })
}

function replyOf(sent: readonly Uint8Array[]) {
  expect(sent.length).toBe(1)
  const datagram = parseUdp(sent[0] ?? new Uint8Array())
  const message = dnsPacket.decode(Buffer.from(datagram?.payload ?? []))
  const data = (message.answers ?? []).map((answer) => ('data' in answer ? answer.data : undefined))
  return { id: message.id, port: datagram?.destinationPort, code: (message.flags ?? 0) & 15, data }
}

const noError = 0
const serverFailure = 2
const nameError = 3

describe('SiteNames', () => {
  test('answers its own names without asking anybody', () => {
    const { names, sent, asked } = open()
    names.take(query('a.blue.nsm.internal'))
    expect([replyOf(sent).data, asked]).toEqual([['10.64.0.1'], []])
  })

  test.each([
    ['b.blue.nsm.internal', 'A', ['10.64.1.1']],
    ['c.blue.nsm.internal', 'A', ['10.64.2.1']],
    ['b.blue.nsm.internal', 'AAAA', []],
    ['1.1.64.10.in-addr.arpa', 'PTR', ['b.blue.nsm.internal']],
  ] as const)(
    'asks the other sites for %s %s and passes the answer on, with the member’s own id',
    (name, type, data) => {
      const { names, sent, asked } = open()
      names.take(query(name, member, type))
      expect(replyOf(sent)).toEqual({ id: 77, port: 4_000, code: noError, data })
      expect(asked).toEqual(['10.64.1.0', '10.64.2.0'])
    },
  )

  test('a name that nobody knows is NXDOMAIN', () => {
    const { names, sent } = open()
    names.take(query('nobody.blue.nsm.internal'))
    expect(replyOf(sent).code).toBe(nameError)
  })

  test('a name that may be known at a site that is silent is SERVFAIL, after a while', async () => {
    const { clock, names, sent } = open(['10.64.2.0'])
    names.take(query('c.blue.nsm.internal'))
    expect(sent.length).toBe(0)
    await clock.advance(1_500)
    expect(replyOf(sent).code).toBe(serverFailure)
    expect(clock.waiting).toBe(0)
  })

  test('a positive answer does not wait for a site that is silent', () => {
    const { clock, names, sent } = open(['10.64.2.0'])
    names.take(query('b.blue.nsm.internal'))
    expect([replyOf(sent).data, clock.waiting]).toEqual([['10.64.1.1'], 0])
  })

  test.each([
    ['SERVFAIL at once while it may come back', 'silent', serverFailure],
    ['NXDOMAIN once it is gone', 'gone', nameError],
  ] as const)('a name that a site out of reach may know is %s', (_what, presence, code) => {
    const { clock, names, sent, asked } = open(['10.64.2.0'], { '10.64.1.0': 'live', '10.64.2.0': presence })
    names.take(query('c.blue.nsm.internal'))
    expect([replyOf(sent).code, asked, clock.waiting]).toEqual([code, ['10.64.1.0'], 0])
  })

  test.each([
    ['SERVFAIL', 'silent', serverFailure],
    ['NXDOMAIN', 'gone', nameError],
  ] as const)('with no site left to ask an unknown name is %s at once', (_what, presence, code) => {
    const { names, sent, asked } = open([], { '10.64.1.0': presence })
    names.take(query('c.blue.nsm.internal'))
    expect([replyOf(sent).code, asked]).toEqual([code, []])
  })

  test('the names of a live site are found while another one is silent', () => {
    const { names, sent } = open(['10.64.2.0'], { '10.64.1.0': 'live', '10.64.2.0': 'silent' })
    names.take(query('b.blue.nsm.internal'))
    expect(replyOf(sent).data).toEqual(['10.64.1.1'])
  })

  test('a name that two sites know is answered by the site that was asked, else by the first that answers', () => {
    const { names, sent, asked } = open()
    names.take(query('twin.blue.nsm.internal'))
    expect(replyOf(sent).data).toEqual(['10.64.1.7'])
    expect(asked).toEqual(['10.64.1.0', '10.64.2.0'])
    const own = open()
    own.names.take(query('a.blue.nsm.internal'))
    expect([replyOf(own.sent).data, own.asked]).toEqual([['10.64.0.1'], []])
  })

  test('the question of another site is not passed on: it cannot run in a circle', () => {
    const { names, asked } = open()
    names.take(query('nobody.blue.nsm.internal', '10.64.1.0'))
    expect(asked).toEqual(['10.64.1.0'])
  })

  test('names of other domains are nobody’s business', () => {
    const { names, asked } = open()
    names.take(query('example.org'))
    expect(asked).toEqual([])
  })

  test('an answer nobody asked for, or from somebody else, is dropped', async () => {
    const { clock, names, sent } = open(['10.64.1.0', '10.64.2.0'])
    names.take(query('b.blue.nsm.internal'))
    for (const [source, sourcePort, id] of [
      ['10.64.0.77', 53, 1],
      ['10.64.1.0', 54, 1],
      ['10.64.1.0', 53, 1],
    ] as const) {
      const answers = [{ type: 'A' as const, name: 'b.blue.nsm.internal', data: '10.64.0.66' }]
      const questions = [{ type: 'A' as const, name: 'other.blue.nsm.internal' }]
      names.take(
        buildUdp({
          source: parseAddress(source),
          sourcePort,
          destination: parseAddress('10.64.0.0'),
          destinationPort: answersPort,
          payload: dnsPacket.encode({ type: 'response', id, questions, answers }),
        }),
      )
    }
    expect(sent.length).toBe(0)
    await clock.advance(2_000)
    expect(replyOf(sent).code).toBe(serverFailure)
  })
})
