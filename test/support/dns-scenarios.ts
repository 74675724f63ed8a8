import type { ScopeMode } from '../../src/dns/dns.ts'
import type { ClientReply } from './dns-client.ts'
import { delayed, reply, type Script, type ScriptedReply, scripts, soa } from './dns-upstream.ts'

/** One row: what the scope's server and the host's resolver do, and what a client must get. */
export interface Scenario {
  /** `owner / host`, the host's answers come 50 ms later. */
  readonly title: string
  readonly owner: Script
  readonly host: Script
  readonly mode: ScopeMode
  /** The first address, an rcode, NODATA for an empty NOERROR, or TC. */
  readonly ours: string
}

/** The address of the scope's server and the one of the host. */
export const ownersAddress = '10.0.0.1'
export const hostsAddress = '10.0.0.2'
const A = ownersAddress
const B = hostsAddress

/** The outcome in one word. */
export function outcomeOf(found: Pick<ClientReply, 'answers' | 'rcode' | 'flags'>): string {
  const [first] = found.answers.filter((record) => record.type === 'A')
  if (first?.type === 'A') return first.data
  if ((found.flags & 0x0200) !== 0) return 'TC'
  return found.rcode === 'NOERROR' ? 'NODATA' : (found.rcode ?? '')
}

const truncated: Script = (question) => {
  if (!question.overTcp) return [reply(question, { flags: 0x380 })]
  return [reply(question, { answers: [{ type: 'A', name: question.name, ttl: 60, data: A }] })]
}
/** Truncated over UDP, nobody there over TCP. */
export const truncatedAlways: Script = (question) => (question.overTcp ? [] : [reply(question, { flags: 0x380 })])
/** An alias without its end. */
export const alias: Script = (question) => {
  return [reply(question, { answers: [{ type: 'CNAME', name: question.name, ttl: 60, data: 'target.case.test' }] })]
}
const aliasWithNo: Script = (question) => [
  reply(question, {
    answers: [{ type: 'CNAME', name: question.name, ttl: 60, data: 'x.case.test' }],
    authorities: [soa('case.test')],
  }),
]
const junkOwner: Script = (question) => [
  reply(question, { answers: [{ type: 'A', name: 'other.test', ttl: 60, data: '10.6.6.6' }] }),
]
const junkType: Script = (question) => [
  reply(question, { answers: [{ type: 'TXT', name: question.name, ttl: 60, data: 'x' }] }),
]
const wrongId: Script = (question) => [
  reply(question, { idOffset: 1, answers: [{ type: 'A', name: question.name, ttl: 60, data: '10.6.6.6' }] }),
  ...scripts.answering(A)(question),
]
const otherQuestion: Script = (question) => [
  reply(question, { name: 'evil.test', answers: [{ type: 'A', name: 'evil.test', ttl: 60, data: '10.6.6.6' }] }),
  ...scripts.answering(A)(question),
]
const otherPort: Script = (question) => {
  const forged = scripts.answering('10.6.6.6')(question)
  return [...forged.map((one) => ({ ...one, fromOtherPort: true })), ...scripts.answering(A)(question)]
}
const cutBody: Script = (question) =>
  scripts
    .answering(A)(question)
    .map(({ bytes }) => ({ bytes: bytes.subarray(0, -2) }))
/** Answers FORMERR to EDNS and well without. */
export const dislikesEdns: Script = (question) =>
  question.hasOpt ? [reply(question, { rcode: 1 })] : scripts.answering(A)(question)
const pointsHome = scripts.answering('127.0.0.1')
const referral: Script = (question) => [
  reply(question, { flags: 0x100, authorities: [{ type: 'NS', name: 'test', ttl: 60, data: 'ns.test' }] }),
]
const badVersion: Script = (question) => [
  reply(question, {
    additionals: [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize: 512,
        extendedRcode: 1,
        ednsVersion: 0,
        flags: 0,
        flag_do: false,
        options: [],
      },
    ],
  }),
]

