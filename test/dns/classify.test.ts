import packet from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { classify, type ReplyClass } from '../../src/dns/classify.ts'
import { parseQuery, type Query } from '../../src/dns/message.ts'
import { questionBytes } from '../support/dns-client.ts'
import { soa } from '../support/dns-upstream.ts'

const name = 'www.case.test'

function queryFor(type: packet.RecordType = 'A'): Query {
  const query = parseQuery(questionBytes(name, { type, edns: 1232 }))
  if (query.kind !== 'query') throw new TypeError('not a query')
  return query
}

function replyBytes(parts: Partial<packet.Packet> = {}): Buffer {
  return packet.encode({ type: 'response', id: 1, flags: 0x180, questions: [{ type: 'A', name }], ...parts })
}

const a: packet.Answer = { type: 'A', name, ttl: 60, data: '10.0.0.1' }
const cname = (from: string, to: string): packet.Answer => ({ type: 'CNAME', name: from, ttl: 30, data: to })
const dname = (from: string, to: string): packet.Answer => ({ type: 'DNAME', name: from, ttl: 30, data: to })
const ns: packet.Answer = { type: 'NS', name: 'test', ttl: 60, data: 'ns.test' }
const opt = (flags = 0): packet.Answer => ({
  type: 'OPT',
  name: '.',
  udpPayloadSize: 1232,
  extendedRcode: 0,
  ednsVersion: 0,
  flags,
  flag_do: false,
  options: [],
})

