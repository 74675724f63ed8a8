import { NsmError } from '../../base/errors.ts'
import { errno, systemError } from '../sys/errno.ts'
import { type Libc, libc } from '../sys/libc.ts'
import { type Descriptors, descriptorWords, type InputRing } from '../wireguard/engine.ts'
import { type EngineMemory, word } from '../words.ts'
import { burstBytes, type DeviceCounters, type Merging, type TunDevice, vnetHeaderBytes } from './device.ts'

/** Reads and writes an open TUN descriptor straight from and to the engine's memory; works in any thread. */
export class LinuxTunDevice implements TunDevice {
  readonly #libc: Libc = libc()
  readonly #fd: number
  /** Bytes of the virtio_net_hdr the kernel leaves out and the engine expects. */
  readonly #missing: number
  readonly #memory: EngineMemory
  readonly #base: number
  #merging: Merging
  #reads = 0
  #writes = 0
  #writeErrors = 0

  constructor(tun: TunHandle, memory: EngineMemory) {
    this.#fd = tun.fd
    this.#missing = tun.vnetHeader ? 0 : vnetHeaderBytes
    this.#merging = tun.merging
    this.#memory = memory
    this.#base = this.#libc.addressOf(memory.u8)
  }

  receive(ring: InputRing): number {
    const { u8, u32 } = this.#memory
    let count = 0
    for (let total = 0; count < ring.capacity && total < burstBytes; count++) {
      const at = (ring.offset >> 2) + count * descriptorWords
      const slot = u32[at] ?? 0
      if (this.#missing) u8.fill(0, slot, slot + vnetHeaderBytes)
      const bytes = this.#libc.read(this.#fd, this.#base + slot + this.#missing, ring.slotBytes - this.#missing)
      if (bytes <= 0) {
        if (bytes < 0) this.#checkAlive()
        break
      }
      u32[at + word.bytes] = bytes + this.#missing
      total += bytes
    }
    this.#reads += count
    return count
  }

  send(packets: Descriptors, count: number): void {
    const { u32 } = this.#memory
    for (let i = 0; i < count; i++) {
      const at = (packets.offset >> 2) + i * descriptorWords
      const start = u32[at] ?? 0
      const bytes = (u32[at + word.bytes] ?? 0) - this.#missing
      if (this.#libc.write(this.#fd, this.#base + start + this.#missing, bytes) < 0) this.#refused(start)
      else this.#writes++
    }
  }

  counters(): DeviceCounters {
    return { deviceReads: this.#reads, deviceWrites: this.#writes, deviceWriteErrors: this.#writeErrors }
  }

  get merging(): Merging {
    return this.#merging
  }

  /** Some kernels refuse merged packets, and only the write shows it: this one is lost, later ones go one by one. */
  #refused(start: number): void {
    this.#writeErrors++
    if (this.#libc.errno() !== errno.EINVAL) return
    const merged = this.#memory.u8[start + 1] ?? 0
    if (merged === GSO_UDP) this.#merging = { ...this.#merging, udp: false }
    else if (merged !== 0) this.#merging = { ...this.#merging, tcp: false }
  }

  #checkAlive(): void {
    const number = this.#libc.errno()
    if (number === errno.EAGAIN || number === errno.EINTR) return
    if (number === errno.EBADFD) {
      throw new NsmError('LOST', 'the network interface was removed', 'connect again')
    }
    throw systemError('cannot read the network interface', number)
  }
}

/** An open TUN descriptor as it crosses to the worker thread. */
export interface TunHandle {
  readonly fd: number
  readonly vnetHeader: boolean
  readonly merging: Merging
}

/** VIRTIO_NET_HDR_GSO_UDP_L4, the second byte of the header [Linux include/uapi/linux/virtio_net.h]. */
const GSO_UDP = 5
