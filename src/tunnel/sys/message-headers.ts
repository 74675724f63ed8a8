import { allocateNative, type NativeBuffer } from './native-buffer.ts'
import { SOL_UDP, UDP_GRO } from './socket-numbers.ts'

/**
 * An array of `struct mmsghdr` with one data part and one control message each, for recvmmsg and sendmmsg on a 64-bit
 * Linux. Layout in 32-bit words: name 0-1, name bytes 2, iov 4-5, iov count 6-7, control 8-9, control bytes 10-11,
 * flags 12, message bytes 14.
 */
export class MessageHeaders {
  readonly stride = headerBytes
  readonly #buffer: NativeBuffer
  readonly #u32: Uint32Array
  readonly #iovs: number
  readonly #controls: number

  constructor(count: number) {
    this.#buffer = allocateNative(count * (headerBytes + iovBytes + controlBytes))
    this.#u32 = new Uint32Array(this.#buffer.bytes.buffer)
    this.#iovs = count * headerBytes
    this.#controls = this.#iovs + count * iovBytes
    for (let i = 0; i < count; i++) {
      this.#pointer((i * headerBytes) / 4 + 4, this.address + this.#iovs + i * iovBytes)
      this.#u32[(i * headerBytes) / 4 + 6] = 1
      this.#pointer((i * headerBytes) / 4 + 8, this.address + this.#controls + i * controlBytes)
    }
  }

  /** Address of header 0. */
  get address(): number {
    return this.#buffer.address
  }

  /** Where the socket address of message `i` is, or is to be written. */
  name(i: number, address: number, bytes: number): void {
    this.#pointer((i * headerBytes) / 4, address)
    this.#u32[(i * headerBytes) / 4 + 2] = bytes
  }

  /** Where the data of message `i` is, or is to be written. */
  data(i: number, address: number, bytes: number): void {
    const at = (this.#iovs + i * iovBytes) / 4
    this.#pointer(at, address)
    this.#u32[at + 2] = bytes
  }

  /** Makes room for what the system says about a received message. */
  expectControl(i: number): void {
    this.#u32[(i * headerBytes) / 4 + 10] = controlBytes
  }

  /** Asks for segments of this many bytes; 0 = one datagram. */
  segment(i: number, segmentBytes: number): void {
    this.#u32[(i * headerBytes) / 4 + 10] = segmentBytes === 0 ? 0 : controlBytes
    const at = (this.#controls + i * controlBytes) / 4
    this.#u32[at] = 18
    this.#u32[at + 2] = SOL_UDP
    this.#u32[at + 3] = UDP_SEGMENT
    this.#u32[at + 4] = segmentBytes
  }

  /** Bytes of received message `i`. */
  receivedBytes(i: number): number {
    return this.#u32[(i * headerBytes) / 4 + 14] ?? 0
  }

  /** Bytes of the sender's address of received message `i`. */
  nameBytes(i: number): number {
    return this.#u32[(i * headerBytes) / 4 + 2] ?? 0
  }

  /** Bytes of each datagram the system joined into message `i`; 0 = it joined none. */
  receivedSegmentBytes(i: number): number {
    const at = (this.#controls + i * controlBytes) / 4
    if ((this.#u32[(i * headerBytes) / 4 + 10] ?? 0) < 20) return 0
    return this.#u32[at + 2] === SOL_UDP && this.#u32[at + 3] === UDP_GRO ? (this.#u32[at + 4] ?? 0) : 0
  }

  #pointer(at: number, address: number): void {
    this.#u32[at] = address % 4_294_967_296
    this.#u32[at + 1] = Math.floor(address / 4_294_967_296)
  }
}

const headerBytes = 64
const iovBytes = 16
/** CMSG_SPACE of one number: 16 bytes of header, 8 of data. */
const controlBytes = 24
/** [Linux include/uapi/linux/udp.h] */
const UDP_SEGMENT = 103
