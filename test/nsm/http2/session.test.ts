import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  errorCodes,
  flags,
  frame,
  frameTypes,
  numberFrame,
  preface,
  settingIds,
  settingsPayload,
} from '../../../src/nsm/http2/frames.ts'
import { encodeHeaders, HeaderDecoder } from '../../../src/nsm/http2/hpack.ts'
import type { ServerStream } from '../../../src/nsm/http2/server-stream.ts'
import { cut, readFrames } from './frame-tools.ts'
import { connect, data, endOf, grant, headers, only, raw, request, settings, settled } from './session-rig.ts'

describe('a session', () => {
  test('greets with its limits, acknowledges settings and answers a ping with its bytes', () => {
    const { say, sent } = connect({ greeting: false })
    say(preface, settings(), raw(frameTypes.ping, 0, '12345678'))
    const found = sent()
    expect(found.map(({ type, flags: set }) => [type, set])).toEqual([
      [frameTypes.settings, 0],
      [frameTypes.windowUpdate, 0],
      [frameTypes.settings, flags.ack],
      [frameTypes.ping, flags.ack],
    ])
    expect(found[0]?.payload).toEqual(
      settingsPayload([
        [settingIds.maxStreams, 4],
        [settingIds.maxHeaderList, 1_000],
      ]),
    )
    expect(String(found[3]?.payload)).toBe('12345678')
  })

  test('hands a request on piece by piece, and its end once', () => {
    const { say, heard, streams } = connect()
    say(headers(1), data(1, 'one'), data(1, 'two', flags.endStream))
    expect(heard).toEqual(['1: one', '1: two', '1 end'])
    expect(streams[0]?.fields).toEqual(Object.entries(request).flat())
  })

  test('takes an end without data, and one with trailers', () => {
    const { say, heard } = connect()
    say(headers(1, endOf), headers(3), data(3, 'x'), headers(3, endOf, encodeHeaders({ a: 'b' })))
    expect(heard).toEqual(['1 end', '3: x', '3 end'])
  })

  test('sends an answer that is there in one write: header, body, trailers', () => {
    const { say, streams, writes, sent, heard } = connect()
    say(headers(1))
    const [stream] = streams
    if (!stream) return expect(stream).toBeDefined()
    stream.listener = {
      ...stream.listener,
      onEnd() {
        stream.respond({ ':status': 200 })
        stream.send(Buffer.from('body'))
        stream.end({ 'grpc-status': 0 })
      },
    }
    say(data(1, '', flags.endStream))
    expect(writes).toHaveLength(1)
    const found = sent()
    expect(found.map(({ type, flags: set }) => [type, set])).toEqual([
      [frameTypes.headers, flags.endHeaders],
      [frameTypes.data, 0],
      [frameTypes.headers, endOf],
    ])
    expect(String(found[1]?.payload)).toBe('body')
    expect(heard).toEqual(['1 close'])
  })

  test('sends what is answered later in one write of its turn', async () => {
    const { say, streams, writes } = connect()
    say(headers(1, endOf), headers(3, endOf))
    for (const stream of streams) {
      stream.respond({ ':status': 200 })
      stream.end({ 'grpc-status': 0 })
    }
    expect(writes).toHaveLength(0)
    await settled()
    expect(writes).toHaveLength(1)
  })

  test('tells a client that is answered early to stop, and takes what was under way', () => {
    const { say, streams, sent, heard, state } = connect()
    say(headers(1))
    streams[0]?.respond({ ':status': 415 }, true)
    say(data(1, 'still'), data(1, 'sending', flags.endStream))
    expect(only(sent(), frameTypes.reset).map(({ payload }) => payload.readUInt32BE())).toEqual([errorCodes.none])
    expect([heard, state.isEnded]).toEqual([['1 close'], false])
  })

  test('says nothing more on a stream that the client reset', async () => {
    const { say, streams, sent, heard } = connect()
    say(headers(1, endOf), numberFrame(frameTypes.reset, 1, 8))
    sent()
    streams[0]?.respond({ ':status': 200 })
    expect(streams[0]?.send(Buffer.from('x'))).toBe(true)
    streams[0]?.end({ a: 'b' })
    await settled()
    expect(sent()).toEqual([])
    expect(heard).toEqual(['1 end', '1 close'])
  })

  test('reads a header block in HEADERS and CONTINUATION', () => {
    const { say, streams } = connect()
    const [first = '', second = '', third = ''] = cut(encodeHeaders(request), [5, 9])
    say(headers(1, flags.endStream, Buffer.from(first)), raw(frameTypes.continuation, 1, second))
    expect(streams).toHaveLength(0)
    say(raw(frameTypes.continuation, 1, third, flags.endHeaders))
    expect(streams[0]?.fields).toEqual(Object.entries(request).flat())
  })

  test('closes every stream when the connection is lost, once', () => {
    const { session, say, heard } = connect()
    say(headers(1), headers(3))
    session.lost()
    session.lost()
    expect(heard).toEqual(['1 close', '3 close'])
  })
})

