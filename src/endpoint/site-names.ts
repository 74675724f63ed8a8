import { randomInt } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import { formatAddress, type IpAddress, parseAddress } from '../base/ip.ts'
import { buildAnswer, parseQuery, responseCode } from '../dns/message.ts'
import { buildUdp, parseUdp, type UdpDatagram } from '../tunnel/ip-packet.ts'
import { answerQuery, dnsPort } from './gateway-dns.ts'
import type { Presence } from './site-watch.ts'
import type { ZoneSource } from './zone.ts'

/* A query to the gateway: our own zone answers. Only when it knows no such name, and the asker is no other site, the same
 * question goes to the name servers of all other sites at once. The first positive answer wins, so of two members that have one
 * name at different sites each is known at its own site, and a third site knows the one that is nearer; NSM's endpoints do
 * the same. All "no such name" is "no such name"; anything else is SERVFAIL, since the one that was silent may know it. A site
 * that fell silent before is not asked and not waited for. [NSM sdk vl3dns, dnsutils/fanout] */

/** Another site as a place of names. */
export interface NameSite {
  /** Its name servers, one or more of each family. */
  readonly nameServers: readonly string[]
  readonly presence: Presence
}

/** What the names of several sites are made from. */
export interface SiteNamesParts {
  readonly zone: ZoneSource
  /** The other sites. */
  readonly others: () => readonly NameSite[]
  /** UDP port of the gateway at which answers of other sites arrive. */
  readonly port: number
  readonly send: (packet: Uint8Array) => void
  readonly clock: Clock
}

/** Ours: longer than a round trip around the world, shorter than the first retry of usual resolvers (5 s). */
const answerTimeoutMs = 1_500
/** Ours: questions under way; beyond, the others wait for their own retry. */
const pendingMax = 4_096

/** A question of a member, whichever way it came. */
export interface Question {
  readonly source: IpAddress
  /** Of the gateway. */
  readonly destination: IpAddress
  readonly message: Uint8Array
  /** Of the reply; by default what the client takes over UDP. */
  readonly limitBytes?: number
  readonly reply: (message: Uint8Array) => void
}

interface Asked {
  readonly question: Question
  readonly negative: Uint8Array
  /** `server id` of the sites that have not answered. */
  readonly open: Set<string>
  readonly cancel: () => void
  failed: boolean
}

/** A port for answers of other sites: none that has a meaning, and another one each time. */
export function answerPort(): number {
  return randomInt(20_000, 60_000)
}

/** The name server of a gateway that asks the other sites for names it does not know. */
export class SiteNames {
  readonly #parts: SiteNamesParts
  readonly #asked = new Map<string, Asked>()

  constructor(parts: SiteNamesParts) {
    this.#parts = parts
  }

  /** Takes a raw IP packet to the gateway, a question or another site's answer; anything else is passed over. */
  take(packet: Uint8Array): void {
    const { port, zone, send } = this.#parts
    const datagram = parseUdp(packet)
    if (!datagram) return
    const { source, sourcePort, destination, destinationPort, payload: message } = datagram
    if (destinationPort === port) return void this.#onAnswer(datagram)
    const isOurs = zone.gateways.some(({ family, bits }) => family === destination.family && bits === destination.bits)
    if (!isOurs || destinationPort !== dnsPort) return
    const back = { source: destination, sourcePort: dnsPort, destination: source, destinationPort: sourcePort }
    this.answer({ source, destination, message, reply: (payload) => send(buildUdp({ ...back, payload })) })
  }

