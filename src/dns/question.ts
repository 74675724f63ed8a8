import {
  ednsBytes,
  flag,
  headerBytes,
  lowerByte,
  nameMaxBytes,
  plainUdpBytes,
  read16,
  recordType,
  responseCode,
  skipName,
} from './wire.ts'

/** One question of a client, parsed once; `bytes` is the whole message and must not change afterwards. */
export interface Query {
  readonly kind: 'query'
  readonly bytes: Uint8Array
  readonly id: number
  /** The second header word as the client sent it. */
  readonly flags: number
  /** The name in lower-case wire form, one latin-1 character per byte. */
  readonly nameKey: string
  readonly type: number
  readonly class: number
  /** Offset behind the question; the question itself starts behind the header. */
  readonly questionEnd: number
  /** EDNS size of the client in bytes; 0 when it sent no OPT. */
  readonly ednsBytes: number
  readonly dnssecOk: boolean
}

/** Why a message of a client is no question that can be passed on. */
export type Fault = 'short' | 'response' | 'opcode' | 'malformed' | 'edns-version' | 'signed'

/** What a datagram of a client is: a question, something to refuse with the given reply, or nothing to answer. */
export type ParsedQuery =
  | Query
  | { readonly kind: 'rejected'; readonly reply: Uint8Array; readonly why: Fault }
  | { readonly kind: 'dropped'; readonly why: Fault }

/** Parses a client's message; total, never throws. [RFC 1035 4.1, RFC 6891 6.1] */
export function parseQuery(bytes: Uint8Array): ParsedQuery {
  if (bytes.length < headerBytes) return { kind: 'dropped', why: 'short' }
  const flags = read16(bytes, 2)
  if ((flags & flag.response) !== 0) return { kind: 'dropped', why: 'response' }
  if ((flags & flag.opcodes) !== 0) return reject(bytes, responseCode.notImplemented, 'opcode')
  if (read16(bytes, 4) !== 1 || read16(bytes, 6) !== 0 || read16(bytes, 8) !== 0) return malformed(bytes)
  const nameEnd = questionNameEnd(bytes)
  if (nameEnd < 0 || nameEnd + 4 > bytes.length) return malformed(bytes)
  const edns = readEdns(bytes, nameEnd + 4)
  if (edns === undefined) return malformed(bytes)
  if (edns.signed) return reject(bytes, responseCode.refused, 'signed')
  if (edns.version > 0) return badVersion(bytes, nameEnd + 4)
  return {
    kind: 'query',
    bytes,
    id: read16(bytes, 0),
    flags,
    nameKey: scratch.toString('latin1', 0, nameEnd - headerBytes),
    type: read16(bytes, nameEnd),
    class: read16(bytes, nameEnd + 2),
    questionEnd: nameEnd + 4,
    ednsBytes: edns.bytes,
    dnssecOk: edns.dnssecOk,
  }
}

const scratch = Buffer.alloc(nameMaxBytes + 1)

/** Walks the question's name, which may hold no pointer, and leaves its lower-case form in the scratch buffer. */
function questionNameEnd(bytes: Uint8Array): number {
  let at = headerBytes
  while (at - headerBytes < nameMaxBytes) {
    const length = bytes[at]
    if (length === undefined || length > 63 || at + length >= bytes.length) return -1
    const start = at - headerBytes
    if (start + length + 1 > nameMaxBytes) return -1
    scratch[start] = length
    if (length === 0) return at + 1
    for (let i = 1; i <= length; i++) scratch[start + i] = lowerByte(bytes[at + i] ?? 0)
    at += length + 1
  }
  return -1
}

interface Edns {
  readonly bytes: number
  readonly version: number
  readonly dnssecOk: boolean
  /** True for a message with a TSIG or SIG(0): its signature would not survive the way up. [RFC 8945, RFC 2931] */
  readonly signed: boolean
}

const noEdns: Edns = { bytes: 0, version: 0, dnssecOk: false, signed: false }

/** Reads the additional section: at most one OPT, owned by the root; undefined when malformed. */
function readEdns(bytes: Uint8Array, from: number): Edns | undefined {
  let edns = noEdns
  let signed = false
  let at = from
  for (let left = read16(bytes, 10); left > 0; left--) {
    const fixed = skipName(bytes, at)
    if (fixed < 0 || fixed + 10 > bytes.length) return undefined
    const end = fixed + 10 + read16(bytes, fixed + 8)
    if (end > bytes.length) return undefined
    const type = read16(bytes, fixed)
    if (type === recordType.tsig || type === recordType.sig) signed = true
    if (type === recordType.opt) {
      if (edns !== noEdns || bytes[at] !== 0) return undefined
      const high = bytes[fixed + 6] ?? 0
      const size = Math.max(read16(bytes, fixed + 2), plainUdpBytes)
      edns = { bytes: size, version: bytes[fixed + 5] ?? 0, dnssecOk: high >= 0x80, signed: false }
    }
    at = end
  }
  if (at !== bytes.length) return undefined
  return signed ? { ...edns, signed } : edns
}

function malformed(bytes: Uint8Array): ParsedQuery {
  return reject(bytes, responseCode.formatError, 'malformed')
}

/** A bare header with the client's id; the question is not echoed because it may not be one. */
function reject(bytes: Uint8Array, rcode: number, why: Fault): ParsedQuery {
  const reply = Buffer.alloc(headerBytes)
  reply.writeUInt16BE(read16(bytes, 0), 0)
  const kept = read16(bytes, 2) & (flag.opcodes | flag.recursionDesired | flag.checkingDisabled)
  reply.writeUInt16BE(flag.response | flag.recursionAvailable | kept | rcode, 2)
  return { kind: 'rejected', reply, why }
}

/** BADVERS: the extended part of the code lives in our OPT. [RFC 6891 6.1.3] */
function badVersion(bytes: Uint8Array, questionEnd: number): ParsedQuery {
  const reply = Buffer.alloc(questionEnd + 11)
  reply.set(bytes.subarray(0, questionEnd))
  reply.writeUInt16BE(flag.response | flag.recursionAvailable | (read16(bytes, 2) & flag.recursionDesired), 2)
  reply.writeUInt16BE(1, 10)
  reply.writeUInt16BE(recordType.opt, questionEnd + 1)
  reply.writeUInt16BE(ednsBytes, questionEnd + 3)
  reply[questionEnd + 5] = responseCode.badVersion >> 4
  return { kind: 'rejected', reply, why: 'edns-version' }
}
