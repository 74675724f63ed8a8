import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CallHeaders, isGrpcMediaType, parseTimeoutMs, percentEncode } from '../../src/nsm/grpc-headers.ts'

describe('grpc-timeout', () => {
  test.each([
    ['1H', 3_600_000],
    ['2M', 120_000],
    ['15S', 15_000],
    ['99999999m', 99_999_999],
    ['14999955u', 14_999.955],
    ['500n', 0.0005],
    ['0m', 0],
  ])('%s is %d ms', (text, ms) => {
    expect(parseTimeoutMs(text)).toBeCloseTo(ms, 6)
  })

  test.each(['', 'S', '1', '1s', '-1S', '1.5S', '123456789S', '1 S', '1SS', '0x1S', 'toString', '1constructor'])(
    '%j is none',
    (text) => {
      expect(parseTimeoutMs(text)).toBeUndefined()
    },
  )
})

describe('grpc-message', () => {
  test.each([
    ['all is well', 'all is well'],
    ['100 %', '100 %25'],
    ['a\nb', 'a%0Ab'],
    ['Zürich', 'Z%C3%BCrich'],
    ['', ''],
  ])('%j is sent as %s', (text, sent) => {
    expect(percentEncode(text)).toBe(sent)
  })

  test('is printable ASCII that decodes to the text, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        const sent = percentEncode(text)
        expect(sent).toMatch(/^[ -~]*$/)
        expect(decodeURIComponent(sent)).toBe(text)
      }),
    )
  })
})

test.each([
  ['application/grpc', true],
  ['application/grpc+proto', true],
  ['application/grpc;charset=utf-8', true],
  ['application/grpc-web', false],
  ['application/json', false],
  ['', false],
  [undefined, false],
])('content-type %s: %s', (text, expected) => {
  expect(isGrpcMediaType(text)).toBe(expected)
})

describe('the headers of a call', () => {
  const headers = new CallHeaders(['a', '1', 'b', 'a', 'a', '2', 'c', ''])

  test.each([
    ['a', '2', undefined],
    ['b', 'a', 'a'],
    ['c', '', ''],
    ['d', undefined, undefined],
    ['1', undefined, undefined],
  ])('%s: the last is %s, the only one is %s', (key, last, only) => {
    expect(headers.last(key)).toBe(last)
    expect(headers.only(key)).toBe(only)
  })
})
