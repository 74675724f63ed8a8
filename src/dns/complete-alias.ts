import { walkBody } from './body.ts'
import { classify, type Reply, withoutBody } from './classify.ts'
import { buildAnswer, nameFromKey, parseQuery, type Query, type WireRecord } from './message.ts'
import { copyName, nameMaxBytes, read16, read32, recordType, responseCode, write16 } from './wire.ts'

/** The next question of a chain, and how its reply becomes the reply to the first. */
export interface AliasStep {
  readonly query: Query
  join(rest: Reply): Reply
}

/** Ours: no local limit on a reply that is not yet any client's. */
const anySize = 65_535

/** For a reply that stops at an alias: the question for its target. Undefined when there is no sane target. */
export function completeAlias(query: Query, reply: Reply): AliasStep | undefined {
  const target = reply.aliasTarget
  if (target === undefined || target === query.nameKey) return undefined
  const next = questionFor(query, target)
  return next && { query: next, join: (rest) => joined(query, reply, rest) }
}

/** The client's question with another name: same type, class, RD, CD and DO. */
function questionFor(query: Query, nameKey: string): Query | undefined {
  const name = nameFromKey(nameKey)
  const optBytes = query.bytes.subarray(query.questionEnd)
  const front = Buffer.concat([
    query.bytes.subarray(0, 12),
    name,
    query.bytes.subarray(query.questionEnd - 4, query.questionEnd),
  ])
  const parsed = parseQuery(Buffer.concat([front, optBytes]))
  return parsed.kind === 'query' ? parsed : undefined
}

/** The chain's records, then the target's; the target's rcode and authority. */
function joined(query: Query, chain: Reply, rest: Reply): Reply {
  const front = recordsOf(chain, query.questionEnd)
  const back = recordsOf(rest, questionEndOf(rest))
  const failure = () => withoutBody(query, responseCode.serverFailure)
  if (!front || !back) return failure()
  const whole = buildAnswer({
    query: { ...query, ednsBytes: 0 },
    rcode: read16(rest.bytes, 2) & 0x0f,
    records: [...front.answers, ...back.answers],
    authority: back.authority,
    authoritative: false,
    limitBytes: anySize,
  })
  return classify(whole, query, true) ?? failure()
}

function questionEndOf(reply: Reply): number {
  let at = 12
  while ((reply.bytes[at] ?? 0) !== 0) at += (reply.bytes[at] ?? 0) + 1
  return at + 5
}

interface Sections {
  readonly answers: readonly WireRecord[]
  readonly authority: readonly WireRecord[]
}

/** The records with all names written out; undefined when a name is broken. */
function recordsOf(reply: Reply, from: number): Sections | undefined {
  const bytes = Buffer.from(reply.bytes.subarray(0, reply.bodyEnd))
  write16(bytes, 10, reply.additionals)
  if (!walkBody(bytes, from)) return undefined
  const counts = [read16(bytes, 6), read16(bytes, 8)]
  const sections: WireRecord[][] = []
  let at = from
  for (const count of counts) {
    const records: WireRecord[] = []
    for (let i = 0; i < count; i++) {
      const found = recordAt(bytes, at)
      if (!found) return undefined
      records.push(found.record)
      at = found.end
    }
    sections.push(records)
  }
  return { answers: sections[0] ?? [], authority: sections[1] ?? [] }
}

function recordAt(bytes: Uint8Array, at: number): { readonly record: WireRecord; readonly end: number } | undefined {
  const owner = nameAt(bytes, at)
  if (!owner) return undefined
  const { end: fixed, name } = owner
  const type = read16(bytes, fixed)
  const end = fixed + 10 + read16(bytes, fixed + 8)
  const data = expandedData(bytes, { type, from: fixed + 10, to: end })
  return data && { record: { name, type, ttlSeconds: read32(bytes, fixed + 4), data }, end }
}

/** RDATA that may hold compressed names is written out; all other RDATA is taken as it is. [RFC 3597 4] */
function expandedData(bytes: Uint8Array, place: { type: number; from: number; to: number }): Uint8Array | undefined {
  const { type, from, to } = place
  const [skip, names] = namesIn.get(type) ?? [0, 0]
  const parts: Uint8Array[] = [bytes.subarray(from, from + skip)]
  let at = from + skip
  for (let i = 0; i < names; i++) {
    const found = nameAt(bytes, at)
    if (!found || found.end > to) return undefined
    parts.push(found.name)
    at = found.end
  }
  parts.push(bytes.subarray(at, to))
  return Buffer.concat(parts)
}

/** Bytes before the first name and number of names, for the types whose RDATA may be compressed. [RFC 1035 3.3, RFC 3597 4] */
const namesIn = new Map<number, readonly [number, number]>([
  [recordType.ns, [0, 1]],
  [recordType.cname, [0, 1]],
  [recordType.soa, [0, 2]],
  [recordType.ptr, [0, 1]],
  [recordType.mx, [2, 1]],
  [recordType.srv, [6, 1]],
  [recordType.dname, [0, 1]],
])

function nameAt(bytes: Uint8Array, at: number): { readonly name: Uint8Array; readonly end: number } | undefined {
  const length = copyName(bytes, at, scratch)
  if (length < 0) return undefined
  let end = at
  while ((bytes[end] ?? 0) !== 0 && (bytes[end] ?? 0) < 0xc0) end += (bytes[end] ?? 0) + 1
  return { name: Buffer.from(scratch.subarray(0, length)), end: end + ((bytes[end] ?? 0) === 0 ? 1 : 2) }
}

const scratch = Buffer.alloc(nameMaxBytes + 1)
