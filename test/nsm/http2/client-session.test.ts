import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { errorCodes, flags, frameTypes, preface, settingIds, settingsPayload } from '../../../src/nsm/http2/frames.ts'
import { encodeHeaders } from '../../../src/nsm/http2/hpack.ts'
import { answer, connectTo, goaway, okHeader, reset, trailers } from './client-rig.ts'
import { data, grant, only, raw, settings } from './session-rig.ts'

const typesOf = (found: readonly { type: number }[]) => found.map(({ type }) => type)
const goawayCode = (found: ReturnType<typeof only>) =>
  only(found, frameTypes.goaway).map(({ payload }) => payload.readUInt32BE(4))
const said = '1 header :status 200 content-type application/grpc'

describe('a client session', () => {
  test('begins with the preface, refuses pushes, and is ready with the settings of the server', async () => {
    const { session, writes, heard, say, sent } = connectTo({ greeting: false })
    await new Promise((resolve) => setImmediate(resolve))
    expect(Buffer.concat(writes).subarray(0, preface.length)).toEqual(preface)
    const [first, second] = await sent()
    expect(first?.payload.subarray(0, 6)).toEqual(settingsPayload([[settingIds.enablePush, 0]]))
    expect(second?.type).toBe(frameTypes.windowUpdate)
    expect([session.hasRoom, heard]).toEqual([false, []])
    say(settings())
    expect([session.hasRoom, heard]).toEqual([true, ['ready']])
    expect(await sent()).toMatchObject([{ type: frameTypes.settings, flags: flags.ack }])
  })

  test('asks on odd streams, one after the other, and ends its half with the last bytes', async () => {
    const { sent, open } = connectTo()
    await sent()
    open()
    open()
    const found = await sent()
    expect(found.map(({ streamId }) => streamId)).toEqual([1, 1, 3, 3])
    expect(found.map(({ type, flags: set }) => [type, set])).toEqual(
      [1, 2].flatMap(() => [
        [frameTypes.headers, flags.endHeaders],
        [frameTypes.data, flags.endStream],
      ]),
    )
  })

  test.each([
    [
      'header, body, trailers',
      [answer(1), data(1, 'a'), trailers(1)],
      [said, '1: a', '1 header grpc-status 0 last', '1 end', '1 whole'],
    ],
    ['trailers only', [trailers(1, okHeader)], [`${said} last`, '1 end', '1 whole']],
    [
      'a body that ends without trailers',
      [answer(1), data(1, 'a', flags.endStream)],
      [said, '1: a', '1 end', '1 whole'],
    ],
    ['a reset', [answer(1), reset(1, 8)], [said, '1 reset 8']],
    ['a goaway that leaves it out', [goaway(0)], ['leaving', '1 unprocessed']],
    [
      'a header that is too large',
      [answer(1, encodeHeaders({ ':status': 200, x: 'y'.repeat(1_000) }))],
      ['1 too-large'],
    ],
    ['a header with a name in upper case', [answer(1, encodeHeaders({ X: '1' }))], ['1 reset 1']],
  ])('hears of %s', (_what, frames, expected) => {
    const { heard, say, open } = connectTo()
    open()
    say(...frames)
    expect(heard.slice(1)).toEqual(expected)
  })

  test('says that it needs no more when the server has answered before the question was over', async () => {
    const { heard, say, sent, open } = connectTo()
    const stream = open(false)
    stream.send(Buffer.from('half'))
    await sent()
    say(answer(1), trailers(1))
    expect(heard.at(-1)).toBe('1 whole')
    expect(only(await sent(), frameTypes.reset).map(({ streamId }) => streamId)).toEqual([1])
    expect(stream.send(Buffer.from('rest'))).toBe(true)
    expect(await sent()).toEqual([])
  })

  test('waits for the window of a stream and ends it with its last piece', async () => {
    const { heard, say, sent, open } = connectTo({ greeting: false })
    say(settings([[settingIds.initialWindow, 3]]))
    await sent()
    open()
    expect(only(await sent(), frameTypes.data).map(({ payload, flags: set }) => [String(payload), set])).toEqual([
      ['que', 0],
    ])
    say(grant(1, 100))
    expect(only(await sent(), frameTypes.data).map(({ payload, flags: set }) => [String(payload), set])).toEqual([
      ['stion', flags.endStream],
    ])
    expect(heard).toEqual(['ready'])
  })

  test('ends its half without bytes, and tells when there is room again', async () => {
    const { heard, say, sent, open } = connectTo({ greeting: false })
    say(settings([[settingIds.initialWindow, 1]]))
    const stream = open(false)
    expect(stream.send(Buffer.from('ab'))).toBe(false)
    await sent()
    say(grant(1, 1))
    expect(heard.at(-1)).toBe('1 drain')
    stream.finish()
    stream.finish()
    expect(only(await sent(), frameTypes.data).map(({ payload, flags: set }) => [String(payload), set])).toEqual([
      ['b', 0],
      ['', flags.endStream],
    ])
  })

  test('has no room beyond the streams that the server allows, until one ends or it allows more', () => {
    const { session, say, open } = connectTo({ greeting: false })
    say(settings([[settingIds.maxStreams, 1]]))
    open()
    expect(session.hasRoom).toBe(false)
    say(trailers(1, okHeader))
    expect(session.hasRoom).toBe(true)
    open()
    expect(session.hasRoom).toBe(false)
    say(settings([[settingIds.maxStreams, 2]]))
    expect(session.hasRoom).toBe(true)
  })

  test('finishes what is under way after a goaway, and then ends the connection', () => {
    const { session, heard, state, say, open } = connectTo()
    open()
    say(goaway(2 ** 31 - 1), goaway(1))
    expect([session.hasRoom, heard.slice(1), state.isEnded]).toEqual([false, ['leaving'], false])
    say(trailers(1, okHeader))
    expect([heard.at(-1), state.isEnded]).toEqual(['1 whole', true])
    expect(heard.filter((one) => one === 'leaving')).toHaveLength(1)
  })

  test('ends at once when nothing is under way at a goaway', () => {
    const { state, say } = connectTo()
    say(goaway(0))
    expect(state.isEnded).toBe(true)
  })

  test('resets a stream that nobody wants, and passes over what was on its way', async () => {
    const { heard, state, say, sent, open } = connectTo()
    open().reset(errorCodes.cancel)
    open()
    expect(only(await sent(), frameTypes.reset).map(({ payload }) => payload.readUInt32BE())).toEqual([
      errorCodes.cancel,
    ])
    say(answer(1), ...Array.from({ length: 5_000 }, () => data(1, 'late')), trailers(1))
    expect([heard.slice(1), state.isEnded]).toEqual([['1 ours'], false])
    say(trailers(3, okHeader))
    expect(heard.at(-1)).toBe('3 whole')
  })

  test('closes with a word: resets, a goaway, and the end', async () => {
    const { session, heard, state, sent, open } = connectTo()
    open()
    await sent()
    session.close()
    expect(typesOf(await sent())).toEqual([frameTypes.reset, frameTypes.goaway])
    expect([heard.slice(1), state.isEnded]).toEqual([['1 lost', 'leaving'], true])
  })

  test('loses its streams with the connection', () => {
    const { session, heard, open } = connectTo()
    open()
    session.lost()
    expect([heard.at(-1), session.hasRoom]).toEqual(['1 lost', false])
  })
})

