import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Remainder } from '../../../src/nsm/http2/remainder.ts'
import { cut } from './frame-tools.ts'

/** Reads lines, each ended by a zero: what a reader of frames does, without their heads. */
function linesOf(rest: Remainder, piece: Buffer): string[] {
  const bytes = rest.with(piece)
  const lines: string[] = []
  let at = 0
  for (let end = bytes.indexOf(0); end >= 0; end = bytes.indexOf(0, at)) {
    lines.push(bytes.toString('latin1', at, end))
    at = end + 1
  }
  rest.keep(bytes, at)
  return lines
}

describe('what is left over', () => {
  test('is nothing at first, and a piece is not copied then', () => {
    const rest = new Remainder()
    const piece = Buffer.from('abc\0')
    expect([rest.length, rest.with(piece)]).toEqual([0, piece])
    expect(rest.with(piece).buffer).toBe(piece.buffer)
  })

  test('makes lines whole however they are cut', () => {
    const text = fc.array(fc.stringMatching(/^[a-z]{0,40}$/), { maxLength: 20 })
    fc.assert(
      fc.property(text, fc.array(fc.nat(15), { maxLength: 60 }), (lines, lengths) => {
        const rest = new Remainder()
        const bytes = Buffer.from(lines.map((line) => `${line}\0`).join(''))
        expect(cut(bytes, lengths).flatMap((piece) => linesOf(rest, piece))).toEqual(lines)
        expect(rest.length).toBe(0)
      }),
    )
  })

  test('does not change when the piece that it came in does', () => {
    const rest = new Remainder()
    const piece = Buffer.from('one\0tw')
    expect(linesOf(rest, piece)).toEqual(['one'])
    piece.fill('x')
    expect([rest.length, linesOf(rest, Buffer.from('o\0'))]).toEqual([2, ['two']])
  })

  test('does not change what it gave before when it goes on', () => {
    const rest = new Remainder()
    linesOf(rest, Buffer.from('a'))
    const first = rest.with(Buffer.from('b\0'))
    rest.keep(first, 3)
    linesOf(rest, Buffer.from('zzzzzz'))
    expect(String(first)).toBe('ab\0')
  })

  test('of many single bytes is copied a few times, not once for each', () => {
    const rest = new Remainder()
    const buffers = new Set<unknown>()
    for (let i = 0; i < 10_000; i++) {
      linesOf(rest, Buffer.from('x'))
      if (i > 0) buffers.add(rest.with(Buffer.alloc(0)).buffer)
    }
    expect(buffers.size).toBeLessThan(15)
    expect(linesOf(rest, Buffer.from([0]))).toEqual(['x'.repeat(10_000)])
  })
})
