import { decodeHuffman } from './huffman.ts'

/* [RFC 7541] Header compression. We read all of it, and write literals only: what we send is the same few bytes. */

/** A header block, read. */
export interface HeaderList {
  /** Names, each followed by its value. */
  readonly fields: string[]
  /** Of all fields, as [RFC 9113 6.5.2] counts them. */
  readonly bytes: number
  /** True: there is more than we take, which is left out. */
  readonly isTooLarge: boolean
}

/** [RFC 7541 4.2, RFC 9113 6.5.2] The size of a table until its reader says another one; we do not. */
export const tableMaxBytes = 4_096
/** [RFC 7541 4.1] What a field counts besides its text. */
const fieldOverheadBytes = 32

/** Reads the header blocks of one connection, in their order. A fault is final. */
export class HeaderDecoder {
  readonly #listMaxBytes: number
  /** Newest last: fields as name and value. */
  readonly #table: (readonly [string, string])[] = []
  #tableBytes = 0
  #maxBytes = tableMaxBytes
  #block: Buffer = Buffer.alloc(0)
  #at = 0

  constructor(listMaxBytes: number) {
    this.#listMaxBytes = listMaxBytes
  }

  /** Undefined for a block that cannot be read: the connection has to end. */
  decode(block: Buffer): HeaderList | undefined {
    this.#block = block
    this.#at = 0
    const fields: string[] = []
    let bytes = 0
    while (this.#at < block.length) {
      const field = this.#next()
      if (field === 'fault') return undefined
      // [RFC 7541 4.2] A change of the table's size stands before the fields.
      if (field === 'none' && bytes > 0) return undefined
      if (field === 'none') continue
      bytes += sizeOf(field)
      if (bytes <= this.#listMaxBytes) fields.push(field[0], field[1])
    }
    return { fields, bytes, isTooLarge: bytes > this.#listMaxBytes }
  }

  #next(): readonly [string, string] | 'none' | 'fault' {
    const first = this.#block[this.#at] ?? 0
    if (first & 0x80) return this.#known(this.#integer(7)) ?? 'fault'
    if ((first & 0xe0) === 0x20) return this.#resize(this.#integer(5))
    const isKept = (first & 0x40) !== 0
    const index = this.#integer(isKept ? 6 : 4)
    const name = index === 0 ? this.#text() : this.#known(index)?.[0]
    const value = name === undefined ? undefined : this.#text()
    if (name === undefined || value === undefined) return 'fault'
    const field = [name, value] as const
    if (isKept) this.#keep(field)
    return field
  }

  #known(index: number): readonly [string, string] | undefined {
    return index <= staticTable.length
      ? staticTable[index - 1]
      : this.#table[this.#table.length - (index - staticTable.length)]
  }

  #resize(maxBytes: number): 'none' | 'fault' {
    if (maxBytes > tableMaxBytes) return 'fault'
    this.#maxBytes = maxBytes
    this.#evict()
    return 'none'
  }

  #keep(field: readonly [string, string]): void {
    this.#table.push(field)
    this.#tableBytes += sizeOf(field)
    this.#evict()
  }

  #evict(): void {
    while (this.#tableBytes > this.#maxBytes) {
      const oldest = this.#table.shift()
      if (!oldest) return
      this.#tableBytes -= sizeOf(oldest)
    }
  }

  /** [RFC 7541 5.1] With a prefix of so many bits; beyond the block for one that does not end or is larger than any we need. */
  #integer(prefixBits: number): number {
    const mask = (1 << prefixBits) - 1
    let value = (this.#block[this.#at++] ?? 0) & mask
    if (value < mask) return value
    for (let shift = 0; shift <= integerShiftMax; shift += 7) {
      const byte = this.#block[this.#at++]
      if (byte === undefined) break
      value += (byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
    return Number.POSITIVE_INFINITY
  }

  #text(): string | undefined {
    const isHuffman = ((this.#block[this.#at] ?? 0) & 0x80) !== 0
    const length = this.#integer(7)
    const start = this.#at
    const end = start + length
    if (end > this.#block.length) return undefined
    this.#at = end
    return isHuffman ? decodeHuffman(this.#block, start, end) : this.#block.toString('latin1', start, end)
  }
}

/** Ours: an integer of more than 28 bits is larger than everything it could count. */
const integerShiftMax = 21

function sizeOf([name, value]: readonly [string, string]): number {
  return name.length + value.length + fieldOverheadBytes
}

/** A header block of these fields; names in lower case, those that begin with a colon first. */
export function encodeHeaders(fields: Readonly<Record<string, string | number>>): Buffer {
  const texts = Object.entries(fields).flatMap(([name, value]) => [name, String(value)])
  const room = texts.reduce((bytes, { length }) => bytes + lengthMaxBytes + length, 0)
  const block = Buffer.allocUnsafe(room)
  let at = 0
  for (const [i, text] of texts.entries()) {
    if (i % 2 === 0) block[at++] = literalWithoutIndexing
    at = writeLength(block, at, text.length)
    at += block.write(text, at, 'latin1')
  }
  return block.subarray(0, at)
}

const literalWithoutIndexing = 0
/** Of a length of 28 bits, and the byte before a name. */
const lengthMaxBytes = 6

/** [RFC 7541 5.1] With a prefix of 7 bits; the bit before it says that the text is not in Huffman code. */
function writeLength(block: Buffer, start: number, length: number): number {
  let at = start
  block[at++] = Math.min(length, 0x7f)
  if (length < 0x7f) return at
  let rest = length - 0x7f
  for (; rest >= 0x80; rest >>>= 7) block[at++] = (rest & 0x7f) | 0x80
  block[at++] = rest
  return at
}

/** [RFC 7541 appendix A] */
const staticTable: readonly (readonly [string, string])[] = [
  [':authority', ''],
  [':method', 'GET'],
  [':method', 'POST'],
  [':path', '/'],
  [':path', '/index.html'],
  [':scheme', 'http'],
  [':scheme', 'https'],
  [':status', '200'],
  [':status', '204'],
  [':status', '206'],
  [':status', '304'],
  [':status', '400'],
  [':status', '404'],
  [':status', '500'],
  ['accept-charset', ''],
  ['accept-encoding', 'gzip, deflate'],
  ['accept-language', ''],
  ['accept-ranges', ''],
  ['accept', ''],
  ['access-control-allow-origin', ''],
  ['age', ''],
  ['allow', ''],
  ['authorization', ''],
  ['cache-control', ''],
  ['content-disposition', ''],
  ['content-encoding', ''],
  ['content-language', ''],
  ['content-length', ''],
  ['content-location', ''],
  ['content-range', ''],
  ['content-type', ''],
  ['cookie', ''],
  ['date', ''],
  ['etag', ''],
  ['expect', ''],
  ['expires', ''],
  ['from', ''],
  ['host', ''],
  ['if-match', ''],
  ['if-modified-since', ''],
  ['if-none-match', ''],
  ['if-range', ''],
  ['if-unmodified-since', ''],
  ['last-modified', ''],
  ['link', ''],
  ['location', ''],
  ['max-forwards', ''],
  ['proxy-authenticate', ''],
  ['proxy-authorization', ''],
  ['range', ''],
  ['referer', ''],
  ['refresh', ''],
  ['retry-after', ''],
  ['server', ''],
  ['set-cookie', ''],
  ['strict-transport-security', ''],
  ['transfer-encoding', ''],
  ['user-agent', ''],
  ['vary', ''],
  ['via', ''],
  ['www-authenticate', ''],
]