describe('a session and the room of its client', () => {
  const answer = (stream: ServerStream | undefined, bytes: number) => {
    stream?.respond({ ':status': 200 })
    const hasRoom = stream?.send(Buffer.alloc(bytes, 'x'))
    stream?.end({ 'grpc-status': 0 })
    return hasRoom
  }
  const bodyBytes = (found: ReturnType<typeof readFrames>, id?: number) =>
    only(found, frameTypes.data)
      .filter(({ streamId }) => id === undefined || streamId === id)
      .reduce((sum, { payload }) => sum + payload.length, 0)

  test('stops at the window of the stream, and goes on with it to the trailers', async () => {
    const { say, streams, sent } = connect()
    say(headers(1, endOf), grant(0, 1_000_000))
    expect(answer(streams[0], 100_000)).toBe(false)
    await settled()
    expect(bodyBytes(sent())).toBe(65_535)
    say(grant(1, 34_464))
    expect(bodyBytes(sent())).toBe(34_464)
    say(grant(1, 1))
    const rest = sent()
    expect([bodyBytes(rest), rest.at(-1)?.type]).toEqual([1, frameTypes.headers])
  })

  test('stops at the window of the connection and shares it', async () => {
    const { say, streams, sent } = connect()
    say(headers(1, endOf), headers(3, endOf), grant(1, 1_000_000), grant(3, 1_000_000))
    for (const stream of streams) answer(stream, 200_000)
    await settled()
    expect(bodyBytes(sent())).toBe(65_535)
    for (let i = 0; i < 10; i++) say(grant(0, 10_000))
    const found = sent()
    expect(bodyBytes(found)).toBe(100_000)
    expect(Math.abs(bodyBytes(found, 1) - bodyBytes(found, 3))).toBeLessThan(20_001)
  })

  test('follows a window that settings make smaller and larger', async () => {
    const { say, streams, sent } = connect()
    say(settings([[settingIds.initialWindow, 10]]), headers(1, endOf))
    answer(streams[0], 100)
    await settled()
    expect(bodyBytes(sent())).toBe(10)
    say(settings([[settingIds.initialWindow, 5]]), grant(1, 5))
    expect(bodyBytes(sent())).toBe(0)
    say(settings([[settingIds.initialWindow, 1_000]]))
    expect(bodyBytes(sent())).toBe(90)
  })

  test('stops when the socket has no room, and tells the stream when all is gone', async () => {
    const { session, say, streams, sent, state, heard } = connect()
    say(headers(1), grant(0, 10_000_000), grant(1, 10_000_000))
    state.hasRoom = false
    streams[0]?.respond({ ':status': 200 })
    expect(streams[0]?.send(Buffer.alloc(600_000))).toBe(false)
    await settled()
    expect(bodyBytes(sent())).toBeLessThan(300_000)
    state.hasRoom = true
    session.drained()
    await settled()
    expect(bodyBytes(sent())).toBeGreaterThan(300_000)
    expect(heard).toEqual(['1 drain'])
  })

  test('allows as much again as it has read, but not for a stream that is paused', () => {
    const { say, streams, sent } = connect()
    say(headers(1))
    for (let i = 0; i < 3; i++) say(data(1, Buffer.alloc(16_000)))
    const granted = only(sent(), frameTypes.windowUpdate)
    expect(granted.map(({ streamId, payload }) => [streamId, payload.readUInt32BE()])).toEqual([[1, 48_000]])
    streams[0]?.pause()
    for (let i = 0; i < 4; i++) say(data(1, Buffer.alloc(16_000)))
    expect(sent()).toEqual([])
    streams[0]?.resume()
    expect(sent()).toEqual([])
  })

  test('allows the connection as much again as it has read', () => {
    const { say, sent } = connect()
    let granted = 0
    for (let id = 1; id < 81; id += 2) {
      say(
        headers(id),
        data(id, Buffer.alloc(16_000)),
        data(id, Buffer.alloc(16_000)),
        numberFrame(frameTypes.reset, id, 8),
      )
      for (const { streamId, payload } of only(sent(), frameTypes.windowUpdate)) {
        if (streamId === 0) granted += payload.readUInt32BE()
      }
    }
    expect(granted).toBeGreaterThan(700_000)
    expect(granted).toBeLessThanOrEqual(40 * 32_000)
  })
})

