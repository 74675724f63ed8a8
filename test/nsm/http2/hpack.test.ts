import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeHeaders, HeaderDecoder } from '../../../src/nsm/http2/hpack.ts'
import { decodeHuffman } from '../../../src/nsm/http2/huffman.ts'

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex')
const decode = (block: Buffer, decoder = new HeaderDecoder(32 * 1024)) => decoder.decode(block)?.fields

/** [RFC 7541 C.3] without Huffman code, [RFC 7541 C.4] with it: three requests of one connection. */
const requests = [
  [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'www.example.com'],
  [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'www.example.com', 'cache-control', 'no-cache'],
  [
    ...[':method', 'GET', ':scheme', 'https', ':path', '/index.html', ':authority', 'www.example.com'],
    ...['custom-key', 'custom-value'],
  ],
]
const plainBlocks = [
  '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
  '8286 84be 5808 6e6f 2d63 6163 6865',
  '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65',
]
const huffmanBlocks = [
  '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
  '8286 84be 5886 a8eb 1064 9cbf',
  '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
]
/** [RFC 7541 C.6.1] A response: its date has every kind of symbol. */
const responseBlock =
  '4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3'

describe('a header decoder', () => {
  test.each([
    ['without Huffman code', plainBlocks],
    ['with Huffman code', huffmanBlocks],
  ])('reads the requests of the RFC %s, one after the other', (_what, blocks) => {
    const decoder = new HeaderDecoder(32 * 1024)
    expect(blocks.map((block) => decode(hex(block), decoder))).toEqual(requests)
  })

  test('reads the response of the RFC', () => {
    expect(decode(hex(responseBlock))).toEqual([
      ...[':status', '302', 'cache-control', 'private', 'date', 'Mon, 21 Oct 2013 20:13:21 GMT'],
      ...['location', 'https://www.example.com'],
    ])
  })

  test('forgets the oldest fields of a table that is full', () => {
    const decoder = new HeaderDecoder(1024 * 1024)
    const kept = (value: string) => Buffer.concat([hex('40 01 61 7f'), hex('d10e'), Buffer.from(value)])
    const long = 'x'.repeat(2_000)
    for (const _ of [1, 2]) expect(decode(kept(long), decoder)).toEqual(['a', long])
    expect(decode(hex('bf'), decoder)).toEqual(['a', long])
    decode(kept('y'.repeat(2_000)), decoder)
    expect(decode(hex('be'), decoder)).toEqual(['a', 'y'.repeat(2_000)])
    expect(decode(hex('c0'), decoder)).toBeUndefined()
  })

  test('empties its table when it is told to make it smaller', () => {
    const decoder = new HeaderDecoder(1024)
    decode(hex('40 01 61 01 62'), decoder)
    expect(decode(hex('be'), decoder)).toEqual(['a', 'b'])
    expect(decode(hex('20'), decoder)).toEqual([])
    expect(decode(hex('be'), decoder)).toBeUndefined()
  })

  test('reads a list over its limit to the end, and says so', () => {
    const decoder = new HeaderDecoder(100)
    const block = encodeHeaders({ a: 'x'.repeat(60), b: 'y'.repeat(60) })
    expect(decoder.decode(block)).toEqual({ fields: ['a', 'x'.repeat(60)], bytes: 93 * 2, isTooLarge: true })
    expect(decoder.decode(encodeHeaders({ c: 'd' }))).toEqual({ fields: ['c', 'd'], bytes: 34, isTooLarge: false })
  })

  test('counts a field that is named again and again by one byte', () => {
    const decoder = new HeaderDecoder(10_000)
    decode(Buffer.concat([hex('40 01 61 7f a10f'), Buffer.alloc(2_080, 'x')]), decoder)
    const list = decoder.decode(Buffer.alloc(1_000, 0xbe))
    expect(list?.isTooLarge).toBe(true)
    expect(list?.fields.length).toBeLessThan(20)
  })

  test.each([
    ['an index of nothing', '80'],
    ['an index beyond the table', 'be'],
    ['a name beyond the table', '7e 01 61'],
    ['an integer that does not end', 'ff ff'],
    ['an integer of 36 bits', 'ff ff ff ff ff ff 01'],
    ['a text that is cut', '40 05 61'],
    ['a value that is missing', '40 01 61'],
    ['a table larger than we allow', '3f e2 1f'],
    ['a Huffman text with zeros behind it', '40 01 61 81 18'],
    ['a Huffman text with a whole byte of padding', '40 01 61 82 1f ff'],
    ['a Huffman text with its end inside', '40 01 61 84 ff ff ff ff'],
  ])('refuses %s', (_what, block) => {
    expect(decode(hex(block))).toBeUndefined()
  })

  test('gives fields or nothing for any bytes, and never throws', () => {
    const decoder = new HeaderDecoder(4_096)
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        const list = decoder.decode(Buffer.from(bytes))
        expect(list === undefined || list.fields.length % 2 === 0).toBe(true)
      }),
    )
  })
})

describe('a header block of ours', () => {
  test('is read back, whatever the texts and however long they are', () => {
    const name = fc.stringMatching(/^[a-z][a-z-]{0,40}$/)
    const value = fc.oneof(
      fc.stringMatching(/^[ -~]{0,200}$/),
      fc.nat(20_000).map((n) => 'v'.repeat(n)),
    )
    fc.assert(
      fc.property(fc.dictionary(name, value, { maxKeys: 5 }), (fields) => {
        const list = new HeaderDecoder(1024 * 1024).decode(encodeHeaders(fields))
        expect(list?.fields).toEqual(Object.entries(fields).flat())
      }),
    )
  })

  test.each([0, 126, 127, 128, 254, 255, 16_510, 16_511])('carries a value of %i bytes', (length) => {
    expect(decode(encodeHeaders({ a: 'x'.repeat(length) }))).toEqual(['a', 'x'.repeat(length)])
  })
})

describe('the Huffman code', () => {
  test('ends with up to seven ones', () => {
    expect(decodeHuffman(hex('1f'), 0, 1)).toBe('a')
    expect(decodeHuffman(hex('1c 7f'), 0, 1)).toBeUndefined()
    expect(decodeHuffman(Buffer.alloc(0), 0, 0)).toBe('')
  })

  test('reads the part it is told to', () => {
    const block = hex('ff f1e3 c2e5 f23a 6ba0 ab90 f4ff ff')
    expect(decodeHuffman(block, 1, 13)).toBe('www.example.com')
  })
})