/** SERVFAIL with an extended error: DNSSEC bogus. [RFC 8914 4.7] */
const bogus: Script = (question) =>
  scripts
    .rcode(2)(question)
    .map((one) => withExtendedError(one, 6))
const withoutQuestion: Script = (question) => {
  const bytes = Buffer.from(question.raw.subarray(0, 12))
  bytes.writeUInt16BE(0x8185, 2)
  bytes.writeUInt16BE(0, 4)
  bytes.writeUInt16BE(0, 10)
  return [{ bytes }]
}
const random: Script = (question) => [
  { bytes: Buffer.concat([question.raw.subarray(0, 2), Buffer.from('deadbeef'.repeat(8), 'hex')]) },
]
const pointerLoop: Script = (question) => {
  const [good] = scripts.answering(A)(question)
  const bytes = Buffer.from(good?.bytes ?? [])
  const answer = 12 + question.name.length + 2 + 4
  bytes.writeUInt16BE(0xc000 | answer, answer)
  return [{ bytes }]
}
const countsBeyond: Script = (question) => {
  const [good] = scripts.answering(A)(question)
  const bytes = Buffer.from(good?.bytes ?? [])
  bytes.writeUInt16BE(4_000, 6)
  return [{ bytes }]
}
const query: Script = (question) => [{ bytes: question.raw }]
const tcpOnly: Script = (question) => (question.overTcp ? scripts.answering(A)(question) : truncatedAlways(question))

/** The reply with an OPT that carries an extended error. */
function withExtendedError({ bytes }: ScriptedReply, code: number): ScriptedReply {
  const told = Buffer.concat([
    bytes,
    Buffer.from(`00002904d0000000000006000f0002${code.toString(16).padStart(4, '0')}`, 'hex'),
  ])
  told.writeUInt16BE(1, 10)
  return { bytes: told }
}

const positiveA = scripts.answering(A)
const positiveB = scripts.answering(B)
const { silent, nxdomain, nodata, rcode } = scripts

