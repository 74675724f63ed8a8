import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { encodeLine, LineReader, messageMaxBytes } from '../../src/daemon/json-lines.ts'

describe('LineReader', () => {
  test('gives the same messages however the bytes are cut', () => {
    const messages = fc.array(fc.dictionary(fc.string(), fc.jsonValue()), { maxLength: 8 })
    fc.assert(
      fc.property(messages, fc.infiniteStream(fc.integer({ min: 1, max: 20 })), (sent, cuts) => {
        const bytes = Buffer.from(sent.map(encodeLine).join(''))
        const reader = new LineReader()
        const received: object[] = []
        for (let at = 0; at < bytes.length; ) {
          const length = cuts.next().value ?? 1
          received.push(...reader.push(bytes.subarray(at, at + length)))
          at += length
        }
        expect(received).toEqual(sent.map((message) => JSON.parse(JSON.stringify(message))))
      }),
    )
  })

  test.each([['[]\n'], ['null\n'], ['1\n'], ['"text"\n'], ['{\n'], ['\n'], ['{}x\n']])('refuses %j', (text) => {
    expect(() => new LineReader().push(Buffer.from(text))).toThrow(NsmError)
  })

  test('refuses a message that is too long before it ends', () => {
    const reader = new LineReader()
    reader.push(Buffer.alloc(messageMaxBytes, 'a'))
    expect(() => reader.push(Buffer.from('a'))).toThrow(/more than 1048576 bytes/)
  })

  test('throws nothing but NsmError for any bytes', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 8 }), (chunks) => {
        const reader = new LineReader()
        try {
          for (const chunk of chunks) reader.push(chunk)
        } catch (error) {
          expect(error).toBeInstanceOf(NsmError)
        }
      }),
    )
  })

  test('keeps its own copy of a message that is not complete', () => {
    const reader = new LineReader()
    const chunk = Buffer.from('{"a":')
    reader.push(chunk)
    chunk.fill(0)
    expect(reader.push(Buffer.from('1}\n'))).toEqual([{ a: 1 }])
  })
})
