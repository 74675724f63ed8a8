import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { openDns } from '../../src/dns/dns.ts'
import { askTcp, askUdp, questionBytes } from '../support/dns-client.ts'
import { DnsUpstream, type ScriptedQuestion } from '../support/dns-upstream.ts'
import { createFakeClock } from '../support/fake-clock.ts'

/* Records no codec of npm keeps whole go through the resolver byte for byte: id, flags and OPT are all that changes. */

const name = 'x.case.test'
const questionEnd = questionBytes(name).length
const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex')
const owner = 'c00c'
const ttl = '0000003c'

/** One record: owner, type, class IN and RDATA in hex. */
function record(type: number, dataHex: string, ownerHex = owner): string {
  const data = hex(dataHex)
  const number = (value: number) => value.toString(16).padStart(4, '0')
  return `${ownerHex}${number(type)}0001${ttl}${number(data.length)}${data.toString('hex')}`
}

interface Unusual {
  readonly type: number
  readonly answers: readonly string[]
  readonly authority?: readonly string[]
  readonly additional?: readonly string[]
}

const opt = '000029 04d0 00000000 0000'
const optWithCookie = '000029 04d0 00000000 000c 000a 0008 0102030405060708'
const signature = `0001 08 03 0000003c 65000000 64000000 1234 0463617365047465737400 ${'ab'.repeat(64)}`

const cases: Readonly<Record<string, Unusual>> = {
  'binary TXT with zero bytes and UTF-8 that is none': {
    type: 16,
    answers: [record(16, '04 00ff80c3 00 03 22 5c 41')],
  },
  'a TXT of an empty string': { type: 16, answers: [record(16, '00')] },
  'a record without data': { type: 42, answers: [record(42, '')] },
  'a type nobody knows': { type: 65280, answers: [record(65280, 'deadbeef')] },
  'a label with a dot and a label with a high byte': { type: 5, answers: [record(5, '03 61 2e 62 02 ff fe 00')] },
  'names pointed to inside the data of another record': {
    type: 15,
    answers: [record(15, '000a 046d61696c c00e'), record(15, `0014 c0${(questionEnd + 14).toString(16)}`)],
  },
  'an owner written out in other case': { type: 1, answers: [record(1, '0a000001', '01580443615365 045465537400')] },
  'HTTPS with parameters': { type: 65, answers: [record(65, '0001 00 0001 0003 02 68 32 0004 0004 0a000001')] },
  'NAPTR, LOC and CAA beside each other': {
    type: 35,
    answers: [record(35, '0064 000a 01 75 07 4532552b736970 00 00')],
    additional: [record(29, '00 12 16 13 89174cb0 70be15f0 00989680'), record(257, '00 05 6973737565 63612e74657374')],
  },
  'RRSIG and NSEC of a "no"': {
    type: 1,
    answers: [],
    authority: [
      record(47, '017a c00e 00 06 400000000003'),
      record(46, `${signature}`),
      record(6, 'c00e c00e 00000001 00000002 00000003 00000004 0000003c', 'c00e'),
    ],
  },
  'additional records behind the OPT': {
    type: 1,
    answers: [record(1, '0a000001')],
    additional: [opt, record(1, '0a000002')],
  },
  'an OPT with a cookie': { type: 1, answers: [record(1, '0a000001')], additional: [optWithCookie] },
  'forty records': {
    type: 1,
    answers: Array.from({ length: 40 }, (_, i) => record(1, `0a0000${i.toString(16).padStart(2, '0')}`)),
  },
}

const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

async function open(unusual: Unusual): Promise<number> {
  const host = await DnsUpstream.open((question) => [{ bytes: upstreamReply(question, unusual) }])
  const listen = [{ address: '127.0.0.1', port: 0 }]
  const dns = await openDns({ clock: createFakeClock(), log: silentLog, listen, defaultUpstreams: [host.target] })
  closers.push(
    () => dns.close(),
    () => host.close(),
  )
  return dns.listening.port
}

function upstreamReply({ raw }: ScriptedQuestion, { answers, authority = [], additional = [] }: Unusual): Buffer {
  const front = Buffer.from(raw.subarray(0, questionEnd))
  front.writeUInt16BE(0x8500, 2)
  for (const [i, section] of [answers, authority, additional].entries()) front.writeUInt16BE(section.length, 6 + 2 * i)
  return Buffer.concat([front, ...[...answers, ...authority, ...additional].map(hex)])
}

/** What a client without EDNS must get: the same records without the OPT. */
function expected({ answers, authority = [], additional = [] }: Unusual, id: number): Buffer {
  const kept = additional.filter((one) => !one.startsWith('000029'))
  const front = Buffer.from(questionBytes(name, { id }))
  front.writeUInt16BE(0x8580, 2)
  for (const [i, section] of [answers, authority, kept].entries()) front.writeUInt16BE(section.length, 6 + 2 * i)
  return Buffer.concat([front, ...[...answers, ...authority, ...kept].map(hex)])
}

function ask(type: number, id: number, edns: boolean): Buffer {
  const question = questionBytes(name, { id, ...(edns ? { edns: 1232 } : {}) })
  question.writeUInt16BE(type, questionEnd - 4)
  return question
}

describe('a reply with', () => {
  test.each(Object.entries(cases))(
    '%s reaches a TCP client byte for byte, and again from the cache',
    async (_what, unusual) => {
      const port = await open(unusual)
      for (const id of [7, 8]) {
        const [found] = await askTcp(port, [ask(unusual.type, id, false)])
        expect(found?.bytes.toString('hex')).toBe(bytesFor(unusual, id).toString('hex'))
      }
    },
  )

  test.each(Object.entries(cases))('%s reaches a UDP client with our own OPT and no other', async (_what, unusual) => {
    const port = await open(unusual)
    const { bytes } = await askUdp(port, ask(unusual.type, 9, true))
    const want = bytesFor(unusual, 9)
    want.writeUInt16BE(want.readUInt16BE(10) + 1, 10)
    expect(bytes.toString('hex')).toBe(Buffer.concat([want, hex(opt)]).toString('hex'))
  })
})

function bytesFor(unusual: Unusual, id: number): Buffer {
  const bytes = expected(unusual, id)
  bytes.writeUInt16BE(unusual.type, questionEnd - 4)
  return bytes
}
