import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  errorCodes,
  type Frame,
  FrameReader,
  flags,
  frame,
  frameTypes,
  headersFrames,
  preface,
  withoutPadding,
} from '../../../src/nsm/http2/frames.ts'
import { cut, readFrames } from './frame-tools.ts'

const copy = (one: Frame) => ({ ...one, payload: Buffer.from(one.payload) })
const frameOf = fc.record({
  type: fc.nat(255),
  flags: fc.nat(255),
  streamId: fc.nat(2 ** 31 - 1),
  payload: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
})

describe('a frame reader', () => {
  test('gives the same frames wherever the bytes are cut', () => {
    fc.assert(
      fc.property(fc.array(frameOf, { maxLength: 8 }), fc.array(fc.nat(400)), (sent, cuts) => {
        const bytes = Buffer.concat([preface, ...sent.map((one) => frame(one, one.payload))])
        const reader = new FrameReader()
        const read: Frame[] = []
        for (const piece of cut(bytes, cuts)) expect(reader.push(piece, (one) => read.push(copy(one)))).toBeUndefined()
        expect(read).toEqual(sent)
      }),
    )
  })

  test('reads the largest frame and refuses a larger one before its payload is there', () => {
    const head = { type: frameTypes.data, flags: 0, streamId: 1 }
    const read: number[] = []
    const reader = new FrameReader()
    reader.push(Buffer.concat([preface, frame(head, Buffer.alloc(16_384))]), ({ payload }) => read.push(payload.length))
    expect(read).toEqual([16_384])
    expect(reader.push(Buffer.from([0, 0x40, 1, 0, 0, 0, 0, 0, 1]), () => {})).toBe(errorCodes.frameSize)
  })

  test.each(['GET / HTTP/1.1\r\n', 'P0', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r'])('refuses %j for a greeting', (text) => {
    expect(new FrameReader().push(Buffer.from(text), () => {})).toBe(errorCodes.protocol)
  })

  test('ignores the reserved bit of a stream', () => {
    const read: number[] = []
    const bytes = frame({ type: 0, flags: 0, streamId: 5 }, Buffer.alloc(0))
    bytes.writeUInt32BE(0x8000_0005, 5)
    new FrameReader().push(Buffer.concat([preface, bytes]), ({ streamId }) => read.push(streamId))
    expect(read).toEqual([5])
  })
})

describe('padding', () => {
  const padded = (type: number, set: number, payload: string) =>
    withoutPadding({ type, flags: set, streamId: 1, payload: Buffer.from(payload, 'hex') })?.toString('hex')

  test.each([
    ['none', frameTypes.data, 0, '0102', '0102'],
    ['two bytes', frameTypes.data, flags.padded, '02aabb0000', 'aabb'],
    ['all of it', frameTypes.data, flags.padded, '020000', ''],
    ['more than there is', frameTypes.data, flags.padded, '0300', undefined],
    ['no length', frameTypes.data, flags.padded, '', undefined],
    ['a priority', frameTypes.headers, flags.priority, '0000000001aa', 'aa'],
    ['both', frameTypes.headers, flags.priority | flags.padded, '010000000001aa00', 'aa'],
    ['half a priority', frameTypes.headers, flags.priority, '000000', undefined],
    ['the flag of a priority on data', frameTypes.data, flags.priority, 'aa', 'aa'],
  ])('%s', (_what, type, set, payload, expected) => {
    expect(padded(type, set, payload)).toBe(expected)
  })
})

test('a long header block goes out as HEADERS and CONTINUATION, and only the last ends it', () => {
  const block = Buffer.alloc(40_000, 'h')
  const read = readFrames(headersFrames(7, block, true))
  expect(read.map(({ type, flags: set, payload }) => [type, set, payload.length])).toEqual([
    [frameTypes.headers, flags.endStream, 16_384],
    [frameTypes.continuation, 0, 16_384],
    [frameTypes.continuation, flags.endHeaders, 7_232],
  ])
  expect(Buffer.concat(read.map(({ payload }) => payload)).equals(block)).toBe(true)
})