describe('a session ends with the code', () => {
  const block = encodeHeaders(request)
  test.each([
    ['PROTOCOL_ERROR for a first frame that is not SETTINGS', errorCodes.protocol, [headers(1)], false],
    ['PROTOCOL_ERROR for an even stream', errorCodes.protocol, [headers(2)]],
    ['PROTOCOL_ERROR for headers on stream 0', errorCodes.protocol, [headers(0)]],
    ['PROTOCOL_ERROR for data on stream 0', errorCodes.protocol, [data(0, 'x')]],
    ['PROTOCOL_ERROR for data on a stream that was never opened', errorCodes.protocol, [data(1, 'x')]],
    ['PROTOCOL_ERROR for data after the end', errorCodes.protocol, [headers(1, endOf), data(1, 'x')]],
    ['PROTOCOL_ERROR for a reset of nothing', errorCodes.protocol, [numberFrame(frameTypes.reset, 1, 8)]],
    ['PROTOCOL_ERROR for trailers that do not end', errorCodes.protocol, [headers(1), headers(1)]],
    ['PROTOCOL_ERROR for a push', errorCodes.protocol, [raw(frameTypes.push, 1, '1234')]],
    ['PROTOCOL_ERROR for settings on a stream', errorCodes.protocol, [raw(frameTypes.settings, 1)]],
    ['PROTOCOL_ERROR for a ping on a stream', errorCodes.protocol, [raw(frameTypes.ping, 1, '12345678')]],
    ['PROTOCOL_ERROR for a window update of 0', errorCodes.protocol, [grant(0, 0)]],
    ['PROTOCOL_ERROR for too much padding', errorCodes.protocol, [headers(1), data(1, '\u0005x', flags.padded)]],
    ['PROTOCOL_ERROR for a frame inside a header block', errorCodes.protocol, [headers(1, 0), data(1, 'x')]],
    [
      'PROTOCOL_ERROR for a continuation of another stream',
      errorCodes.protocol,
      [headers(1, 0), raw(frameTypes.continuation, 3, block, flags.endHeaders)],
    ],
    ['PROTOCOL_ERROR for a continuation of nothing', errorCodes.protocol, [raw(frameTypes.continuation, 1, block)]],
    ['PROTOCOL_ERROR for a strange ENABLE_PUSH', errorCodes.protocol, [settings([[settingIds.enablePush, 2]])]],
    ['PROTOCOL_ERROR for a tiny MAX_FRAME_SIZE', errorCodes.protocol, [settings([[settingIds.maxFrame, 1]])]],
    [
      'FLOW_CONTROL_ERROR for a window beyond 2^31',
      errorCodes.flowControl,
      [settings([[settingIds.initialWindow, 2 ** 31]])],
    ],
    ['FLOW_CONTROL_ERROR for updates beyond 2^31', errorCodes.flowControl, [grant(0, 2 ** 31 - 1)]],
    [
      'FLOW_CONTROL_ERROR for updates of a stream beyond 2^31',
      errorCodes.flowControl,
      [headers(1), grant(1, 2 ** 31 - 1)],
    ],
    ['FRAME_SIZE_ERROR for a ping of 7 bytes', errorCodes.frameSize, [raw(frameTypes.ping, 0, '1234567')]],
    ['FRAME_SIZE_ERROR for a reset of 3 bytes', errorCodes.frameSize, [headers(1), raw(frameTypes.reset, 1, '123')]],
    ['FRAME_SIZE_ERROR for half a setting', errorCodes.frameSize, [raw(frameTypes.settings, 0, '1234')]],
    [
      'FRAME_SIZE_ERROR for an acknowledgement with something in it',
      errorCodes.frameSize,
      [raw(frameTypes.settings, 0, '123456', flags.ack)],
    ],
    ['FRAME_SIZE_ERROR for a window update of 3 bytes', errorCodes.frameSize, [raw(frameTypes.windowUpdate, 0, '123')]],
    [
      'COMPRESSION_ERROR for headers that cannot be read',
      errorCodes.compression,
      [headers(1, endOf, Buffer.from([0x80]))],
    ],
    [
      'ENHANCE_YOUR_CALM for ten continuations',
      errorCodes.calm,
      [headers(1, 0), ...Array.from({ length: 9 }, () => raw(frameTypes.continuation, 1, ''))],
    ],
    [
      'ENHANCE_YOUR_CALM for a header block of 80 KiB',
      errorCodes.calm,
      [headers(1, 0), ...Array.from({ length: 5 }, () => raw(frameTypes.continuation, 1, Buffer.alloc(16_384)))],
    ],
  ])('%s', (_what, code, frames, greeting = true) => {
    const { say, sent, state, streams } = connect()
    if (greeting) say(...frames)
    else return expectEnd(connectRaw(frames), code)
    expectEnd({ found: sent(), isEnded: state.isEnded }, code)
    expect(streams.every(({ isClosed }) => isClosed)).toBe(true)
    say(headers(99, endOf))
    expect(sent()).toEqual([])
  })

  test('FLOW_CONTROL_ERROR for a client that sends beyond the window of a stream', () => {
    const { say, sent, streams, state } = connect()
    say(headers(1))
    streams[0]?.pause()
    for (let i = 0; i < 5; i++) say(data(1, Buffer.alloc(16_000)))
    expectEnd({ found: sent(), isEnded: state.isEnded }, errorCodes.flowControl)
  })

  test('ENHANCE_YOUR_CALM for a client that has us answer and does not read', () => {
    const { say, sent, state } = connect()
    state.unsentBytes = 5 * 1024 * 1024
    say(raw(frameTypes.ping, 0, '12345678'))
    expectEnd({ found: sent(), isEnded: state.isEnded }, errorCodes.calm)
  })

  function connectRaw(frames: readonly Buffer[]) {
    const { say, sent, state } = connect({ greeting: false })
    say(preface, ...frames)
    return { found: sent(), isEnded: state.isEnded }
  }

  function expectEnd(
    { found, isEnded }: { readonly found: ReturnType<typeof readFrames>; readonly isEnded: boolean },
    code: number,
  ) {
    const [goaway] = only(found, frameTypes.goaway)
    expect(goaway?.payload.readUInt32BE(4)).toBe(code)
    expect(isEnded).toBe(true)
  }
})

