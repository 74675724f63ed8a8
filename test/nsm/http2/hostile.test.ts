import { describe, expect, test } from 'vitest'
import {
  errorCodes,
  type Frame,
  FrameReader,
  flags,
  frameTypes,
  numberFrame,
  preface,
  settingIds,
} from '../../../src/nsm/http2/frames.ts'
import { encodeHeaders, HeaderDecoder } from '../../../src/nsm/http2/hpack.ts'
import { connect, data, endOf, grant, headers, only, raw, request, settings, settled } from './session-rig.ts'

const calmEnd = (found: readonly Frame[]) =>
  found.filter(({ type }) => type === frameTypes.goaway).map(({ payload }) => payload.readUInt32BE(4))
const resets = (found: readonly Frame[]) =>
  found
    .filter(({ type }) => type === frameTypes.reset)
    .map(({ streamId, payload }) => [streamId, payload.readUInt32BE()])

describe('a flood of frames that move nothing', () => {
  const ping = raw(frameTypes.ping, 0, '12345678')
  const floods: [string, Buffer][] = [
    ['PING', ping],
    ['answers to a PING that nobody sent', raw(frameTypes.ping, 0, '12345678', flags.ack)],
    ['SETTINGS', settings()],
    ['acknowledged SETTINGS', raw(frameTypes.settings, 0, '', flags.ack)],
    ['PRIORITY', raw(frameTypes.priority, 1, '12345')],
    ['empty DATA', data(1, '')],
    ['DATA of padding only', raw(frameTypes.data, 1, Buffer.from([3, 0, 0, 0]), flags.padded)],
    ['WINDOW_UPDATE', grant(1, 1)],
    ['WINDOW_UPDATE of the connection', grant(0, 1)],
    ['a type that nobody knows', raw(0xbb, 0, 'x')],
    ['RST_STREAM of a call that is over', numberFrame(frameTypes.reset, 3, 8)],
    ['HEADERS of a call that is over', headers(3, endOf)],
  ]
  const begin = () => {
    const rig = connect()
    rig.say(headers(1), headers(3, endOf))
    rig.streams[1]?.respond({ ':status': 200 }, true)
    rig.sent()
    return rig
  }

  test.each(floods)('ends the connection: %s', (_what, one) => {
    const { say, sent, state } = begin()
    for (let i = 0; i < 30 && !state.isEnded; i++) say(...Array.from({ length: 100 }, () => one))
    expect([state.isEnded, calmEnd(sent())]).toEqual([true, [errorCodes.calm]])
  })

  test.each(floods.slice(0, -1))('is none at a rate that programs have: %s', (_what, one) => {
    const { say, state, pass } = begin()
    for (let i = 0; i < 4_000; i++) {
      say(one)
      pass(10)
    }
    expect(state.isEnded).toBe(false)
  })

  test('is none when calls go with it: a Go client answers each answer with three', () => {
    const { say, state, streams, sent } = begin()
    for (let id = 5; id < 20_005; id += 2) {
      say(headers(id, endOf))
      streams.at(-1)?.respond({ ':status': 200 }, true)
      say(grant(0, 1), ping, settings())
    }
    expect([state.isEnded, calmEnd(sent())]).toEqual([false, []])
  })

  test('is none when answers of one call go with it, and is one when they are drawn out byte by byte', async () => {
    const { say, state, streams, sent } = begin()
    say(grant(0, 1_000_000_000), grant(1, 1_000_000_000))
    streams[0]?.respond({ ':status': 200 })
    for (let i = 0; i < 5_000; i++) {
      streams[0]?.send(Buffer.alloc(10))
      say(grant(1, 1), ping, settings())
    }
    await settled()
    expect([state.isEnded, calmEnd(sent())]).toEqual([false, []])
    say(settings([[settingIds.initialWindow, 0]]), headers(5, endOf))
    streams.at(-1)?.respond({ ':status': 200 })
    streams.at(-1)?.send(Buffer.alloc(100_000))
    for (let i = 0; i < 3_000; i++) say(grant(5, 1))
    expect([state.isEnded, calmEnd(sent())]).toEqual([true, [errorCodes.calm]])
  })
})

