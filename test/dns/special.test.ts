import packet from 'dns-packet'
import { describe, expect, test } from 'vitest'
import { parseQuery } from '../../src/dns/message.ts'
import { answerSpecial, isMetaType, type SpecialContext } from '../../src/dns/special.ts'
import { questionBytes } from '../support/dns-client.ts'

const context: SpecialContext = { inScope: false, anyScope: true, listenAddress: '127.0.0.55' }

/** The rcode and the data of the answer; undefined when the name goes its usual way. */
function ask(name: string, type: packet.RecordType, parts: Partial<SpecialContext> = {}): string | undefined {
  const query = parseQuery(questionBytes(name, { type }))
  if (query.kind !== 'query') throw new TypeError('not a query')
  const reply = answerSpecial(query, { ...context, ...parts })
  if (!reply) return undefined
  const { rcode, answers = [], authorities = [] } = Object(packet.decode(reply))
  const data = answers.map((record: { data: unknown }) => String(record.data)).join(' ')
  return data === '' ? `${rcode} with ${authorities.length} SOA` : data
}

describe('answerSpecial', () => {
  test.each<[string, packet.RecordType, string | undefined]>([
    ['localhost', 'A', '127.0.0.1'],
    ['LOCALHOST', 'AAAA', '::1'],
    ['a.b.localhost', 'A', '127.0.0.1'],
    ['localhost', 'TXT', 'NOERROR with 1 SOA'],
    ['nsm.localhost', 'A', '127.0.0.55'],
    ['nsm.localhost', 'AAAA', 'NOERROR with 1 SOA'],
    ['55.0.0.127.in-addr.arpa', 'PTR', 'nsm.localhost'],
    ['56.0.0.127.in-addr.arpa', 'PTR', undefined],
    ['invalid', 'A', 'NXDOMAIN with 1 SOA'],
    ['x.invalid', 'AAAA', 'NXDOMAIN with 1 SOA'],
    ['secret.onion', 'A', 'NXDOMAIN with 1 SOA'],
    ['_dns.resolver.arpa', 'TXT', 'NOERROR with 1 SOA'],
    ['resolver.arpa', 'A', 'NOERROR with 1 SOA'],
    ['use-application-dns.net', 'A', 'NXDOMAIN with 1 SOA'],
    ['www.use-application-dns.net', 'A', undefined],
    ['b._dns-sd._udp.example.org', 'PTR', 'NXDOMAIN with 1 SOA'],
    ['lb._dns-sd._udp.0.0.168.192.in-addr.arpa', 'PTR', 'NXDOMAIN with 1 SOA'],
    ['_http._tcp.example.org', 'PTR', undefined],
    ['notlocalhost', 'A', undefined],
    ['localhost.example', 'A', undefined],
    ['xinvalid', 'A', undefined],
    ['printer.local', 'A', undefined],
    ['www.example', 'A', undefined],
    ['.', 'NS', undefined],
  ])('%s %s gives %s', (name, type, expected) => expect(ask(name, type)).toBe(expected))

  test('lets browsers use DNS over HTTPS while nothing is connected', () => {
    expect(ask('use-application-dns.net', 'A', { anyScope: false })).toBeUndefined()
  })

  test('lets a service be browsed under its own domain', () => {
    expect(ask('b._dns-sd._udp.svc.test', 'PTR', { inScope: true })).toBeUndefined()
  })

  test.each(['localhost', 'x.invalid', 'x.onion', '_dns.resolver.arpa'])('no scope takes %s away', (name) => {
    expect(ask(name, 'A', { inScope: true })).toBe(ask(name, 'A'))
  })
})

test.each([
  [1, false],
  [28, false],
  [65, false],
  [248, false],
  [249, true],
  [251, true],
  [252, true],
  [253, true],
  [254, true],
  [255, true],
  [256, false],
])('type %i is a meta type: %s', (type, expected) => expect(isMetaType(type)).toBe(expected))
