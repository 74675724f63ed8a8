import { errno } from './sys/errno.ts'
import { type Libc, libc } from './sys/libc.ts'
import { MessageHeaders } from './sys/message-headers.ts'
import { allocateNative, type NativeBuffer } from './sys/native-buffer.ts'
import { AF_INET, AF_INET6, MSG_DONTWAIT, sockaddrMaxBytes } from './sys/socket-numbers.ts'
import type { UdpCounters, UdpSocket } from './udp.ts'
import { type Descriptors, descriptorWords, type InputRing } from './wireguard/engine.ts'
import { type EngineMemory, word } from './words.ts'

/** Receives into and sends from the engine's memory by recvmmsg and sendmmsg; works in any thread. */
export class LinuxUdpSocket implements UdpSocket {
  readonly #libc: Libc = libc()
  readonly #fd: number
  readonly #memory: EngineMemory
  readonly #base: number
  readonly #in = new MessageHeaders(batchMessages)
  readonly #out = new MessageHeaders(batchMessages)
  readonly #single = new MessageHeaders(segmentsMax)
  readonly #poll: NativeBuffer = allocateNative(8)
  #segments: boolean
  /** Waits for room that are left to this burst. */
  #waitsLeft = 0
  #received = 0
  #receivedSegments = 0
  #receiveCalls = 0
  #sent = 0
  #sentSegments = 0
  #calls = 0
  #errors = 0
  #splits = 0

  /** `segments: false` never asks the system to segment, as on a device without checksum offload. */
  constructor(udp: { readonly fd: number; readonly segments?: boolean }, memory: EngineMemory) {
    this.#fd = udp.fd
    this.#segments = udp.segments !== false
    this.#memory = memory
    this.#base = this.#libc.addressOf(memory.u8)
    this.#poll.view.setInt32(0, udp.fd, true)
    this.#poll.view.setInt16(4, POLLOUT, true)
  }

  receive(ring: InputRing): number {
    const { u32 } = this.#memory
    const room = Math.min(ring.capacity, batchMessages)
    for (let i = 0; i < room; i++) {
      const at = (ring.offset >> 2) + i * descriptorWords
      this.#in.name(i, this.#base + (at + word.sockaddr) * 4, sockaddrMaxBytes)
      this.#in.data(i, this.#base + (u32[at] ?? 0), ring.slotBytes)
      this.#in.expectControl(i)
    }
    const count = Math.max(this.#libc.recvmmsg(this.#fd, this.#in.address, room, MSG_DONTWAIT, 0), 0)
    for (let i = 0; i < count; i++) {
      const at = (ring.offset >> 2) + i * descriptorWords
      const bytes = this.#in.receivedBytes(i)
      const segmentBytes = this.#in.receivedSegmentBytes(i)
      u32[at + word.bytes] = bytes
      u32[at + word.segmentBytes] = segmentBytes < bytes ? segmentBytes : 0
      this.#receivedSegments += segmentsIn(u32, at)
      u32[at + word.sockaddrBytes] = this.#in.nameBytes(i)
      unmapIpv4(u32, at)
    }
    this.#received += count
    if (count > 0) this.#receiveCalls++
    return count
  }

  send(messages: Descriptors, count: number): void {
    this.#waitsLeft = fullWaitsMax
    for (let from = 0; from < count; from += batchMessages) {
      this.#sendBatch(messages, from, Math.min(count - from, batchMessages))
    }
  }

  counters(): UdpCounters {
    return {
      udpReceivedMessages: this.#received,
      udpReceivedSegments: this.#receivedSegments,
      udpReceiveCalls: this.#receiveCalls,
      udpSentMessages: this.#sent,
      udpSentSegments: this.#sentSegments,
      udpSendCalls: this.#calls,
      udpSendErrors: this.#errors,
      udpSplits: this.#splits,
    }
  }

  #sendBatch(messages: Descriptors, from: number, count: number): void {
    const { u32 } = this.#memory
    const first = (messages.offset >> 2) + from * descriptorWords
    for (let i = 0; i < count; i++) {
      const at = first + i * descriptorWords
      this.#out.name(i, this.#base + (at + word.sockaddr) * 4, u32[at + word.sockaddrBytes] ?? 0)
      this.#out.data(i, this.#base + (u32[at] ?? 0), u32[at + word.bytes] ?? 0)
      this.#out.segment(i, isSegmented(u32, at) ? (u32[at + word.segmentBytes] ?? 0) : 0)
    }
    for (let done = 0; done < count; ) {
      const at = first + done * descriptorWords
      if (!this.#segments && isSegmented(u32, at)) {
        this.#sendSingly(at)
        done++
        continue
      }
      const run = this.#segments ? count - done : 1
      const sent = this.#sendSome(this.#out.address + done * this.#out.stride, run)
      if (sent > 0) {
        for (let i = 0; i < sent; i++) this.#countSent(first + (done + i) * descriptorWords)
        done += sent
      } else {
        this.#refused(at, -sent)
        done++
      }
    }
  }

