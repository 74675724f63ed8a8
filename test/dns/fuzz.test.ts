import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { classify } from '../../src/dns/classify.ts'
import { completeAlias } from '../../src/dns/complete-alias.ts'
import { openDns } from '../../src/dns/dns.ts'
import { messageText } from '../../src/dns/message-text.ts'
import { parseQuery, type Query } from '../../src/dns/question.ts'
import { renderReply } from '../../src/dns/render.ts'
import { askUdp, questionBytes } from '../support/dns-client.ts'
import { countingReads, readCorpus } from '../support/dns-corpus.ts'
import { DnsUpstream, reply, scripts, soa } from '../support/dns-upstream.ts'

const corpus = readCorpus()
/** [security D6] */
const mutations = 60_000
const how = { overTcp: false, ownsBytes: true, ageSeconds: 5, trustsAuthenticData: true }

function asked(): Query {
  const query = parseQuery(questionBytes('www.case.test', { id: 0x1267, edns: 1232 }))
  if (query.kind !== 'query') throw new TypeError('the question is a good one')
  return query
}
const query = asked()

/** Everything a message can meet: as a question, as a reply, as text. Gives what it was taken for. */
function everything(bytes: Buffer): string {
  const question = parseQuery(Buffer.from(bytes))
  if (question.kind === 'rejected') expect(question.reply.length).toBeGreaterThanOrEqual(12)
  const found = classify(Buffer.from(bytes), query)
  if (found) {
    const chained = completeAlias(query, found)
    if (chained) renderReply(chained.join(found), query, how)
    const rendered = renderReply(found, query, how)
    expect(rendered.length).toBeLessThanOrEqual(1232)
    expect(Buffer.from(rendered.subarray(12, query.questionEnd))).toEqual(
      Buffer.from(query.bytes.subarray(12, query.questionEnd)),
    )
  }
  messageText(bytes)
  return `${question.kind} ${found?.class ?? 'no reply'}`
}

/** A stored message with bytes changed, cut out, doubled or put in, and sometimes its end cut off. */
const mutated = fc
  .record({
    base: fc.constantFrom(...corpus),
    edits: fc.array(
      fc.record({
        at: fc.nat(300),
        kind: fc.constantFrom('set', 'cut', 'double', 'insert'),
        value: fc.oneof(fc.nat(255), fc.constantFrom(0, 0xc0, 0xff, 0x3f, 0x40, 41)),
        length: fc.nat(24),
      }),
      { minLength: 1, maxLength: 6 },
    ),
    keep: fc.oneof(fc.constant(1), fc.double({ min: 0, max: 1, noNaN: true })),
  })
  .map(({ base, edits, keep }) => {
    let bytes = Buffer.from(base.bytes)
    for (const { at, kind, value, length } of edits) {
      const place = bytes.length === 0 ? 0 : at % bytes.length
      const [front, piece, back] = [
        bytes.subarray(0, place),
        bytes.subarray(place, place + length),
        bytes.subarray(place + length),
      ]
      if (kind === 'set' && bytes.length > 0) bytes[place] = value
      else if (kind === 'cut') bytes = Buffer.concat([front, back])
      else if (kind === 'double') bytes = Buffer.concat([front, piece, piece, back])
      else bytes = Buffer.concat([front, Buffer.alloc(length, value), piece, back])
    }
    return bytes.subarray(0, Math.ceil(bytes.length * keep))
  })

describe('a hostile message', () => {
  test.each(corpus)('$what: is answered, refused or dropped, never thrown over', ({ bytes }) => {
    expect(everything(bytes)).toMatch(/^(query|rejected|dropped) /)
  })

  test(`mutated ${mutations} times from the stored ones never throws`, () => {
    const kinds = new Set<string>()
    fc.assert(
      fc.property(mutated, (bytes) => void kinds.add(everything(Buffer.from(bytes)))),
      { numRuns: mutations },
    )
    // The mutations reach every class of reply and every kind of question: they are no mere noise.
    const reached = [...kinds].join()
    for (const word of [
      'query',
      'rejected',
      'dropped',
      'positive',
      'alias',
      'truncated',
      'nodata',
      'nxdomain',
      'failure',
      'refused',
    ]) {
      expect(reached).toContain(word)
    }
  })
})

