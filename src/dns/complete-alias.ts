import { classify, type Reply, withoutBody } from './classify.ts'
import { buildAnswer, nameFromKey, parseQuery, type Query } from './message.ts'
import { readSections, type Sections } from './sections.ts'
import { read16, responseCode, write16 } from './wire.ts'

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

/** The records of a reply whose OPT is cut off. */
function recordsOf(reply: Reply, from: number): Sections | undefined {
  const bytes = Buffer.from(reply.bytes.subarray(0, reply.bodyEnd))
  write16(bytes, 10, reply.additionals)
  return readSections(bytes, from)
}
