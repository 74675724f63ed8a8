import packet from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import {
  aaaaRecord,
  addressFromReverseName,
  aRecord,
  buildAnswer,
  keyFromText,
  nameFromText,
  nameToText,
  nsRecord,
  parseQuery,
  ptrRecord,
  type Query,
  reverseNameOf,
  soaRecord,
} from '../../src/dns/message.ts'
import { questionBytes } from '../support/dns-client.ts'

function parsed(bytes: Buffer): Query {
  const query = parseQuery(bytes)
  if (query.kind !== 'query') throw new TypeError(`not a query: ${query.kind}`)
  return query
}

const label = fc.string({ unit: fc.constantFrom(...'abcxyzABCXYZ0189-_'), minLength: 1, maxLength: 20 })
const domain = fc.array(label, { minLength: 1, maxLength: 6 }).map((labels) => labels.join('.'))

describe('nameFromText', () => {
  test('is undone by nameToText', () => {
    fc.assert(
      fc.property(domain, (text) => {
        expect(nameToText(nameFromText(text))).toBe(text)
      }),
    )
  })

  test.each([
    ['a.b.', '016101620' + '0'],
    ['', '00'],
    ['.', '00'],
    ['1.2', '013101320' + '0'],
    ['_sip._tcp.x', '045f736970045f7463700178' + '00'],
    ['bücher.example', Buffer.from('\x0dxn--bcher-kva\x07example\0', 'latin1').toString('hex')],
  ])('reads %j', (text, hex) => {
    expect(Buffer.from(nameFromText(text)).toString('hex')).toBe(hex)
  })

  test.each(['a..b', '.a', 'a b', `${'x'.repeat(64)}.y`, `${'abcdefgh.'.repeat(30)}`])(
    'refuses %j as USAGE',
    (text) => {
      expect(() => nameFromText(text)).toThrow(NsmError)
    },
  )

  test('nameToText escapes dots, backslashes and bytes that are no text', () => {
    expect(nameToText(Uint8Array.from([4, 0x61, 0x2e, 0x5c, 0x01, 0]))).toBe('a\\.\\\\\\001')
    expect(nameToText(Uint8Array.of(0))).toBe('.')
  })
})

describe('addressFromReverseName', () => {
  test('is the inverse of reverseNameOf for IPv4 and IPv6', () => {
    fc.assert(
      fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (address) => {
        const found = addressFromReverseName(keyFromText(reverseNameOf(address)))
        expect(found && reverseNameOf(found)).toBe(reverseNameOf(address))
      }),
    )
  })

  test.each([
    'x.10.in-addr.arpa',
    '1.2.3.in-addr.arpa',
    '1.2.3.4.5.in-addr.arpa',
    '01.2.3.4.in-addr.arpa',
    '256.2.3.4.in-addr.arpa',
    'in-addr.arpa',
    '1.ip6.arpa',
    'www.example',
  ])('gives nothing for %s', (text) => {
    expect(addressFromReverseName(nameFromText(text))).toBeUndefined()
  })
})

describe('parseQuery', () => {
  test('reads what an independent encoder wrote', () => {
    fc.assert(
      fc.property(domain, fc.integer({ min: 0, max: 65_535 }), (name, id) => {
        const query = parsed(questionBytes(name, { id, edns: 1400, dnssecOk: true, type: 'AAAA' }))
        expect(query).toMatchObject({ id, type: 28, class: 1, ednsBytes: 1400, dnssecOk: true })
        expect(query.nameKey).toBe(keyFromText(name))
      }),
    )
  })

  const base = questionBytes('a.test', { edns: 512 })
  const patched = (offset: number, value: number) => {
    const bytes = Buffer.from(base)
    bytes[offset] = value
    return bytes
  }
  const rcodeOf = (bytes: Buffer): number | string => {
    const found = parseQuery(bytes)
    return found.kind === 'rejected' ? (found.reply[3] ?? 0) & 15 : found.kind
  }

  test.each<[string, Buffer, number | string]>([
    ['too short', base.subarray(0, 11), 'dropped'],
    ['a response', patched(2, 0x81), 'dropped'],
    ['opcode STATUS', patched(2, 0x11), 4],
    ['no question', patched(5, 0), 1],
    ['two questions', patched(5, 2), 1],
    ['an answer in a question', patched(7, 1), 1],
    ['two OPT announced, one there', patched(11, 2), 1],
    ['a name that leaves the message', patched(12, 63), 1],
    ['a pointer in the question', patched(12, 0xc0), 1],
    ['a reserved label type', patched(12, 0x80), 1],
    ['an OPT that is not the root', patched(base.length - 11, 1), 1],
    ['trailing bytes', Buffer.concat([base, Buffer.of(0)]), 1],
    ['two OPT', Buffer.concat([patched(11, 2), base.subarray(-11)]), 1],
    ['a whole question', base, 'query'],
  ])('gives the right verdict for %s', (_what, bytes, expected) => {
    expect(rcodeOf(bytes)).toBe(expected)
  })

  test('answers an EDNS version above 0 with BADVERS in the OPT', () => {
    const found = parseQuery(patched(base.length - 5, 1))
    expect(found.kind).toBe('rejected')
    if (found.kind !== 'rejected') return
    const reply = packet.decode(Buffer.from(found.reply))
    expect(reply.additionals?.[0]).toMatchObject({ type: 'OPT', extendedRcode: 1 })
  })

  test('never throws, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect(['query', 'rejected', 'dropped']).toContain(parseQuery(bytes).kind)
      }),
      { numRuns: 2_000 },
    )
  })
})