describe('a session and calls that nobody wants', () => {
  const resetCodes = (found: ReturnType<typeof readFrames>) =>
    only(found, frameTypes.reset).map(({ streamId, payload }) => [streamId, payload.readUInt32BE()])

  test('refuses a stream over the limit, and takes one again when another has ended', () => {
    const { say, streams, sent } = connect()
    say(...[1, 3, 5, 7, 9].map((id) => headers(id, endOf)))
    expect(resetCodes(sent())).toEqual([[9, errorCodes.refusedStream]])
    say(numberFrame(frameTypes.reset, 1, 8), headers(11, endOf))
    expect(streams.map(({ id }) => id)).toEqual([1, 3, 5, 7, 11])
  })

  test.each([
    ['without a path', { ':method': 'POST', ':scheme': 'https' }],
    ['without a method', { ':path': '/a', ':scheme': 'https' }],
    ['with a pseudo field behind others', { ':method': 'POST', ':scheme': 'https', a: 'b', ':path': '/a' }],
    ['with a name in capitals', { ...request, Te: 'trailers' }],
  ])('resets a request %s and serves the next', (_what, fields) => {
    const { say, streams, sent } = connect()
    say(headers(1, endOf, encodeHeaders(fields)), headers(3, endOf))
    expect(resetCodes(sent())).toEqual([[1, errorCodes.protocol]])
    expect(streams.map(({ id }) => id)).toEqual([3])
  })

  test('resets a request whose header list is too large, and still knows what it compressed', () => {
    const { say, streams, sent } = connect()
    const kept = Buffer.concat([Buffer.from('40016101', 'hex'), Buffer.from('b')])
    const large = Buffer.concat([kept, encodeHeaders({ ...request, b: 'x'.repeat(2_000) })])
    say(headers(1, endOf, large), headers(3, endOf, Buffer.concat([encodeHeaders(request), Buffer.from([0xbe])])))
    expect(resetCodes(sent())).toEqual([[1, errorCodes.calm]])
    expect(streams[0]?.fields.slice(-2)).toEqual(['a', 'b'])
  })

  test('ends a client that opens and resets in a flood, and not one that does so now and then', () => {
    const { say, state, pass } = connect()
    let id = 1
    const openAndReset = () => {
      say(headers(id), numberFrame(frameTypes.reset, id, 8))
      id += 2
    }
    for (let i = 0; i < 1_000; i++) {
      openAndReset()
      pass(20)
    }
    expect(state.isEnded).toBe(false)
    for (let i = 0; i < 501; i++) openAndReset()
    expect(state.isEnded).toBe(true)
  })

  test('leaving, it takes new streams; closing, it refuses them and ends with the last', () => {
    const { session, say, streams, sent, state } = connect()
    say(headers(1, endOf))
    session.leave()
    say(headers(3, endOf))
    session.close()
    say(headers(5, endOf), data(5, 'under way'))
    const found = sent()
    expect(only(found, frameTypes.goaway).map(({ payload }) => payload.readUInt32BE())).toEqual([2 ** 31 - 1, 3])
    expect(resetCodes(found)).toEqual([[5, errorCodes.refusedStream]])
    for (const stream of streams) {
      expect(state.isEnded).toBe(false)
      stream.respond({ ':status': 200 }, true)
    }
    expect(state.isEnded).toBe(true)
    expect(only(sent(), frameTypes.headers)).toHaveLength(2)
  })

  test('hears the answer to its ping once', () => {
    const { session, say } = connect()
    let pongs = 0
    session.ping(() => pongs++)
    for (let i = 0; i < 2; i++) say(raw(frameTypes.ping, 0, '\0\0\0\0\0\0\0\0', flags.ack))
    expect(pongs).toBe(1)
  })
})