const fanout: readonly (readonly [string, Script, Script, string])[] = [
  ['NXDOMAIN / A', nxdomain, positiveB, B],
  ['A / NXDOMAIN', positiveA, nxdomain, A],
  ['NODATA / A', nodata, positiveB, B],
  ['SERVFAIL / A', rcode(2), positiveB, B],
  ['REFUSED / A', rcode(5), positiveB, B],
  ['FORMERR / A', rcode(1), positiveB, B],
  ['NOTIMP / A', rcode(4), positiveB, B],
  ['silent / A', silent, positiveB, B],
  ['NXDOMAIN / NXDOMAIN', nxdomain, nxdomain, 'NXDOMAIN'],
  ['NXDOMAIN / NODATA', nxdomain, nodata, 'NODATA'],
  ['NODATA / NXDOMAIN', nodata, nxdomain, 'NODATA'],
  ['SERVFAIL / NXDOMAIN', rcode(2), nxdomain, 'NXDOMAIN'],
  ['NXDOMAIN / SERVFAIL', nxdomain, rcode(2), 'NXDOMAIN'],
  ['NXDOMAIN / silent', nxdomain, silent, 'NXDOMAIN'],
  ['silent / NXDOMAIN: the host knows nothing of the scope', silent, nxdomain, 'SERVFAIL'],
  ['SERVFAIL / REFUSED', rcode(2), rcode(5), 'SERVFAIL'],
  ['REFUSED / REFUSED', rcode(5), rcode(5), 'REFUSED'],
  ['REFUSED / NODATA', rcode(5), nodata, 'NODATA'],
  ['silent / silent', silent, silent, 'SERVFAIL'],
  ['TC / NXDOMAIN', truncated, nxdomain, A],
  ['alias with SOA / A', aliasWithNo, positiveB, B],
  ['wrong id, then right / NXDOMAIN', wrongId, nxdomain, A],
  ['other question, then right / NXDOMAIN', otherQuestion, nxdomain, A],
  ['other port, then right / NXDOMAIN', otherPort, nxdomain, A],
  ['body cut / A', cutBody, positiveB, B],
  ['FORMERR to EDNS, fine without / NXDOMAIN', dislikesEdns, nxdomain, A],
  ['answer of another owner / A', junkOwner, positiveB, B],
  ['answer of another type / A', junkType, positiveB, B],
  ['answer of another owner / NXDOMAIN', junkOwner, nxdomain, 'NXDOMAIN'],
  ['answer of another owner / silent', junkOwner, silent, 'SERVFAIL'],
  ['an address of this machine / A', pointsHome, positiveB, B],
  ['referral / NXDOMAIN', referral, nxdomain, 'NXDOMAIN'],
  ['BADVERS in the OPT / A', badVersion, positiveB, B],
  ['alias only / A', alias, positiveB, B],
  ['FORMERR / FORMERR: never passed on', rcode(1), rcode(1), 'SERVFAIL'],
  ['NOTIMP / NOTIMP', rcode(4), rcode(4), 'NOTIMP'],
  ['SERVFAIL that says why / SERVFAIL', bogus, rcode(2), 'SERVFAIL'],
  ['REFUSED without a question / A', withoutQuestion, positiveB, B],
  ['random bytes / A', random, positiveB, B],
  ['the query sent back / A', query, positiveB, B],
  ['a name that points to itself / A', pointerLoop, positiveB, B],
  ['4,000 records announced, one there / A', countsBeyond, positiveB, B],
  ['TC, then an answer over TCP / silent', tcpOnly, silent, A],
  ['TC, and nobody over TCP / NXDOMAIN', truncatedAlways, nxdomain, 'TC'],
  ['A after 150 ms / NXDOMAIN', delayed(positiveA, 150), nxdomain, A],
  ['A after 3 s / A', delayed(positiveA, 3_000), positiveB, B],
  ['NXDOMAIN / A after 3 s: the grace is over', nxdomain, delayed(positiveB, 3_000), 'NXDOMAIN'],
  ['A after 3 s / NXDOMAIN: the host knows nothing of the scope', delayed(positiveA, 3_000), nxdomain, 'SERVFAIL'],
]

const preferService: typeof fanout = [
  ['A / A', positiveA, positiveB, A],
  ['NODATA / A', nodata, positiveB, 'NODATA'],
  ['NXDOMAIN / A', nxdomain, positiveB, B],
  ['REFUSED / A', rcode(5), positiveB, B],
  ['silent / A', silent, positiveB, B],
  ['A after 150 ms / A', delayed(positiveA, 150), positiveB, A],
  ['A after 3 s / A', delayed(positiveA, 3_000), positiveB, B],
]

const exclusive: typeof fanout = [
  ['A / A', positiveA, positiveB, A],
  ['NXDOMAIN / A', nxdomain, positiveB, 'NXDOMAIN'],
  ['SERVFAIL / A', rcode(2), positiveB, 'SERVFAIL'],
  ['silent / A', silent, positiveB, 'SERVFAIL'],
]

/** How much later the host's resolver answers. */
const hostAfterMs = 50

/** Every row; the titles of one mode differ. */
export const scenarios: readonly Scenario[] = [
  ...fanout.map((row) => scenario('fanout', row)),
  ...preferService.map((row) => scenario('prefer-service', row)),
  ...exclusive.map((row) => scenario('exclusive', row)),
]

/** The fan-out rows; row n is asked for by the name `s<n>.case.test`. */
export const raced = scenarios.filter(({ mode }) => mode === 'fanout')

/** A program that has said nothing by then does not answer: stubs have given up. */
export const silenceMs = 5_500

/** One server that does for each name what its row says. */
export function scenarioScript(side: 'owner' | 'host'): Script {
  return (question) => raced[Number(/^s(\d+)\./.exec(question.name)?.[1] ?? -1)]?.[side](question) ?? []
}

function scenario(mode: ScopeMode, [title, owner, host, ours]: (typeof fanout)[number]): Scenario {
  return { title, owner, host: delayed(host, hostAfterMs), mode, ours }
}
