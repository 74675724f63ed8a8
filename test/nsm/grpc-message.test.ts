import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { frameMessage, MessageReader } from '../../src/nsm/grpc-message.ts'
import { cut } from './http2/frame-tools.ts'

describe('a message reader', () => {
  test('gives the same messages wherever the bytes are cut', () => {
    const messages = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 6 })
    fc.assert(
      fc.property(messages, fc.array(fc.nat(50)), (sent, cuts) => {
        const reader = new MessageReader(300)
        const read: Buffer[] = []
        for (const piece of cut(Buffer.concat(sent.map(frameMessage)), cuts)) {
          const found = reader.push(Buffer.from(piece))
          if (typeof found === 'string') return expect(found).toBe('never')
          read.push(...found.map((one) => Buffer.from(one)))
        }
        expect(read).toEqual(sent.map((one) => Buffer.from(one)))
        expect(reader.heldBytes).toBe(0)
      }),
    )
  })

  test('keeps what it gave, whatever comes after', () => {
    const reader = new MessageReader(100)
    reader.push(frameMessage(Buffer.from('first')).subarray(0, 7))
    const [first] = reader.push(Buffer.concat([frameMessage(Buffer.from('first')).subarray(7), Buffer.from([0, 0])]))
    reader.push(Buffer.from([0, 0, 3, 1, 2]))
    expect(String(first)).toBe('first')
  })

  test('says at the prefix that a message is too large, and takes the largest', () => {
    expect(new MessageReader(10).push(Buffer.from([0, 0, 0, 0, 11]))).toBe('too-large')
    expect(new MessageReader(10).push(Buffer.from([0, 255, 255, 255, 255]))).toBe('too-large')
    expect(new MessageReader(10).push(frameMessage(Buffer.alloc(10)))).toHaveLength(1)
  })

  test.each([1, 2, 255])('refuses a message with the flag %i', (flag) => {
    expect(new MessageReader(10).push(Buffer.from([flag, 0, 0, 0, 0]))).toBe('compressed')
  })

  test('counts what it holds, and holds a message of single bytes in one buffer', () => {
    const reader = new MessageReader(1_000)
    const bytes = frameMessage(Buffer.alloc(1_000, 7))
    for (let at = 0; at < 1_004; at++) expect(reader.push(bytes.subarray(at, at + 1))).toEqual([])
    expect(reader.heldBytes).toBe(1_004)
    expect(reader.push(bytes.subarray(1_004))).toEqual([Buffer.alloc(1_000, 7)])
    expect(reader.heldBytes).toBe(0)
  })
})