describe('a session and anything at all', () => {
  const someFrame = fc
    .record({
      type: fc.nat(11),
      flags: fc.constantFrom(0, 1, 4, 5, 8, 9, 0x2d),
      streamId: fc.constantFrom(0, 1, 2, 3, 5, 7, 9),
      payload: fc.oneof(
        fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
        fc.constantFrom(encodeHeaders(request), Buffer.alloc(4, 1), Buffer.alloc(8), settingsPayload([[4, 9]])),
      ),
    })
    .map((one) => frame(one, one.payload))
  const act = fc.constantFrom('respond', 'send', 'end', 'pause', 'resume', 'none')

  test('never throws, closes what it opened and speaks in whole frames', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(someFrame, act), { maxLength: 40 }), (steps) => {
        const { session, say, streams, heard, writes } = connect()
        for (const [bytes, what] of steps) {
          say(bytes)
          for (const stream of streams) {
            if (what === 'respond') stream.respond({ ':status': 200 })
            if (what === 'send' && stream.hasHeaders) stream.send(Buffer.alloc(20_000))
            if (what === 'end' && stream.hasHeaders) stream.end({ 'grpc-status': 0 })
            if (what === 'pause') stream.pause()
            if (what === 'resume') stream.resume()
          }
        }
        session.lost()
        expect(heard.filter((line) => line.endsWith('close')).sort()).toEqual(
          streams.map(({ id }) => `${id} close`).sort(),
        )
        const decoder = new HeaderDecoder(10_000)
        for (const one of only(readFrames(Buffer.concat(writes)), frameTypes.headers)) {
          expect(decoder.decode(one.payload)).toBeDefined()
        }
      }),
    )
  })
})
