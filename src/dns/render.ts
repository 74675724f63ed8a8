import type { Reply } from './classify.ts'
import { optBytes, udpLimitBytes, writeOpt } from './message.ts'
import type { Query } from './question.ts'
import { flag, headerBytes, read16, read32, write16, write32 } from './wire.ts'

/** How a reply is turned into one client's message. */
export interface Rendering {
  readonly overTcp: boolean
  /** True when the reply's bytes belong to nobody else any more and may be patched in place. */
  readonly ownsBytes: boolean
  /** Whole seconds since the reply came; taken off every time to live. */
  readonly ageSeconds: number
  /** True when the upstream's AD bit may be believed. */
  readonly trustsAuthenticData: boolean
}

/** Ours and the protocol's: a message over TCP. [RFC 1035 4.2.2] */
const tcpMaxBytes = 65_535

/**
 * The client's own message of a reply: its id, its spelling of the question, its RD and CD, our OPT when it sent one.
 * A reply that is too long for the client becomes header, question, OPT and TC=1; no record is ever cut.
 */
export function renderReply(reply: Reply, query: Query, how: Rendering): Uint8Array {
  const opt = query.ednsBytes === 0 ? 0 : optBytes(reply.extendedError)
  const limit = how.overTcp ? tcpMaxBytes : udpLimitBytes(query)
  const truncated = reply.bodyEnd + opt > limit || (reply.class === 'truncated' && !how.overTcp)
  const bodyEnd = truncated ? query.questionEnd : reply.bodyEnd
  const inPlace = how.ownsBytes && !truncated && bodyEnd + opt <= reply.bytes.length
  const message = inPlace ? reply.bytes.subarray(0, bodyEnd + opt) : copyOf(reply.bytes, bodyEnd, opt)
  message.set(query.bytes.subarray(headerBytes, query.questionEnd), headerBytes)
  writeHeader(message, { reply, query, truncated, trustsAuthenticData: how.trustsAuthenticData })
  if (truncated) for (const offset of [6, 8, 10]) write16(message, offset, 0)
  else if (how.ageSeconds > 0) subtractAge(message, reply.ttlOffsets, how.ageSeconds)
  if (opt > 0) {
    write16(message, 10, additionalCount(reply, truncated) + 1)
    writeOpt(message, bodyEnd, { dnssecOk: query.dnssecOk, extendedError: reply.extendedError })
  } else if (!truncated) write16(message, 10, additionalCount(reply, false))
  return message
}

/** Lowers every time to live of a reply that nobody else holds to at most `maxSeconds`. */
export function capLife(reply: Reply, maxSeconds: number): void {
  for (const offset of reply.ttlOffsets) {
    if (read32(reply.bytes, offset) > maxSeconds) write32(reply.bytes, offset, maxSeconds)
  }
}

function copyOf(bytes: Uint8Array, bodyEnd: number, opt: number): Buffer {
  const message = Buffer.allocUnsafe(bodyEnd + opt)
  message.set(bytes.subarray(0, bodyEnd))
  return message
}

function writeHeader(
  message: Uint8Array,
  part: {
    readonly reply: Reply
    readonly query: Query
    readonly truncated: boolean
    readonly trustsAuthenticData: boolean
  },
): void {
  const { reply, query, truncated } = part
  const upstream = read16(reply.bytes, 2) & (flag.authoritative | flag.rcodes)
  const client = query.flags & (flag.recursionDesired | flag.checkingDisabled)
  const wantsAd = query.dnssecOk || (query.flags & flag.authenticData) !== 0
  const authentic = wantsAd && part.trustsAuthenticData && reply.authenticData ? flag.authenticData : 0
  write16(message, 0, query.id)
  write16(
    message,
    2,
    flag.response | flag.recursionAvailable | upstream | client | authentic | (truncated ? flag.truncated : 0),
  )
}

/** Never below 0, never raised. [RFC 1035 3.2.1] */
function subtractAge(message: Uint8Array, ttlOffsets: readonly number[], ageSeconds: number): void {
  for (const offset of ttlOffsets) write32(message, offset, Math.max(0, read32(message, offset) - ageSeconds))
}

function additionalCount(reply: Reply, truncated: boolean): number {
  return truncated ? 0 : reply.additionals
}
