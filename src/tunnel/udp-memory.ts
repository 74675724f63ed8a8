import type { UdpCounters, UdpSocket } from './udp.ts'
import { type Descriptors, descriptorWords, type InputRing } from './wireguard/engine.ts'
import { readSockaddr, writeSockaddr } from './wireguard/sockaddr.ts'
import { type EngineMemory, word } from './words.ts'

/** One message between two sockets, with everything a failing test wants to see. */
export interface MemoryMessage {
  readonly from: string
  readonly to: string
  readonly bytes: Uint8Array
  /** Bytes of each datagram in it; 0 = one datagram. */
  readonly segmentBytes: number
}

/** A network inside this process: sockets by address, nothing lost, order kept. */
export class MemoryNetwork {
  /** Every message so far, first one first. */
  readonly seen: MemoryMessage[] = []
  readonly #sockets = new Map<string, MemoryUdpSocket>()

  /** A socket at this address; the engine's memory is where it reads and writes. */
  open(at: { readonly address: string; readonly port: number }, memory: EngineMemory): MemoryUdpSocket {
    const socket = new MemoryUdpSocket(at, memory, (message) => this.#carry(message))
    this.#sockets.set(nameOf(at), socket)
    return socket
  }

  /** One line per message: who to whom, how many bytes in how many datagrams. */
  flow(): string {
    const line = (m: MemoryMessage) => `${m.from} -> ${m.to}  ${m.bytes.length} B  ${segmentsOf(m)} datagrams`
    return this.seen.map(line).join('\n')
  }

  #carry(message: MemoryMessage): boolean {
    this.seen.push(message)
    const target = this.#sockets.get(message.to)
    target?.deliver(message)
    return target !== undefined
  }
}

/** A UDP socket of a `MemoryNetwork`. */
export class MemoryUdpSocket implements UdpSocket {
  readonly #name: string
  readonly #memory: EngineMemory
  readonly #carry: (message: MemoryMessage) => boolean
  readonly #waiting: MemoryMessage[] = []
  #received = 0
  #receivedSegments = 0
  #receiveCalls = 0
  #sent = 0
  #sentSegments = 0
  #errors = 0

  constructor(
    at: { readonly address: string; readonly port: number },
    memory: EngineMemory,
    carry: (message: MemoryMessage) => boolean,
  ) {
    this.#name = nameOf(at)
    this.#memory = memory
    this.#carry = carry
  }

  /** Puts a message where the next `receive` finds it. */
  deliver(message: MemoryMessage): void {
    this.#waiting.push(message)
  }

  receive(ring: InputRing): number {
    const { u8, u32 } = this.#memory
    const messages = this.#waiting.splice(0, ring.capacity)
    for (const [i, message] of messages.entries()) {
      const at = (ring.offset >> 2) + i * descriptorWords
      u8.set(message.bytes, u32[at] ?? 0)
      u32[at + word.bytes] = message.bytes.length
      u32[at + word.segmentBytes] = message.segmentBytes
      writeSockaddr(sockaddrAt(u8, at), parseName(message.from))
    }
    this.#received += messages.length
    this.#receivedSegments += messages.reduce((sum, message) => sum + segmentsOf(message), 0)
    if (messages.length > 0) this.#receiveCalls++
    return messages.length
  }

  send(messages: Descriptors, count: number): void {
    const { u8, u32 } = this.#memory
    for (let i = 0; i < count; i++) {
      const at = (messages.offset >> 2) + i * descriptorWords
      const start = u32[at] ?? 0
      const bytes = u8.slice(start, start + (u32[at + word.bytes] ?? 0))
      const segmentBytes = u32[at + word.segmentBytes] ?? 0
      const to = readSockaddr(sockaddrAt(u8, at))
      const run = { from: this.#name, bytes, segmentBytes: segmentBytes < bytes.length ? segmentBytes : 0 }
      if (!to || !this.#carry({ ...run, to: nameOf(to) })) this.#errors++
      this.#sent++
      this.#sentSegments += segmentsOf(run)
    }
  }

  counters(): UdpCounters {
    return {
      udpReceivedMessages: this.#received,
      udpReceivedSegments: this.#receivedSegments,
      udpReceiveCalls: this.#receiveCalls,
      udpSentMessages: this.#sent,
      udpSentSegments: this.#sentSegments,
      udpSendCalls: this.#sent,
      udpSendErrors: this.#errors,
      udpSplits: 0,
    }
  }
}

function segmentsOf(message: { readonly bytes: Uint8Array; readonly segmentBytes: number }): number {
  return message.segmentBytes === 0 ? 1 : Math.ceil(message.bytes.length / message.segmentBytes)
}

/** Length and socket address of a descriptor, as the engine's own reader and writer take them. */
function sockaddrAt(u8: Uint8Array, at: number): Uint8Array {
  return u8.subarray((at + word.sockaddrBytes) * 4, (at + word.sockaddrBytes) * 4 + 32)
}

function nameOf(at: { readonly address: string; readonly port: number }): string {
  return `${at.address} ${at.port}`
}

function parseName(name: string): { address: string; port: number } {
  const [address = '', port = '0'] = name.split(' ')
  return { address, port: Number(port) }
}