describe('a client that does not take its answers', () => {
  const answer = (rig: ReturnType<typeof connect>, bytes: number) => {
    const stream = rig.streams.at(-1)
    stream?.respond({ ':status': 200 })
    stream?.send(Buffer.alloc(bytes))
    stream?.end({ 'grpc-status': 0 })
  }
  const takeAndLook = (rig: ReturnType<typeof connect>, taken: Buffer, times: number) => {
    for (let i = 0; i < times; i++) {
      rig.say(taken)
      rig.session.endStalled()
    }
  }
  const shut = () => {
    const rig = connect()
    rig.say(settings([[settingIds.initialWindow, 0]]), grant(0, 2 ** 30))
    rig.sent()
    return rig
  }

  test('loses the call whose window it never opens, after two looks, and no other', async () => {
    const rig = shut()
    rig.say(headers(1, endOf))
    answer(rig, 10)
    rig.say(headers(3))
    await settled()
    rig.session.endStalled()
    expect(rig.heard).not.toContain('1 close')
    rig.session.endStalled()
    await settled()
    expect(resets(rig.sent())).toEqual([[1, errorCodes.calm]])
    expect(rig.heard.filter((line) => line.endsWith('close'))).toEqual(['1 close'])
    expect(rig.session.openStreams).toBe(1)
  })

  test('keeps a call that it takes piece by piece, and loses one that it takes byte by byte', () => {
    const rig = shut()
    rig.say(headers(1, endOf))
    answer(rig, 100_000)
    takeAndLook(rig, grant(1, 2_000), 10)
    expect(rig.heard).not.toContain('1 close')
    takeAndLook(rig, grant(1, 1), 2)
    expect(rig.heard).toContain('1 close')
  })

  test('loses nothing while its connection moves on: a slow line has its answers wait for each other', () => {
    const rig = connect()
    rig.say(settings([[settingIds.initialWindow, 2 ** 30]]), headers(1, endOf))
    answer(rig, 300_000)
    rig.say(headers(3, endOf))
    answer(rig, 300_000)
    takeAndLook(rig, grant(0, 2_000), 10)
    expect(rig.heard).not.toContain('1 close')
    expect(rig.heard).not.toContain('3 close')
  })

  test('loses its connection when the socket does not move either', () => {
    const rig = connect()
    rig.state.hasRoom = false
    rig.say(headers(1, endOf))
    answer(rig, 100_000)
    rig.say(grant(1, 1))
    for (const [unsentBytes, isEnded] of [
      [5_000, false],
      [4_000, false],
      [4_000, true],
    ] as const) {
      rig.state.unsentBytes = unsentBytes
      rig.session.endStalled()
      expect(rig.state.isEnded).toBe(isEnded)
    }
  })

  test('has 8 MiB wait for it at most: the call beyond is reset, and those before come when it reads', async () => {
    const rig = shut()
    for (const id of [1, 3]) {
      rig.say(headers(id, endOf))
      answer(rig, 4 * 1024 * 1024)
    }
    rig.say(headers(5, endOf))
    answer(rig, 1)
    await settled()
    expect(resets(rig.sent())).toEqual([[5, errorCodes.calm]])
    rig.say(grant(1, 2 ** 30))
    rig.say(headers(7, endOf))
    answer(rig, 4 * 1024 * 1024)
    await settled()
    expect(resets(rig.sent())).toEqual([])
    rig.say(numberFrame(frameTypes.reset, 3, 8), numberFrame(frameTypes.reset, 7, 8), headers(9, endOf))
    answer(rig, 8 * 1024 * 1024)
    await settled()
    expect(resets(rig.sent())).toEqual([])
  })
})

describe('a session that is over', () => {
  test('says nothing more, whatever its timers want', async () => {
    const { session, say, writes } = connect()
    say(raw(frameTypes.push, 0))
    await settled()
    writes.length = 0
    session.ping(() => {})
    session.leave()
    session.close()
    session.endStalled()
    await settled()
    expect(writes).toEqual([])
  })

  test('never names a later last stream than it has: a client may have asked elsewhere already', () => {
    const { session, say, sent } = connect()
    say(headers(1))
    session.close()
    say(headers(3, endOf), raw(frameTypes.push, 0))
    expect(only(sent(), frameTypes.goaway).map(({ payload }) => payload.readUInt32BE())).toEqual([1, 1])
  })
})

describe('a client with rules of its own', () => {
  test('that wants no table is told once that we use none', async () => {
    const { say, streams, sent } = connect()
    say(raw(frameTypes.settings, 0, Buffer.from('000100000000', 'hex')), headers(1, endOf), headers(3, endOf))
    for (const stream of streams) stream.respond({ ':status': 200 }, true)
    await settled()
    const blocks = only(sent(), frameTypes.headers).map(({ payload }) => payload)
    expect(blocks).toEqual([
      Buffer.concat([Buffer.from([0x20]), encodeHeaders({ ':status': 200 })]),
      encodeHeaders({ ':status': 200 }),
    ])
  })

  test('that changes the size of its table behind a field has no table that both sides know', () => {
    const decoder = new HeaderDecoder(1_000)
    expect(decoder.decode(Buffer.from([0x20, 0x82]))).toBeDefined()
    expect(decoder.decode(Buffer.from([0x82, 0x20]))).toBeUndefined()
  })
})

test('a frame that comes byte by byte is copied byte by byte, not as a whole each time', () => {
  const reader = new FrameReader()
  const bytes = Buffer.concat([preface, data(1, Buffer.alloc(16_000, 'x')), headers(3, endOf, encodeHeaders(request))])
  const seen: string[] = []
  let copiedBytes = 0
  const { concat, from } = Buffer
  Buffer.concat = (list, total) => {
    const whole = concat(list, total)
    copiedBytes += whole.length
    return whole
  }
  try {
    for (const byte of bytes) reader.push(from([byte]), ({ type, payload }) => seen.push(`${type} ${payload.length}`))
  } finally {
    Buffer.concat = concat
  }
  expect(seen).toEqual([`${frameTypes.data} 16000`, `${frameTypes.headers} ${encodeHeaders(request).length}`])
  expect(copiedBytes).toBeLessThan(10 * bytes.length)
})
