import { addressBytes, parseAddress } from '../base/ip.ts'
import { nameFromText } from './name.ts'
import type { Query } from './question.ts'
import { classInternet, ednsBytes, flag, plainUdpBytes, recordType, responseCode, write16, write32 } from './wire.ts'

export {
  addressFromReverseName,
  keyFromText,
  nameFromKey,
  nameFromText,
  nameKey,
  nameToText,
  reverseNameOf,
} from './name.ts'
export { type ParsedQuery, parseQuery, type Query } from './question.ts'
export { recordType, responseCode } from './wire.ts'

/** A record ready for the wire: uncompressed owner name, time to live in seconds, RDATA. */
export interface WireRecord {
  readonly name: Uint8Array
  readonly type: number
  readonly ttlSeconds: number
  readonly data: Uint8Array
}

/** What a locally made reply is built from. */
export interface Answer {
  readonly query: Query
  readonly rcode: number
  /** The answer section; an empty one is NODATA or the negative the rcode says. */
  readonly records: readonly WireRecord[]
  /** The authority section: a SOA for negatives, so that stubs do not keep "no" for long. [RFC 2308 3] */
  readonly authority?: readonly WireRecord[]
  /** True when the answer comes from the zone's own server (AA); otherwise recursion is announced (RA). */
  readonly authoritative: boolean
  /** Extended error, sent only to clients with EDNS. [RFC 8914 4] */
  readonly extendedError?: number
  /** Upper bound of the reply; by default what the client takes over UDP. Over TCP pass 65535. */
  readonly limitBytes?: number
}

/** Builds a reply to a parsed question; one that is too long becomes header, question and TC=1. */
export function buildAnswer(answer: Answer): Buffer {
  const { query, records, authority = [] } = answer
  const optLength = query.ednsBytes === 0 ? 0 : optBytes(answer.extendedError)
  const size = [...records, ...authority].reduce(
    (sum, record) => sum + recordBytes(record),
    query.questionEnd + optLength,
  )
  const fits = size <= (answer.limitBytes ?? udpLimitBytes(query))
  const message = Buffer.allocUnsafe(fits ? size : query.questionEnd + optLength)
  message.set(query.bytes.subarray(0, query.questionEnd))
  write16(message, 2, replyFlags(answer) | (fits ? 0 : flag.truncated))
  write16(message, 6, fits ? records.length : 0)
  write16(message, 8, fits ? authority.length : 0)
  write16(message, 10, optLength === 0 ? 0 : 1)
  let at = query.questionEnd
  if (fits) for (const record of [...records, ...authority]) at = writeRecord(message, at, record)
  if (optLength > 0) writeOpt(message, at, { dnssecOk: query.dnssecOk, extendedError: answer.extendedError })
  return message
}

/** The most bytes this client takes over UDP: 512 without EDNS, at most 1232 with it. */
export function udpLimitBytes(query: Query): number {
  return Math.min(Math.max(query.ednsBytes, plainUdpBytes), ednsBytes)
}

/** An A record; `address` is text, `ttlSeconds` its time to live. */
export function aRecord(name: Uint8Array, address: string, ttlSeconds: number): WireRecord {
  return { name, type: recordType.a, ttlSeconds, data: addressBytes(parseAddress(address)) }
}

/** An AAAA record; `address` is text, `ttlSeconds` its time to live. */
export function aaaaRecord(name: Uint8Array, address: string, ttlSeconds: number): WireRecord {
  return { name, type: recordType.aaaa, ttlSeconds, data: addressBytes(parseAddress(address)) }
}

/** A PTR record that points to the domain name `target` (text). */
export function ptrRecord(name: Uint8Array, target: string, ttlSeconds: number): WireRecord {
  return { name, type: recordType.ptr, ttlSeconds, data: nameFromText(target) }
}

/** An NS record that names the server `target` (text). */
export function nsRecord(name: Uint8Array, target: string, ttlSeconds: number): WireRecord {
  return { name, type: recordType.ns, ttlSeconds, data: nameFromText(target) }
}

/** A SOA record; `negativeTtlSeconds` is both its own life and the bound for negatives. [RFC 2308 4] */
export function soaRecord(
  zone: Uint8Array,
  settings: { readonly primary: string; readonly serial: number; readonly negativeTtlSeconds: number },
): WireRecord {
  const { primary, serial, negativeTtlSeconds } = settings
  const numbers = Buffer.alloc(20)
  const values = [serial >>> 0, soaRefreshSeconds, soaRetrySeconds, soaExpireSeconds, negativeTtlSeconds]
  for (const [i, value] of values.entries()) numbers.writeUInt32BE(value, i * 4)
  const data = Buffer.concat([nameFromText(primary), nameFromText(`hostmaster.${primary}`), numbers])
  return { name: zone, type: recordType.soa, ttlSeconds: negativeTtlSeconds, data }
}

/** Ours: transfer timers nobody uses, because the zone has no secondary; the usual values of RFC 1912 2.2. */
const soaRefreshSeconds = 3_600
const soaRetrySeconds = 600
const soaExpireSeconds = 86_400

/** Bytes of our OPT record. */
export function optBytes(extendedError: number | undefined): number {
  return extendedError === undefined ? 11 : 17
}

/** Writes our OPT record at `at`; gives the offset behind it. [RFC 6891 6.1.2, RFC 8914 2] */
export function writeOpt(
  message: Uint8Array,
  at: number,
  opt: { readonly dnssecOk: boolean; readonly extendedError?: number | undefined },
): number {
  message[at] = 0
  write16(message, at + 1, recordType.opt)
  write16(message, at + 3, ednsBytes)
  write16(message, at + 5, 0)
  write16(message, at + 7, opt.dnssecOk ? 0x8000 : 0)
  write16(message, at + 9, opt.extendedError === undefined ? 0 : 6)
  if (opt.extendedError === undefined) return at + 11
  write16(message, at + 11, extendedErrorOption)
  write16(message, at + 13, 2)
  write16(message, at + 15, opt.extendedError)
  return at + 17
}

/** EDNS option code of an extended error. [RFC 8914 2] */
export const extendedErrorOption = 15

function replyFlags({ query, rcode, authoritative }: Answer): number {
  const kept = query.flags & (flag.recursionDesired | flag.checkingDisabled)
  return flag.response | kept | (authoritative ? flag.authoritative : flag.recursionAvailable) | (rcode & flag.rcodes)
}

function recordBytes(record: WireRecord): number {
  return record.name.length + 10 + record.data.length
}

function writeRecord(message: Uint8Array, at: number, record: WireRecord): number {
  message.set(record.name, at)
  const fixed = at + record.name.length
  write16(message, fixed, record.type)
  write16(message, fixed + 2, classInternet)
  write32(message, fixed + 4, record.ttlSeconds)
  write16(message, fixed + 8, record.data.length)
  message.set(record.data, fixed + 10)
  return fixed + 10 + record.data.length
}

/** A refusal without records, for names outside the served zones. */
export function buildRefused(query: Query, extendedError?: number): Buffer {
  const base = { query, rcode: responseCode.refused, records: [], authoritative: false }
  return buildAnswer(extendedError === undefined ? base : { ...base, extendedError })
}
