import packet from 'dns-packet'
import { describe, expect, test } from 'vitest'
import { buildQuestion } from '../../src/dns/build-question.ts'
import { messageText } from '../../src/dns/message-text.ts'
import { rcodeText, typeFromText, typeText } from '../../src/dns/type-names.ts'

function textOf(answers: packet.Answer[], flags = 0x8180): ReturnType<typeof messageText> {
  const question = { type: 'A' as const, name: 'x.test' }
  return messageText(packet.encode({ type: 'response', id: 1, flags, questions: [question], answers }))
}

const common = { name: 'x.test', ttl: 60 } as const

describe('messageText', () => {
  test.each<[packet.Answer, string]>([
    [{ ...common, type: 'A', data: '10.0.0.1' }, '10.0.0.1'],
    [{ ...common, type: 'AAAA', data: 'fd00::1' }, 'fd00::1'],
    [{ ...common, type: 'CNAME', data: 'y.test' }, 'y.test'],
    [{ ...common, type: 'NS', data: 'ns.test' }, 'ns.test'],
    [{ ...common, type: 'PTR', data: 'p.test' }, 'p.test'],
    [{ ...common, type: 'MX', data: { preference: 10, exchange: 'm.test' } }, '10 m.test'],
    [{ ...common, type: 'SRV', data: { priority: 1, weight: 2, port: 443, target: 's.test' } }, '1 2 443 s.test'],
    [{ ...common, type: 'TXT', data: [Buffer.from('a"b\\'), Buffer.from([0, 0xff])] }, '"a\\"b\\\\" "\\000\\255"'],
    [{ ...common, type: 'CAA', data: { flags: 0, tag: 'issue', value: 'ca' } }, '\\# 9 000569737375656361'],
  ])('writes %j', (record, data) => {
    expect(textOf([record])?.answers).toEqual([{ name: 'x.test', type: record.type, ttlSeconds: 60, data }])
  })

  test('writes a SOA, the rcode and the flags that are set', () => {
    const data = { mname: 'ns.test', rname: 'host.test', serial: 1, refresh: 2, retry: 3, expire: 4, minimum: 5 }
    const found = textOf([{ ...common, type: 'SOA', data }], 0x8783)
    expect(found).toMatchObject({ rcode: 'NXDOMAIN', flags: ['qr', 'aa', 'tc', 'rd', 'ra'] })
    expect(found?.answers[0]?.data).toBe('ns.test host.test 1 2 3 4 5')
  })

  test.each(['', '00', 'ff'.repeat(12), '126781800001000000000000'])(
    'gives nothing for the broken message %s',
    (hex) => {
      expect(messageText(Buffer.from(hex, 'hex'))).toBeUndefined()
    },
  )
})

describe('record types in text', () => {
  test.each([
    ['a', 1],
    ['HTTPS', 65],
    ['TYPE65', 65],
    ['type65280', 65280],
  ])('%s is %i', (text, number) => {
    expect(typeFromText(text)).toBe(number)
  })

  test.each(['', 'TYPE', 'TYPE70000', 'TYPE-1', 'constructor', '1'])('%s is a USAGE error', (text) => {
    expect(() => typeFromText(text)).toThrow(/record type/)
  })

  test('an unknown number and an unknown rcode are still text', () => {
    expect([typeText(28), typeText(4_711), rcodeText(5), rcodeText(14)]).toEqual([
      'AAAA',
      'TYPE4711',
      'REFUSED',
      'RCODE14',
    ])
  })
})

test('buildQuestion makes the message an independent codec reads', () => {
  const decoded = packet.decode(buildQuestion({ name: 'Bücher.example', type: 28, id: 5, edns: true, dnssecOk: true }))
  expect(decoded).toMatchObject({ id: 5, flag_rd: true, questions: [{ type: 'AAAA', name: 'xn--bcher-kva.example' }] })
  expect(decoded.additionals).toMatchObject([{ type: 'OPT', udpPayloadSize: 1232, flag_do: true, options: [] }])
})
