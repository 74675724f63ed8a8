import { once } from 'node:events'
import { type Duplex, duplexPair } from 'node:stream'
import dnsPacket from 'dns-packet'
import { beforeEach, describe, expect, test } from 'vitest'
import { parseAddress, parsePrefix } from '../../src/base/ip.ts'
import { type GatewayStream, serveGatewayTcp } from '../../src/endpoint/gateway-tcp.ts'
import { QueryRate, queriesPerSecondMax } from '../../src/endpoint/query-rate.ts'
import { type Question, SiteNames } from '../../src/endpoint/site-names.ts'
import type { ZoneSource } from '../../src/endpoint/zone.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'

/* The gateway over streams of this process; test/netns shows the same over the engine's own TCP. */

const many = Array.from({ length: 150 }, (_, i) => `10.64.9.${i}`)
const zone: ZoneSource = {
  dnsDomain: 'blue.nsm.internal',
  prefixes: [parsePrefix('10.64.0.0/16')],
  gateways: [parseAddress('10.64.0.0')],
  addressesOf: (label) => (label === 'many' ? many : label === 'web' ? ['10.64.0.7'] : undefined),
  labelOf: () => undefined,
}

let clock: FakeClock
let connect: (from?: string) => Duplex

async function serve(names: Pick<SiteNames, 'answer'>): Promise<void> {
  let accept: (stream: GatewayStream) => void = () => {}
  const hub = {
    async listenTcp(port: number, onConnection: typeof accept) {
      expect(port).toBe(53)
      accept = onConnection
    },
  }
  await serveGatewayTcp(hub, { names, rate: new QueryRate(), gateways: zone.gateways, clock })
  connect = (from = '10.64.0.9') => {
    const [mine, theirs] = duplexPair({ allowHalfOpen: true })
    // As the network does it: an end that is broken off breaks the other.
    theirs.on('close', () => mine.destroy())
    accept(Object.assign(theirs, { remoteAddress: from, remotePort: 40_000 }))
    return mine.on('error', () => {})
  }
}

beforeEach(() => {
  clock = createFakeClock()
  return serve(new SiteNames({ zone, others: () => [], port: 1, send: () => {}, clock }))
})

function question(name: string, id = 7): Buffer {
  const questions = [{ type: 'A', name: `${name}.blue.nsm.internal` }] as const
  return dnsPacket.streamEncode({ type: 'query', id, questions: [...questions] })
}

/** The messages of a stream until its end. */
async function answersOf(stream: Duplex) {
  const chunks: Buffer[] = []
  stream.on('data', (chunk) => chunks.push(chunk))
  await once(stream, 'end')
  let rest = Buffer.concat(chunks)
  const answers = []
  while (rest.length > 0) {
    const bytes = 2 + rest.readUInt16BE(0)
    answers.push(dnsPacket.streamDecode(rest.subarray(0, bytes)))
    rest = rest.subarray(bytes)
  }
  return answers
}

describe('the gateway over TCP', () => {
  test('answers what UDP would cut, whole and with authority', async () => {
    const stream = connect()
    stream.end(question('many'))
    const [answer] = await answersOf(stream)
    expect(answer).toMatchObject({ id: 7, flag_tc: false, flag_aa: true, rcode: 'NOERROR' })
    expect(answer?.answers?.map((record) => 'data' in record && record.data)).toEqual(many)
  })

  test('answers several questions of one connection, and a byte at a time is fine', async () => {
    const stream = connect()
    const whole = Buffer.concat([question('web', 1), question('nobody', 2), question('web', 3)])
    for (const byte of whole) stream.write(Buffer.of(byte))
    stream.end()
    const answers = await answersOf(stream)
    expect(answers.map(({ id, answers: records }) => [id, records?.length])).toEqual([
      [1, 1],
      [2, 0],
      [3, 1],
    ])
  })

  test('closes a connection that says nothing for ten seconds, and keeps one that does', async () => {
    const [silent, busy] = [connect(), connect()]
    let closed = false
    silent.resume().on('close', () => {
      closed = true
    })
    await clock.advance(9_000)
    busy.write(question('web'))
    await once(busy, 'data')
    await clock.advance(2_000)
    await expect.poll(() => closed).toBe(true)
    busy.write(question('web'))
    await once(busy, 'data')
  })

  test.each([
    ['a length below a header', Buffer.of(0, 4, 1, 2, 3, 4)],
    ['a length beyond all questions', Buffer.of(0xff, 0xff)],
    ['an answer', Buffer.concat([Buffer.of(0, 12), Buffer.of(0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0)])],
  ])('breaks off a connection that sends %s', async (_name, bytes) => {
    const stream = connect().resume()
    const closed = once(stream, 'close')
    stream.write(bytes)
    await closed
  })

  test('breaks off a member that asks too fast, and no other', async () => {
    const greedy = connect()
    let answered = 0
    greedy.on('data', () => answered++)
    const closed = once(greedy, 'close')
    for (let i = 0; i <= queriesPerSecondMax && !greedy.destroyed; i++) greedy.write(question('web', i))
    await closed
    expect(answered).toBeLessThanOrEqual(queriesPerSecondMax)
    const other = connect('10.64.0.10')
    other.end(question('web'))
    expect(await answersOf(other)).toHaveLength(1)
  })

  test('waits for nothing any more when the answer comes after its member has gone', async () => {
    const asked = Promise.withResolvers<Question>()
    await serve({ answer: asked.resolve })
    const stream = connect()
    const ended = new Promise((resolve) => stream.once('close', resolve))
    stream.write(question('elsewhere'))
    const { reply, message } = await asked.promise
    await clock.advance(10_000)
    await ended
    reply(message)
    expect(clock.waiting).toBe(0)
  })
})