const longName = (label: string) => `${`01${label}`.repeat(126)}00`

/** Records of which 64 KiB make as much work as a message can. */
const worst: readonly (readonly [string, Buffer])[] = [
  ['names of 126 labels', Buffer.concat([Buffer.from(longName('61'), 'hex'), record(1, '0a000001')])],
  ['owners that are pointers', Buffer.concat([Buffer.from('c00c', 'hex'), record(16, '')])],
  ['aliases to aliases', Buffer.concat([Buffer.from('c00c', 'hex'), record(5, 'c00c')])],
  ['aliases with long names', Buffer.concat([Buffer.from(longName('61'), 'hex'), record(5, longName('62'))])],
]

function record(type: number, dataHex: string): Buffer {
  const data = Buffer.from(dataHex, 'hex')
  const head = Buffer.alloc(10)
  head.writeUInt16BE(type, 0)
  head.writeUInt16BE(1, 2)
  head.writeUInt32BE(60, 4)
  head.writeUInt16BE(data.length, 8)
  return Buffer.concat([head, data])
}

function largeReply(body: Buffer, count: number): Buffer {
  const front = Buffer.from(query.bytes.subarray(0, query.questionEnd))
  front.writeUInt16BE(0x8180, 2)
  front.writeUInt16BE(count, 6)
  front.writeUInt16BE(0, 10)
  return Buffer.concat([front, body])
}

describe('the work a message can make', () => {
  test.each(worst)('is bounded by its bytes: 64 KiB of %s', (_case, piece) => {
    const count = Math.floor((65_535 - query.questionEnd) / piece.length)
    const body = Buffer.concat(Array.from({ length: count }, () => piece))
    for (const announced of [count, 0xffff]) {
      const bytes = largeReply(body, announced)
      const { view, reads } = countingReads(bytes)
      classify(view, query)
      expect(reads()).toBeGreaterThan(announced === count ? bytes.length / 20 : 0)
      expect(reads()).toBeLessThan(4 * bytes.length + chainReads)
    }
  })

  test('is bounded for a question: no more reads than twice its bytes', () => {
    for (const { bytes } of corpus) {
      const { view, reads } = countingReads(bytes)
      parseQuery(view)
      expect(reads()).toBeLessThanOrEqual(2 * bytes.length + 64)
    }
  })
})

/** 64 answer records are looked at for a chain, each with two names of up to 255 bytes, 17 pointers among them. */
const chainReads = 64 * 2 * (255 + 17 * 4)

test('a resolver whose upstream sends nothing but mutated replies goes on answering', async () => {
  const samples = fc.sample(mutated, 400)
  let next = 0
  const host = await DnsUpstream.open((question) => {
    if (question.name === 'good.example') return scripts.answering('10.0.0.1')(question)
    const junk = Buffer.from(samples[next++ % samples.length] ?? [])
    if (junk.length >= 2) question.raw.copy(junk, 0, 0, 2)
    return [{ bytes: junk }, reply(question, { rcode: 3, authorities: [soa('example')] })]
  })
  const listen = [{ address: '127.0.0.1', port: 0 }]
  const dns = await openDns({ clock: systemClock, log: silentLog, listen, defaultUpstreams: [host.target] })
  const port = dns.listening.port
  await Promise.all(Array.from({ length: 200 }, (_, i) => askUdp(port, questionBytes(`n${i}.example`))))
  expect((await askUdp(port, questionBytes('good.example'))).answers).toMatchObject([{ data: '10.0.0.1' }])
  await dns.close()
  await host.close()
})
