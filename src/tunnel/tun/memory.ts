import { NsmError } from '../../base/errors.ts'
import { type Descriptors, descriptorWords, type InputRing } from '../wireguard/engine.ts'
import { type EngineMemory, word } from '../words.ts'
import { type DeviceCounters, type TunDevice, vnetHeaderBytes } from './device.ts'

/** A TUN device whose other side is this process: no interface, no right needed. */
export class MemoryTunDevice implements TunDevice {
  /** Takes merged packets, as a kernel with all offloads does. */
  readonly merging = { tcp: true, udp: true }
  readonly #memory: EngineMemory
  readonly #toRead: Uint8Array[] = []
  readonly #written: Uint8Array[] = []
  #reads = 0
  #writes = 0
  #removed = false

  constructor(memory: EngineMemory) {
    this.#memory = memory
  }

  /** The machine sends one IP packet into the interface. */
  inject(packet: Uint8Array): void {
    const framed = new Uint8Array(vnetHeaderBytes + packet.length)
    framed.set(packet, vnetHeaderBytes)
    this.#toRead.push(framed)
  }

  /** What the machine received since the last call: IP packets, merged ones as they came. */
  takeWritten(): Uint8Array[] {
    return this.#written.splice(0).map((framed) => framed.subarray(vnetHeaderBytes))
  }

  /** As when somebody deletes the interface. */
  remove(): void {
    this.#removed = true
  }

  receive(ring: InputRing): number {
    if (this.#removed) throw new NsmError('LOST', 'the network interface was removed', 'connect again')
    const packets = this.#toRead.splice(0, ring.capacity)
    for (const [i, packet] of packets.entries()) {
      const at = (ring.offset >> 2) + i * descriptorWords
      this.#memory.u8.set(packet, this.#memory.u32[at] ?? 0)
      this.#memory.u32[at + word.bytes] = packet.length
    }
    this.#reads += packets.length
    return packets.length
  }

  send(packets: Descriptors, count: number): void {
    for (let i = 0; i < count; i++) {
      const at = (packets.offset >> 2) + i * descriptorWords
      const start = this.#memory.u32[at] ?? 0
      this.#written.push(this.#memory.u8.slice(start, start + (this.#memory.u32[at + word.bytes] ?? 0)))
    }
    this.#writes += count
  }

  counters(): DeviceCounters {
    return { deviceReads: this.#reads, deviceWrites: this.#writes, deviceWriteErrors: 0 }
  }
}
