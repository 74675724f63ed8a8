import { type Body, type RecordPlace, walkBody } from './body.ts'
import type { Query } from './question.ts'
import {
  flag,
  headerBytes,
  lowerByte,
  nameMaxBytes,
  read16,
  readNameKey,
  recordType,
  responseCode,
  write16,
} from './wire.ts'

/**
 * What a reply says. positive: a record that answers the question; alias: a CNAME chain without its end; truncated: more
 * over TCP; nodata, nxdomain: a "no"; failure: ignorance; refused: "not mine".
 */
export type ReplyClass = 'positive' | 'alias' | 'truncated' | 'nodata' | 'nxdomain' | 'failure' | 'refused'

/** A reply of an upstream that belongs to our question: walked once, its OPT cut off. */
export interface Reply {
  readonly class: ReplyClass
  /** The message; bytes from `bodyEnd` on are free for our OPT. Owned by whoever holds the reply, never patched after caching. */
  readonly bytes: Uint8Array
  readonly bodyEnd: number
  /** Records of the additional section without the OPT. */
  readonly additionals: number
  /** Where the records of the answer section are. */
  readonly answers: readonly RecordPlace[]
  /** Where the time to live of each record is. */
  readonly ttlOffsets: readonly number[]
  /** The least time to live of answer and authority in seconds; for a "no" of its SOA; 0 when nothing may be kept. */
  readonly ttlSeconds: number
  readonly hasSoa: boolean
  /** Extended error of the upstream. [RFC 8914] */
  readonly extendedError: number | undefined
  readonly authenticData: boolean
  /** True when an A or AAAA record of the answer points to this machine itself (loopback, unspecified). */
  readonly pointsHome: boolean
  /** True when the upstream could not understand our EDNS: worth one try without. */
  readonly dislikesEdns: boolean
  /** For an alias: the name at the end of the chain. */
  readonly aliasTarget: string | undefined
}

/**
 * Reads the reply to `query`; undefined when it is not one (not a response, another opcode or question) and the wait goes on.
 * The caller has checked address, port and id. [RFC 5452 9.1]
 */
export function classify(bytes: Uint8Array, query: Query, overTcp = false): Reply | undefined {
  if (bytes.length < headerBytes) return undefined
  const flags = read16(bytes, 2)
  if ((flags & flag.response) === 0 || (flags & flag.opcodes) !== 0) return undefined
  const rcode = flags & flag.rcodes
  const questions = read16(bytes, 4)
  if (questions === 0 && rcode !== responseCode.noError && rcode !== responseCode.nameError) {
    return rcode === responseCode.formatError ? notUnderstood(query) : withoutBody(query, rcode)
  }
  if (questions !== 1 || !sameQuestion(bytes, query)) return undefined
  const body = walkBody(bytes, query.questionEnd)
  if (!body) return withoutBody(query, responseCode.serverFailure)
  if (body.extendedRcode !== 0)
    return { ...withoutBody(query, responseCode.serverFailure), extendedError: body.extendedError }
  return judge(body, query, { bytes, flags, overTcp })
}

/** A client must not hear FORMERR of an upstream: stubs take it as final, though the question was a good one. */
function notUnderstood(query: Query, extendedError?: number): Reply {
  return { ...withoutBody(query, responseCode.serverFailure, extendedError), dislikesEdns: true }
}

/** A made-up reply that carries only the rcode: for local failures and replies that cannot be passed on. */
export function withoutBody(query: Query, rcode: number, extendedError?: number): Reply {
  const bytes = Buffer.allocUnsafe(query.questionEnd + optRoomBytes)
  bytes.set(query.bytes.subarray(0, query.questionEnd))
  write16(bytes, 2, flag.response | flag.recursionAvailable | rcode)
  write16(bytes, 4, 1)
  for (const offset of [6, 8, 10]) write16(bytes, offset, 0)
  return {
    class: classOfFailure(rcode),
    bytes,
    bodyEnd: query.questionEnd,
    additionals: 0,
    answers: [],
    ttlOffsets: [],
    ttlSeconds: 0,
    hasSoa: false,
    extendedError,
    authenticData: false,
    pointsHome: false,
    dislikesEdns: dislikesEdns(rcode),
    aliasTarget: undefined,
  }
}

/** Room for our OPT with an extended error. */
const optRoomBytes = 17

interface Message {
  readonly bytes: Uint8Array
  readonly flags: number
  readonly overTcp: boolean
}