describe('a hostile server', () => {
  const block = okHeader
  test.each([
    ['speaks before its settings', [answer(1)], errorCodes.protocol, false],
    ['answers with HTTP/1.1', [Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')], errorCodes.frameSize, false],
    [
      'pushes',
      [raw(frameTypes.push, 1, Buffer.concat([Buffer.alloc(4), block]), flags.endHeaders)],
      errorCodes.protocol,
    ],
    ['opens a stream of its own', [answer(2)], errorCodes.protocol],
    ['answers what was never asked', [answer(3)], errorCodes.protocol],
    ['sends a body for what was never asked', [data(3, 'x')], errorCodes.protocol],
    ['resets what was never asked', [reset(3, 8)], errorCodes.protocol],
    ['sends headers that are none', [answer(1, Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff]))], errorCodes.compression],
    ['sends another frame inside a header', [answer(1, block, 0), data(1, 'x')], errorCodes.protocol],
    [
      'goes on with a header for ever',
      [answer(1, block, 0), ...Array.from({ length: 9 }, () => raw(frameTypes.continuation, 1, 'x'))],
      errorCodes.calm,
    ],
    ['sends a frame that is too large', [raw(frameTypes.data, 1, Buffer.alloc(16_385))], errorCodes.frameSize],
    ['opens the window too far', [grant(1, 2 ** 31 - 1)], errorCodes.flowControl],
    ['opens the window by nothing', [grant(0, 0)], errorCodes.protocol],
    ['says a goaway that is none', [raw(frameTypes.goaway, 0, 'x')], errorCodes.frameSize],
    ['sends empty bodies for ever', [answer(1), ...Array.from({ length: 2_100 }, () => data(1, ''))], errorCodes.calm],
    [
      'says that it will answer, for ever',
      Array.from({ length: 2_100 }, () => answer(1, encodeHeaders({ ':status': 103 }))),
      errorCodes.calm,
    ],
    ['pings for ever', Array.from({ length: 2_100 }, () => raw(frameTypes.ping, 0, '12345678')), errorCodes.calm],
    [
      'resets what is over, for ever',
      [reset(1, 8), ...Array.from({ length: 2_100 }, () => reset(1, 8))],
      errorCodes.calm,
    ],
  ])('that %s loses its connection', async (_what, frames, code, isGreeted = true) => {
    const { heard, state, say, sent, open } = connectTo({ greeting: isGreeted })
    if (isGreeted) open()
    await sent()
    say(...frames)
    expect(goawayCode(await sent())).toEqual([code])
    expect([state.isEnded, heard.filter((one) => one === '1 end')]).toEqual([true, []])
    // Heard before the calls are lost, so that none begins again here.
    expect(heard.filter((one) => /^(1 lost|leaving)$/.test(one)).slice(0, 1)).toEqual(['leaving'])
  })

  test('that sends more than a reader has room for loses its connection', async () => {
    const { state, say, sent, open } = connectTo()
    open().pause()
    await sent()
    const pieces = Array.from({ length: 3 }, () => data(1, Buffer.alloc(16_384)))
    say(answer(1), ...pieces)
    expect(only(await sent(), frameTypes.windowUpdate)).toEqual([])
    expect(state.isEnded).toBe(false)
    say(...pieces)
    expect(goawayCode(await sent())).toEqual([errorCodes.flowControl])
  })

  test('that sends after the end is not heard', () => {
    const { heard, say, open } = connectTo()
    open()
    say(trailers(1, okHeader), data(1, 'more'), trailers(1), reset(1, 2))
    expect(heard.slice(1)).toEqual([`${said} last`, '1 end', '1 whole'])
  })

  test('that takes nothing and asks for answers is cut', () => {
    const { state, say } = connectTo()
    state.unsentBytes = 5 * 1024 * 1024
    say(raw(frameTypes.ping, 0, '12345678'))
    expect(state.isEnded).toBe(true)
  })

  test('that sends any frames in any order gets no exception, and each call ends once', () => {
    const some = fc.oneof(
      fc
        .record({
          type: fc.integer({ min: 0, max: 10 }),
          set: fc.integer({ min: 0, max: 255 }),
          id: fc.integer({ min: 0, max: 6 }),
          body: fc.uint8Array({ maxLength: 40 }),
        })
        .map(({ type, set, id, body }) => raw(type, id, Buffer.from(body), set)),
      fc.constantFrom(
        answer(1),
        answer(3),
        data(1, 'abc'),
        trailers(1),
        trailers(3),
        reset(3, 8),
        goaway(1),
        settings([[settingIds.maxStreams, 1]]),
        grant(1, 5),
      ),
      fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes)),
    )
    fc.assert(
      fc.property(fc.array(some, { maxLength: 12 }), (frames) => {
        const { session, heard, say, open } = connectTo()
        const ids = [open().id, open(false).id]
        for (const one of frames) say(one)
        session.lost()
        const closings = /^(\d+) (whole|reset|unprocessed|lost|too-large|ours)/
        for (const id of ids) {
          const ends = heard.filter((one) => closings.exec(one)?.[1] === String(id))
          expect(ends).toHaveLength(1)
          expect(heard.findLastIndex((one) => one.startsWith(`${id}`))).toBe(heard.indexOf(ends[0] ?? ''))
        }
      }),
    )
  })
})