  /** Answers a question, or does not when it is none. */
  answer(question: Question): void {
    const reply = answerQuery(this.#parts.zone, question.message, question.limitBytes)
    if (!reply) return
    if (this.#isAsked(question, reply)) this.#askOthers(question, reply)
    else question.reply(reply)
  }

  /** True when the packet comes from another site's name server. */
  isOther(packet: Uint8Array): boolean {
    const datagram = parseUdp(packet)
    return datagram !== undefined && this.#isOther(datagram)
  }

  /** Forgets the questions under way. */
  stop(): void {
    for (const { cancel } of this.#asked.values()) cancel()
    this.#asked.clear()
  }

  #isOther({ source }: Pick<Question, 'source'>): boolean {
    const text = formatAddress(source)
    return this.#parts.others().some(({ nameServers }) => nameServers.includes(text))
  }

  /** Not for a name that is known here, not for another site, and not when too much is asked. */
  #isAsked(question: Question, reply: Uint8Array): boolean {
    if (codeOf(reply) !== responseCode.nameError || this.#isOther(question)) return false
    return this.#asked.size + this.#parts.others().length <= pendingMax
  }

  #askOthers(question: Question, negative: Uint8Array): void {
    const sites = this.#parts.others()
    const live = sites.filter(({ presence }) => presence === 'live')
    const servers = live.flatMap((site) => serverFor(site, question.destination))
    this.#ask(question, servers, { negative, failed: sites.some(({ presence }) => presence === 'silent') })
  }

  #ask(question: Question, servers: readonly IpAddress[], reply: Pick<Asked, 'negative' | 'failed'>): void {
    const { clock, send, port, zone } = this.#parts
    const cancel = clock.after(answerTimeoutMs, () => this.#fail(asked))
    const asked: Asked = { question, ...reply, open: new Set(), cancel }
    const questions = servers.flatMap((server) => {
      const source = zone.gateways.find(({ family }) => family === server.family)
      if (!source) return []
      const id = this.#newId(server)
      asked.open.add(keyOf(server, id))
      this.#asked.set(keyOf(server, id), asked)
      const payload = withId(question.message, id)
      return [buildUdp({ source, sourcePort: port, destination: server, destinationPort: dnsPort, payload })]
    })
    if (questions.length === 0) this.#conclude(asked)
    for (const question of questions) send(question)
  }

  #onAnswer(answer: UdpDatagram): void {
    const { payload } = answer
    if (answer.sourcePort !== dnsPort || payload.length < headerBytes || ((payload[2] ?? 0) & responseBit) === 0) return
    const key = keyOf(answer.source, idOf(payload))
    const asked = this.#asked.get(key)
    if (!asked || !isSameQuestion(asked.question.message, payload)) return
    this.#asked.delete(key)
    asked.open.delete(key)
    const code = codeOf(payload)
    if (code !== responseCode.noError && code !== responseCode.nameError) asked.failed = true
    if (code === responseCode.noError) this.#finish(asked, withId(payload, idOf(asked.question.message)))
    else if (asked.open.size === 0) this.#conclude(asked)
  }

  /** Nobody is left who could know the name. */
  #conclude(asked: Asked): void {
    if (asked.failed) this.#fail(asked)
    else this.#finish(asked, asked.negative)
  }

  #fail(asked: Asked): void {
    const query = parseQuery(asked.question.message)
    const { serverFailure: rcode } = responseCode
    if (query.kind !== 'query') this.#close(asked)
    else this.#finish(asked, buildAnswer({ query, rcode, records: [], authoritative: false }))
  }

  #finish(asked: Asked, message: Uint8Array): void {
    this.#close(asked)
    asked.question.reply(message)
  }

  #close(asked: Asked): void {
    asked.cancel()
    for (const key of asked.open) this.#asked.delete(key)
  }

  #newId(gateway: IpAddress): number {
    let id = randomInt(65_536)
    while (this.#asked.has(keyOf(gateway, id))) id = randomInt(65_536)
    return id
  }
}

/** One server of a site, of the question's family if it has one. */
function serverFor({ nameServers }: NameSite, { family }: IpAddress): readonly IpAddress[] {
  const servers = nameServers.map(parseAddress)
  const server = servers.find((one) => one.family === family) ?? servers[0]
  return server ? [server] : []
}

/** [RFC 1035 4.1.1] */
const headerBytes = 12
const responseBit = 0x80

function keyOf(gateway: IpAddress, id: number): string {
  return `${formatAddress(gateway)} ${id}`
}

function idOf(message: Uint8Array): number {
  return ((message[0] ?? 0) << 8) | (message[1] ?? 0)
}

function withId(message: Uint8Array, id: number): Uint8Array {
  const copy = new Uint8Array(message)
  copy[0] = id >> 8
  copy[1] = id & 0xff
  return copy
}

function codeOf(message: Uint8Array): number {
  return (message[3] ?? 0) & 0x0f
}

/** The question of an answer is the one that was asked, letter by letter: the site copies it. */
function isSameQuestion(question: Uint8Array, answer: Uint8Array): boolean {
  const query = parseQuery(question)
  if (query.kind !== 'query') return false
  const asked = Buffer.from(question.subarray(headerBytes, query.questionEnd))
  return asked.equals(answer.subarray(headerBytes, query.questionEnd))
}
