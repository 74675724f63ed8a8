import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, type Server } from 'node:net'
import packet from 'dns-packet'
import { type Clock, systemClock } from '../../src/base/clock.ts'

/** What a scripted server does with one question; answers are built by an independent codec. */
export type Script = (question: ScriptedQuestion) => readonly ScriptedReply[]

/** One question as the scripted server saw it. */
export interface ScriptedQuestion {
  readonly name: string
  readonly type: string
  readonly overTcp: boolean
  readonly hasOpt: boolean
  readonly raw: Buffer
  readonly packet: packet.DecodedPacket
}

/** A reply: raw bytes (id included), sent from the asked port or from another one. */
export interface ScriptedReply {
  readonly bytes: Buffer
  readonly fromOtherPort?: boolean
  /** Sent so much later. */
  readonly afterMs?: number
}

/** A scripted upstream on 127.0.0.1, UDP and TCP on the same port. */
export class DnsUpstream {
  readonly asked: ScriptedQuestion[] = []
  script: Script
  readonly #udp: Socket
  readonly #other: Socket
  readonly #tcp: Server
  #waiting: (() => void)[] = []
  #closed = false

  readonly #clock: Clock

  private constructor(
    script: Script,
    sockets: { readonly udp: Socket; readonly other: Socket; readonly tcp: Server; readonly clock: Clock },
  ) {
    this.script = script
    this.#clock = sockets.clock
    this.#udp = sockets.udp
    this.#other = sockets.other
    this.#tcp = sockets.tcp
    this.#udp.on('message', (message, from) => this.#onUdp(message, from))
    this.#tcp.on('connection', (socket) => {
      socket.on('error', () => socket.destroy())
      socket.once('data', (chunk) => {
        const replies = this.#replies(chunk.subarray(2), true)
        for (const reply of replies) this.#later(reply, () => socket.write(withLength(reply.bytes)))
        if (replies.length === 0) socket.destroy()
      })
    })
  }

  /** Opens UDP and TCP on one free port; draws another one while the TCP side is taken. */
  static async open(script: Script, clock: Clock = systemClock): Promise<DnsUpstream> {
    const udp = createSocket('udp4')
    const other = createSocket('udp4')
    udp.bind(0, '127.0.0.1')
    other.bind(0, '127.0.0.1')
    await Promise.all([once(udp, 'listening'), once(other, 'listening')])
    const tcp = createServer()
    tcp.listen(udp.address().port, '127.0.0.1')
    const taken = await once(tcp, 'listening').then(
      () => false,
      () => true,
    )
    if (!taken) return new DnsUpstream(script, { udp, other, tcp, clock })
    udp.close()
    other.close()
    return DnsUpstream.open(script, clock)
  }

  get target(): { readonly address: string; readonly port: number } {
    return { address: '127.0.0.1', port: this.#udp.address().port }
  }

  /** Resolves when at least `count` questions were seen. */
  async sawQuestions(count: number): Promise<void> {
    while (this.asked.length < count) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#udp.close()
    this.#other.close()
    this.#tcp.close()
  }

  #onUdp(message: Buffer, from: RemoteInfo): void {
    for (const reply of this.#replies(message, false)) {
      const socket = reply.fromOtherPort ? this.#other : this.#udp
      this.#later(reply, () => socket.send(reply.bytes, from.port, from.address))
    }
  }

  #later(reply: ScriptedReply, send: () => void): void {
    if (reply.afterMs === undefined) send()
    else this.#clock.after(reply.afterMs, () => this.#closed || send())
  }

  #replies(raw: Buffer, overTcp: boolean): readonly ScriptedReply[] {
    const decoded = packet.decode(raw)
    const [first] = decoded.questions ?? []
    if (!first || first.type === 'HINFO') return []
    const hasOpt = (decoded.additionals ?? []).some((record) => record.type === 'OPT')
    const question = { name: first.name, type: first.type, overTcp, hasOpt, raw, packet: decoded }
    this.asked.push(question)
    for (const wake of this.#waiting.splice(0)) wake()
    return this.script(question)
  }
}

/** The bytes of a reply to a question, from an independent encoder. */
export function reply(
  question: ScriptedQuestion,
  parts: {
    readonly rcode?: number
    readonly answers?: packet.Answer[]
    readonly authorities?: packet.Answer[]
    readonly additionals?: packet.Answer[]
    readonly flags?: number
    readonly idOffset?: number
    readonly name?: string
  } = {},
): ScriptedReply {
  const bytes = packet.encode({
    type: 'response',
    id: (question.raw.readUInt16BE(0) + (parts.idOffset ?? 0)) & 0xffff,
    flags: (parts.flags ?? 0x180) | (parts.rcode ?? 0),
    questions: [
      { ...(question.packet.questions?.[0] ?? { type: 'A', name: '' }), ...(parts.name ? { name: parts.name } : {}) },
    ],
    answers: parts.answers ?? [],
    authorities: parts.authorities ?? [],
    additionals: parts.additionals ?? [],
  })
  return { bytes }
}

/** Scripts for the usual behaviours. */
export const scripts = {
  silent: (() => []) satisfies Script,
  answering: (address: string, ttl = 60): Script => {
    return (question) => [reply(question, { answers: [{ type: 'A', name: question.name, ttl, data: address }] })]
  },
  rcode: (rcode: number): Script => {
    return (question) => [reply(question, { rcode })]
  },
  nxdomain: ((question) => [reply(question, { rcode: 3, authorities: [soa(question.name)] })]) satisfies Script,
  nodata: ((question) => [reply(question, { authorities: [soa(question.name)] })]) satisfies Script,
} as const

/** The same replies, later. */
export function delayed(script: Script, afterMs: number): Script {
  return (question) => script(question).map((one) => ({ ...one, afterMs: (one.afterMs ?? 0) + afterMs }))
}

/** A SOA record of 60 s life. */
export function soa(name: string): packet.Answer {
  return {
    type: 'SOA',
    name,
    ttl: 60,
    data: { mname: 'ns.example', rname: 'host.example', serial: 1, refresh: 1, retry: 1, expire: 1, minimum: 60 },
  }
}

function withLength(bytes: Buffer): Buffer {
  const frame = Buffer.alloc(bytes.length + 2)
  frame.writeUInt16BE(bytes.length)
  bytes.copy(frame, 2)
  return frame
}