function judge(body: Body, query: Query, { bytes, flags, overTcp }: Message): Reply {
  const rcode = flags & flag.rcodes
  if (rcode === responseCode.formatError) return notUnderstood(query, body.extendedError)
  const end = rcode === responseCode.noError ? followChain(bytes, body, query) : undefined
  const isJunk = end === 'nothing' && body.answers.length > 0
  if (isJunk) return withoutBody(query, responseCode.serverFailure)
  const found = classOf({ body, flags, overTcp, chain: end })
  const negative = found === 'nodata' || found === 'nxdomain'
  return {
    class: found,
    bytes,
    bodyEnd: body.end,
    additionals: read16(bytes, 10),
    answers: body.answers,
    ttlOffsets: body.ttlOffsets,
    ttlSeconds: negative ? body.negativeTtlSeconds : body.minTtlSeconds,
    hasSoa: body.hasSoa,
    extendedError: body.extendedError,
    authenticData: (flags & flag.authenticData) !== 0,
    pointsHome: body.pointsHome,
    dislikesEdns: dislikesEdns(rcode),
    aliasTarget: typeof end === 'string' ? end : undefined,
  }
}

type Chain = 'answered' | 'nothing' | string | undefined

function classOf(found: {
  readonly body: Body
  readonly flags: number
  readonly overTcp: boolean
  readonly chain: Chain
}): ReplyClass {
  const { body, flags, chain } = found
  const rcode = flags & flag.rcodes
  if ((flags & flag.truncated) !== 0) return found.overTcp ? 'failure' : 'truncated'
  if (rcode === responseCode.nameError) return 'nxdomain'
  if (rcode !== responseCode.noError) return classOfFailure(rcode)
  if (chain === 'answered') return 'positive'
  if (chain !== 'nothing' && !body.hasSoa) return 'alias'
  const referral = body.hasNs && !body.hasSoa && body.answers.length === 0 && (flags & flag.authoritative) === 0
  return referral ? 'refused' : 'nodata'
}

function classOfFailure(rcode: number): ReplyClass {
  return rcode === responseCode.refused || rcode === responseCode.notAuthoritative ? 'refused' : 'failure'
}

function dislikesEdns(rcode: number): boolean {
  return rcode === responseCode.formatError || rcode === responseCode.notImplemented
}

/** Walks from the question's name along CNAMEs and DNAMEs: 'answered', 'nothing', or the key of the name where the chain stops. */
function followChain(bytes: Uint8Array, body: Body, query: Query): Chain {
  const first = body.answers[0]
  if (first === undefined) return 'nothing'
  if (read16(bytes, first.owner) === pointerToQuestion && first.type === query.type) return 'answered'
  const { answering, aliases, trees } = linksOf(bytes, body, query.type)
  let name = query.nameKey
  for (let hops = 0; hops <= aliases.size + trees.size; hops++) {
    if (answering.has(name)) return 'answered'
    const next = aliases.get(name) ?? renamed(name, trees)
    if (next === undefined) return hops === 0 ? 'nothing' : name
    name = next
  }
  return 'nothing'
}

/** A name that points to the question's name: where the body starts. */
const pointerToQuestion = 0xc000 | headerBytes
/** Ours: answer records looked at for a chain; bounds the work on a hostile message. */
const chainRecordsMax = 64

function linksOf(bytes: Uint8Array, body: Body, type: number) {
  const answering = new Set<string>()
  const aliases = new Map<string, string>()
  const trees = new Map<string, string>()
  for (const record of body.answers.slice(0, chainRecordsMax)) {
    const links = record.type === recordType.cname ? aliases : record.type === recordType.dname ? trees : undefined
    if (record.type !== type && !links) continue
    const owner = readNameKey(bytes, record.owner)
    if (owner === undefined) continue
    if (record.type === type) answering.add(owner)
    else links?.set(owner, readNameKey(bytes, record.data) ?? owner)
  }
  return { answering, aliases, trees }
}

/** The name below a DNAME's owner put below its target; a name that would be too long is none. [RFC 6672 2.2] */
function renamed(name: string, trees: ReadonlyMap<string, string>): string | undefined {
  if (trees.size === 0) return undefined
  for (let at = name.charCodeAt(0) + 1; at < name.length; at += name.charCodeAt(at) + 1) {
    const target = trees.get(name.slice(at))
    if (target !== undefined && at + target.length <= nameMaxBytes) return name.slice(0, at) + target
  }
  return undefined
}

/** The question as asked, ASCII case aside; type and class byte for byte. [RFC 4343 3] */
function sameQuestion(bytes: Uint8Array, query: Query): boolean {
  const nameEnd = query.questionEnd - 4
  if (bytes.length < query.questionEnd || nameEnd - headerBytes > nameMaxBytes) return false
  for (let i = headerBytes; i < nameEnd; i++) {
    if (bytes[i] !== query.bytes[i] && lowerByte(bytes[i] ?? 0) !== lowerByte(query.bytes[i] ?? 0)) return false
  }
  return read16(bytes, nameEnd) === query.type && read16(bytes, nameEnd + 2) === query.class
}