describe('buildAnswer', () => {
  const zone = nameFromText('svc.internal')
  const name = nameFromText('db.svc.internal')

  test('writes records an independent decoder reads', () => {
    const query = parsed(questionBytes('db.svc.internal', { edns: 1232 }))
    const bytes = buildAnswer({
      query,
      rcode: 0,
      records: [
        aRecord(name, '10.64.0.2', 60),
        aaaaRecord(name, 'fd00::2', 60),
        ptrRecord(nameFromText(reverseNameOf('10.64.0.2')), 'db.svc.internal', 60),
        nsRecord(zone, 'ns.svc.internal', 60),
      ],
      authority: [soaRecord(zone, { primary: 'ns.svc.internal', serial: 7, negativeTtlSeconds: 10 })],
      authoritative: true,
    })
    const reply = packet.decode(bytes)
    expect(reply.answers).toMatchObject([
      { type: 'A', name: 'db.svc.internal', ttl: 60, data: '10.64.0.2' },
      { type: 'AAAA', data: 'fd00::2' },
      { type: 'PTR', name: '2.0.64.10.in-addr.arpa', data: 'db.svc.internal' },
      { type: 'NS', data: 'ns.svc.internal' },
    ])
    expect(reply.authorities).toMatchObject([
      { type: 'SOA', data: { mname: 'ns.svc.internal', serial: 7, minimum: 10 } },
    ])
    expect(reply).toMatchObject({ flag_aa: true, flag_ra: false, flag_rd: true, id: 4711 })
    expect(reply.additionals).toHaveLength(1)
  })

  test('sends no OPT to a client without EDNS', () => {
    const query = parsed(questionBytes('db.svc.internal'))
    const bytes = buildAnswer({ query, rcode: 3, records: [], authoritative: true, extendedError: 22 })
    expect(packet.decode(bytes).additionals).toEqual([])
  })

  test.each([
    [0, 512],
    [512, 512],
    [1_000, 1_000],
    [4_096, 1_232],
  ])('a client that takes %i bytes gets at most %i, else TC=1 without a record', (edns, limit) => {
    const query = parsed(questionBytes('db.svc.internal', edns === 0 ? {} : { edns }))
    for (let count = 1; count < 80; count++) {
      const records = Array.from({ length: count }, (_, i) => aRecord(name, `10.64.0.${i}`, 60))
      const bytes = buildAnswer({ query, rcode: 0, records, authoritative: true })
      expect(bytes.length).toBeLessThanOrEqual(limit)
      const reply = packet.decode(bytes)
      expect(reply.answers?.length).toBe(reply.flag_tc ? 0 : count)
    }
  })

  test('returns the spelling, RD and CD of the client', () => {
    const query = parsed(questionBytes('Db.SVC.internal', { flags: 0x0010 }))
    const reply = packet.decode(buildAnswer({ query, rcode: 0, records: [], authoritative: false }))
    expect(reply.questions?.[0]?.name).toBe('Db.SVC.internal')
    expect(reply).toMatchObject({ flag_rd: false, flag_cd: true, flag_ra: true })
  })
})