describe('classify', () => {
  test.each<[string, Partial<packet.Packet>, ReplyClass]>([
    ['an address', { answers: [a] }, 'positive'],
    ['an address in other case', { answers: [{ ...a, name: name.toUpperCase() }] }, 'positive'],
    ['a chain with its end', { answers: [cname(name, 'x.test'), { ...a, name: 'x.test' }] }, 'positive'],
    [
      'a renamed tree with its end',
      { answers: [dname('case.test', 'x.test'), { ...a, name: 'www.x.test' }] },
      'positive',
    ],
    ['a renamed tree without end', { answers: [dname('case.test', 'x.test')] }, 'alias'],
    ['a renamed tree and its alias', { answers: [dname('case.test', 'x.test'), cname(name, 'www.x.test')] }, 'alias'],
    ['a tree that is renamed to itself', { answers: [dname('case.test', 'case.test')] }, 'failure'],
    ['a tree that grows', { answers: [dname('test', 'x.test')] }, 'failure'],
    ['the renaming of the very name, not of what is below', { answers: [dname(name, 'x.test')] }, 'failure'],
    ['a name that renaming makes too long', { answers: [dname('case.test', `${'a.'.repeat(124)}test`)] }, 'failure'],
    ['a chain in odd order', { answers: [{ ...a, name: 'x.test' }, cname(name, 'x.test')] }, 'positive'],
    ['a chain without end', { answers: [cname(name, 'x.test')] }, 'alias'],
    ['a chain without end, with SOA', { answers: [cname(name, 'x.test')], authorities: [soa('x.test')] }, 'nodata'],
    ['a chain in a circle', { answers: [cname(name, 'x.test'), cname('x.test', name)] }, 'failure'],
    ['nothing', {}, 'nodata'],
    ['nothing with SOA', { authorities: [soa('test')] }, 'nodata'],
    ['nothing, authoritative, with NS', { flags: 0x580, authorities: [ns] }, 'nodata'],
    ['a referral', { authorities: [ns] }, 'refused'],
    ['an address of another name', { answers: [{ ...a, name: 'x.test' }] }, 'failure'],
    ['another type', { answers: [{ type: 'TXT', name, ttl: 1, data: 'x' }] }, 'failure'],
    ['NXDOMAIN', { flags: 0x183 }, 'nxdomain'],
    ['NXDOMAIN behind a chain', { flags: 0x183, answers: [cname(name, 'x.test')] }, 'nxdomain'],
    ['SERVFAIL', { flags: 0x182 }, 'failure'],
    ['FORMERR', { flags: 0x181 }, 'failure'],
    ['NOTIMP', { flags: 0x184 }, 'failure'],
    ['REFUSED', { flags: 0x185 }, 'refused'],
    ['NOTAUTH', { flags: 0x189 }, 'refused'],
    ['TC', { flags: 0x380, answers: [a] }, 'truncated'],
  ])('calls %s the right class', (_what, parts, expected) => {
    expect(classify(replyBytes(parts), queryFor())?.class).toBe(expected)
  })

  test('takes the CNAME itself as the answer to a CNAME question', () => {
    const bytes = replyBytes({ questions: [{ type: 'CNAME', name }], answers: [cname(name, 'x.test')] })
    expect(classify(bytes, queryFor('CNAME'))?.class).toBe('positive')
  })

  test('calls TC over TCP a failure', () => {
    expect(classify(replyBytes({ flags: 0x380 }), queryFor(), true)?.class).toBe('failure')
  })

  test.each<[string, Buffer]>([
    ['a question', questionBytes(name)],
    ['another name', replyBytes({ questions: [{ type: 'A', name: 'www.case.tesu' }] })],
    ['another type', replyBytes({ questions: [{ type: 'AAAA', name }] })],
    ['another class', replyBytes({ questions: [{ type: 'A', name, class: 'CH' }] })],
    ['no question at all', replyBytes({ questions: [] })],
    ['a header cut off', replyBytes().subarray(0, 11)],
    ['opcode NOTIFY', replyBytes({ flags: 0x2180 })],
  ])('says that %s is no reply to ours', (_what, bytes) => {
    expect(classify(bytes, queryFor())).toBeUndefined()
  })

  test('tolerates a missing question for FORMERR and REFUSED', () => {
    expect(classify(replyBytes({ questions: [], flags: 0x181 }), queryFor())).toMatchObject({
      class: 'failure',
      dislikesEdns: true,
    })
    expect(classify(replyBytes({ questions: [], flags: 0x185 }), queryFor())?.class).toBe('refused')
  })

  test('calls a body that leaves the message a failure', () => {
    const whole = replyBytes({ answers: [a], authorities: [soa('test')] })
    for (let length = 12 + name.length + 6; length < whole.length; length++) {
      expect(classify(Buffer.from(whole.subarray(0, length)), queryFor())?.class).toBe('failure')
    }
  })

  test('cuts the OPT off and keeps every other record, wherever the OPT is', () => {
    const extra: packet.Answer = { type: 'A', name, ttl: 60, data: '10.0.0.9' }
    for (const additionals of [[opt(), extra], [extra, opt()], [extra], [opt()]]) {
      const found = classify(replyBytes({ answers: [a], additionals }), queryFor())
      const body = packet.decode(Buffer.from(found?.bytes.subarray(0, found.bodyEnd) ?? []))
      expect(body.answers).toHaveLength(1)
      expect(body.additionals?.map(({ type }) => type)).not.toContain('OPT')
      expect(found?.additionals).toBe(body.additionals?.length)
    }
  })

  test.each<[string, Partial<packet.Packet>, number]>([
    ['the least of the answer', { answers: [a, { ...a, ttl: 7 }] }, 7],
    ['the least of answer and authority', { answers: [a], authorities: [{ ...ns, ttl: 3 }] }, 3],
    ['the SOA for a "no"', { flags: 0x183, authorities: [soa('test')] }, 60],
    ['0 for an impossible one', { answers: [{ ...a, ttl: 0xffff_ffff }] }, 0],
  ])('gives as time to live %s', (_what, parts, expected) => {
    expect(classify(replyBytes(parts), queryFor())?.ttlSeconds).toBe(expected)
  })

  test.each<[string, packet.Answer, boolean]>([
    ['127.0.0.1', { type: 'A', name, ttl: 1, data: '127.0.0.1' }, true],
    ['0.0.0.0', { type: 'A', name, ttl: 1, data: '0.0.0.0' }, true],
    ['10.0.0.1', a, false],
    ['::1', { type: 'AAAA', name, ttl: 1, data: '::1' }, true],
    ['::', { type: 'AAAA', name, ttl: 1, data: '::' }, true],
    ['::ffff:127.0.0.1', { type: 'AAAA', name, ttl: 1, data: '::ffff:7f00:1' }, true],
    ['fd00::1', { type: 'AAAA', name, ttl: 1, data: 'fd00::1' }, false],
  ])('sees whether %s points to this machine', (_what, record, expected) => {
    const type = record.type === 'AAAA' ? 'AAAA' : 'A'
    const bytes = replyBytes({ questions: [{ type, name }], answers: [record] })
    expect(classify(bytes, queryFor(type))?.pointsHome).toBe(expected)
  })

  test('never throws and stays inside the message for mutated replies', () => {
    const seeds = [
      replyBytes({
        answers: [cname(name, 'x.test'), { ...a, name: 'x.test' }],
        authorities: [soa('test')],
        additionals: [opt()],
      }),
      replyBytes({ answers: [a, a, a], authorities: [ns], additionals: [opt(), a] }),
    ]
    const mutation = fc.array(fc.tuple(fc.nat(400), fc.integer({ min: 0, max: 255 })), { maxLength: 6 })
    fc.assert(
      fc.property(fc.constantFrom(...seeds), mutation, fc.nat(200), (seed, changes, cut) => {
        const bytes = Buffer.from(seed.subarray(0, Math.max(12, seed.length - (cut % 40))))
        for (const [at, value] of changes) bytes[at % bytes.length] = value
        const found = classify(bytes, queryFor())
        if (found) expect(found.bodyEnd).toBeLessThanOrEqual(found.bytes.length)
      }),
      { numRuns: 5_000 },
    )
  })

  test('looks at no more than a bounded number of pointers', () => {
    const chain = Buffer.alloc(4_000)
    replyBytes({ flags: 0x180 }).copy(chain)
    chain.writeUInt16BE(1, 6)
    for (let at = 40; at < 3_900; at += 2) chain.writeUInt16BE(0xc000 | (at - 2), at)
    expect(classify(chain, queryFor())?.class).not.toBe('positive')
  })
})