  #countSent(at: number): void {
    const { u32 } = this.#memory
    this.#sent++
    this.#sentSegments += segmentsIn(u32, at)
  }

  /**
   * A device without checksum offload cannot segment (EIO, EINVAL); a path with a smaller MTU cannot take this size
   * (EMSGSIZE), but fragments single datagrams. What else the network says is a lost packet.
   */
  #refused(at: number, number: number): void {
    const splits = number === errno.EIO || number === errno.EINVAL || number === errno.EMSGSIZE
    if (!splits || !isSegmented(this.#memory.u32, at)) {
      this.#errors++
      return
    }
    const sent = this.#sendSingly(at)
    if (sent && number !== errno.EMSGSIZE) this.#segments = false
  }

  #sendSingly(at: number): boolean {
    const { u32 } = this.#memory
    const bytes = u32[at + word.bytes] ?? 0
    const step = u32[at + word.segmentBytes] ?? 0
    const count = Math.min(Math.ceil(bytes / step), segmentsMax)
    for (let i = 0; i < count; i++) {
      this.#single.name(i, this.#base + (at + word.sockaddr) * 4, u32[at + word.sockaddrBytes] ?? 0)
      this.#single.data(i, this.#base + (u32[at] ?? 0) + i * step, Math.min(step, bytes - i * step))
      this.#single.segment(i, 0)
    }
    this.#splits++
    let done = 0
    while (done < count) {
      const sent = this.#sendSome(this.#single.address + done * this.#single.stride, count - done)
      if (sent > 0) this.#sentSegments += sent
      else this.#errors++
      if (sent <= 0 && done === 0) return false
      done += Math.max(sent, 1)
    }
    this.#sent++
    return true
  }

  /** Messages sent, or a negative error number; a full socket buffer is waited for, a bounded time per burst. */
  #sendSome(pointer: number, count: number): number {
    for (;;) {
      const sent = this.#libc.sendmmsg(this.#fd, pointer, count, 0)
      this.#calls++
      if (sent > 0) return sent
      const number = this.#libc.errno()
      if (number === errno.EINTR) continue
      const full = number === errno.EAGAIN || number === errno.ENOBUFS
      if (!full || this.#waitsLeft === 0) return -number
      this.#waitsLeft--
      this.#libc.poll(this.#poll.address, 1, fullWaitMs)
    }
  }
}

/** Datagrams of one message. */
function segmentsIn(u32: Uint32Array, at: number): number {
  const segmentBytes = u32[at + word.segmentBytes] ?? 0
  return segmentBytes === 0 ? 1 : Math.ceil((u32[at + word.bytes] ?? 0) / segmentBytes)
}

function isSegmented(u32: Uint32Array, at: number): boolean {
  const segmentBytes = u32[at + word.segmentBytes] ?? 0
  return segmentBytes > 0 && (u32[at + word.bytes] ?? 0) > segmentBytes
}

/** A socket for both families names an IPv4 sender ::ffff:a.b.c.d; the engine gets the plain sockaddr_in. */
function unmapIpv4(u32: Uint32Array, at: number): void {
  const name = at + word.sockaddr
  const familyAndPort = u32[name] ?? 0
  if ((familyAndPort & 0xffff) !== AF_INET6) return
  if (u32[name + 2] !== 0 || u32[name + 3] !== 0 || u32[name + 4] !== 0xffff0000) return
  u32[name] = (familyAndPort & 0xffff0000) | AF_INET
  u32[name + 1] = u32[name + 5] ?? 0
  u32[name + 2] = 0
  u32[name + 3] = 0
  u32[at + word.sockaddrBytes] = 16
}

/** Ours: messages per system call; 16 x 64 KiB is the engine's input ring. */
const batchMessages = 16
/** [Linux include/linux/udp.h] UDP_MAX_SEGMENTS is 64 before 6.9 and 128 after. */
const segmentsMax = 128
/** Ours: a burst waits 3 x 10 ms for room in the socket buffer, then the rest of it is lost, as on a full link. */
const fullWaitsMax = 3
const fullWaitMs = 10
const POLLOUT = 4
