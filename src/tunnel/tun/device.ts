import type { Descriptors, InputRing } from '../wireguard/engine.ts'

/**
 * One network interface whose packets this process reads and writes, over the engine's memory.
 * Every packet there has a 10-byte virtio_net_hdr in front, whether or not the system's interface knows such headers.
 */
export interface TunDevice {
  /** Fills slots 0.. of the ring and gives how many; 0 = nothing waits. Throws `LOST` when the interface is gone. */
  receive(ring: InputRing): number
  /** Writes the first `count` packets; one the system refuses is counted and dropped. */
  send(packets: Descriptors, count: number): void
  /** Packets written and refused, reads and writes since the start. */
  counters(): DeviceCounters
  /** Which packets the system takes merged into super-packets; may lose a protocol after a write. */
  readonly merging: Merging
}

/** Protocols whose packets may be merged into one super-packet for a device. */
export interface Merging {
  readonly tcp: boolean
  readonly udp: boolean
}

/** What a device did since it was opened. */
export interface DeviceCounters {
  readonly deviceReads: number
  readonly deviceWrites: number
  readonly deviceWriteErrors: number
}

/** Bytes of the virtio_net_hdr in front of every packet [Linux include/uapi/linux/virtio_net.h]. */
export const vnetHeaderBytes = 10

/** Ours: a burst ends at this many bytes, one full super-packet, so that its data stays in the processor's cache. */
export const burstBytes = 60_000
