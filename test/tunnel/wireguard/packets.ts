import { addressBytes, parseAddress } from '../../../src/base/ip.ts'

/** What a test says about a packet; the rest gets plain values. */
export interface PacketPlan {
  readonly from: string
  readonly to: string
  readonly payload?: Uint8Array
  readonly hops?: number
  readonly sequence?: number
  readonly flags?: number
  /** Of what the other end sent. */
  readonly acknowledged?: number
  readonly window?: number
  readonly fromPort?: number
  readonly toPort?: number
  readonly options?: Uint8Array
}

/** Flags of a TCP header. */
export const tcpFlags = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16 } as const

const protocols = { tcp: 6, udp: 17, icmp: 1, icmp6: 58 } as const

/** The Internet checksum, one byte pair at a time: slow, and not the engine's own code. */
export function internetChecksum(...parts: readonly Uint8Array[]): number {
  let sum = 0
  for (const part of parts) {
    for (let i = 0; i < part.length; i += 2) sum += ((part[i] ?? 0) << 8) | (part[i + 1] ?? 0)
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}

/** A TCP packet with good checksums. */
export function tcpPacket(plan: PacketPlan): Buffer {
  const options = plan.options ?? new Uint8Array(0)
  const header = Buffer.alloc(20 + options.length)
  header.writeUInt16BE(plan.fromPort ?? 40_000, 0)
  header.writeUInt16BE(plan.toPort ?? 80, 2)
  header.writeUInt32BE(plan.sequence ?? 1, 4)
  header.writeUInt32BE(plan.acknowledged ?? 77, 8)
  header[12] = (header.length / 4) << 4
  header[13] = plan.flags ?? tcpFlags.ack
  header.writeUInt16BE(plan.window ?? 500, 14)
  header.set(options, 20)
  return ipPacket(plan, protocols.tcp, Buffer.concat([header, plan.payload ?? new Uint8Array(0)]), 16)
}

/** A UDP packet with good checksums. */
export function udpPacket(plan: PacketPlan): Buffer {
  const payload = plan.payload ?? new Uint8Array(0)
  const header = Buffer.alloc(8)
  header.writeUInt16BE(plan.fromPort ?? 40_000, 0)
  header.writeUInt16BE(plan.toPort ?? 9_999, 2)
  header.writeUInt16BE(8 + payload.length, 4)
  return ipPacket(plan, protocols.udp, Buffer.concat([header, payload]), 6)
}

/** An echo request of the addresses' family. */
export function echoRequest(plan: PacketPlan): Buffer {
  const v6 = plan.from.includes(':')
  const body = Buffer.concat([
    Buffer.from([v6 ? 128 : 8, 0, 0, 0, 0x12, 0x34, 0, 1]),
    plan.payload ?? new Uint8Array(0),
  ])
  return ipPacket(plan, v6 ? protocols.icmp6 : protocols.icmp, body, 2)
}

/** A packet in parts of so many bytes behind the header, as a router or its sender would split it; the length is theirs. */
export function partsOf(packet: Buffer, partBytes: number, id = 7): Buffer[] {
  const v6 = (packet[0] ?? 0) >> 4 === 6
  const header = packet.subarray(0, v6 ? 40 : 20)
  const body = packet.subarray(header.length)
  return Array.from({ length: Math.ceil(body.length / partBytes) }, (_, i) => {
    const at = i * partBytes
    const more = at + partBytes < body.length
    return partOf(header, { id, at, more, bytes: body.subarray(at, at + partBytes) })
  })
}

/** One part of a packet with this header. */
export function partOf(
  header: Buffer,
  { id, at, more, bytes }: { id: number; at: number; more: boolean; bytes: Buffer },
): Buffer {
  const own = Buffer.from(header)
  if ((own[0] ?? 0) >> 4 === 6) {
    const extension = Buffer.from([own[6] ?? 0, 0, at >> 8, (at & 0xf8) | Number(more), 0, 0, id >> 8, id & 0xff])
    own[6] = 44
    own.writeUInt16BE(extension.length + bytes.length, 4)
    return Buffer.concat([own, extension, bytes])
  }
  own.writeUInt16BE(own.length + bytes.length, 2)
  own.writeUInt16BE(id, 4)
  own.writeUInt16BE((at >> 3) | (more ? 0x2000 : 0), 6)
  own.writeUInt16BE(0, 10)
  own.writeUInt16BE(internetChecksum(own), 10)
  return Buffer.concat([own, bytes])
}

/** A packet of any protocol; `checksumAt` is where the checksum lies in `body`. */
export function ipPacket(plan: PacketPlan, protocol: number, body: Buffer, checksumAt: number): Buffer {
  const v6 = plan.from.includes(':')
  const pseudo = pseudoHeader(plan, protocol, body.length)
  const sum = internetChecksum(...(protocol === protocols.icmp ? [body] : [pseudo, body]))
  body.writeUInt16BE(sum === 0 && protocol === protocols.udp ? 0xffff : sum, checksumAt)
  const header = v6 ? ipv6Header(plan, protocol, body.length) : ipv4Header(plan, protocol, body.length)
  return Buffer.concat([header, body])
}

function ipv4Header(plan: PacketPlan, protocol: number, bodyBytes: number): Buffer {
  const header = Buffer.alloc(20)
  header[0] = 0x45
  header.writeUInt16BE(20 + bodyBytes, 2)
  header.writeUInt16BE(0x4000, 6)
  header[8] = plan.hops ?? 64
  header[9] = protocol
  header.set(addressBytes(parseAddress(plan.from)), 12)
  header.set(addressBytes(parseAddress(plan.to)), 16)
  header.writeUInt16BE(internetChecksum(header), 10)
  return header
}

function ipv6Header(plan: PacketPlan, protocol: number, bodyBytes: number): Buffer {
  const header = Buffer.alloc(40)
  header[0] = 0x60
  header.writeUInt16BE(bodyBytes, 4)
  header[6] = protocol
  header[7] = plan.hops ?? 64
  header.set(addressBytes(parseAddress(plan.from)), 8)
  header.set(addressBytes(parseAddress(plan.to)), 24)
  return header
}

function pseudoHeader(plan: PacketPlan, protocol: number, bytes: number): Buffer {
  const tail = Buffer.alloc(8)
  tail.writeUInt32BE(bytes, 0)
  tail[7] = protocol
  return Buffer.concat([addressBytes(parseAddress(plan.from)), addressBytes(parseAddress(plan.to)), tail])
}

/** True when the IPv4 header's and the transport's checksums hold. */
export function checksumsHold(packet: Uint8Array): boolean {
  const v6 = (packet[0] ?? 0) >> 4 === 6
  const headerBytes = v6 ? 40 : ((packet[0] ?? 0) & 15) * 4
  const protocol = (v6 ? packet[6] : packet[9]) ?? 0
  const body = packet.subarray(headerBytes)
  const addresses = v6 ? packet.subarray(8, 40) : packet.subarray(12, 20)
  const tail = Buffer.alloc(8)
  tail.writeUInt32BE(body.length, 0)
  tail[7] = protocol
  const parts = protocol === protocols.icmp ? [body] : [addresses, tail, body]
  return (v6 || internetChecksum(packet.subarray(0, headerBytes)) === 0) && internetChecksum(...parts) === 0
}

/** What a kernel with segmentation offload hands over: virtio_net_hdr and one large packet with partial checksum. */
export function superPacket(packet: Buffer, segmentBytes: number): Buffer {
  const v6 = (packet[0] ?? 0) >> 4 === 6
  const l4 = v6 ? 40 : 20
  const tcp = (v6 ? packet[6] : packet[9]) === protocols.tcp
  const head = Buffer.alloc(10)
  head[0] = 1
  head[1] = tcp ? (v6 ? 4 : 1) : 5
  head.writeUInt16LE(l4 + (tcp ? ((packet[l4 + 12] ?? 0) >> 4) * 4 : 8), 2)
  head.writeUInt16LE(segmentBytes, 4)
  head.writeUInt16LE(l4, 6)
  head.writeUInt16LE(tcp ? 16 : 6, 8)
  return Buffer.concat([head, packet])
}

/** A packet as it is read from a TUN device without any offload. */
export function plainRead(packet: Uint8Array): Buffer {
  return Buffer.concat([Buffer.alloc(10), packet])
}
