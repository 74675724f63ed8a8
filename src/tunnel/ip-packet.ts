import { addressBytes, addressFromBytes, type IpAddress } from '../base/ip.ts'

/** A UDP datagram with its addresses, as found in or put into a raw IP packet. */
export interface UdpDatagram {
  readonly source: IpAddress
  readonly sourcePort: number
  readonly destination: IpAddress
  readonly destinationPort: number
  readonly payload: Uint8Array
}

const ipv4HeaderBytes = 20
const ipv6HeaderBytes = 40
const udpHeaderBytes = 8
const udpProtocol = 17
const icmpProtocol = { 4: 1, 6: 58 } as const
/** [RFC 791], [RFC 8200] Hops our own packets may take: one to the member, the rest is the usual start value. */
const hopLimit = 64

/**
 * Reads a raw IP packet that is exactly one UDP datagram; undefined for anything else: another protocol, a fragment, an
 * extension header, lengths that disagree, a wrong checksum. The payload is a view.
 */
export function parseUdp(packet: Uint8Array): UdpDatagram | undefined {
  const version = (packet[0] ?? 0) >> 4
  if (version === 4) return parseUdp4(packet)
  return version === 6 ? parseUdp6(packet) : undefined
}

/** Builds a raw IP packet with one UDP datagram and correct checksums; both addresses are of one family. */
export function buildUdp(datagram: UdpDatagram): Uint8Array {
  const udp = new Uint8Array(udpHeaderBytes + datagram.payload.length)
  const view = new DataView(udp.buffer)
  view.setUint16(0, datagram.sourcePort)
  view.setUint16(2, datagram.destinationPort)
  view.setUint16(4, udp.length)
  udp.set(datagram.payload, udpHeaderBytes)
  // [RFC 768] A computed zero is sent as all ones; zero means "no checksum".
  view.setUint16(6, transportChecksum(datagram, udpProtocol, udp) || 0xffff)
  return wrap(datagram, udpProtocol, udp)
}

/**
 * Builds a raw ICMP or ICMPv6 echo request without data, the smallest packet that every host may get from its gateway.
 * `id`: identifier and sequence number, 4 bytes. [RFC 792] [RFC 4443 4.1]
 */
export function buildEchoRequest(
  addresses: Pick<UdpDatagram, 'source' | 'destination'>,
  id: readonly number[] = [0, 0, 0, 0],
): Uint8Array {
  const { family } = addresses.source
  const echo = Uint8Array.of(family === 4 ? 8 : 128, 0, 0, 0, ...id)
  const checksum = family === 4 ? fold(sum(echo, 0)) : transportChecksum(addresses, icmpProtocol[6], echo)
  new DataView(echo.buffer).setUint16(2, checksum)
  return wrap(addresses, icmpProtocol[family], echo)
}

function parseUdp4(packet: Uint8Array): UdpDatagram | undefined {
  const headerBytes = ((packet[0] ?? 0) & 0x0f) * 4
  if (headerBytes < ipv4HeaderBytes || packet.length < headerBytes + udpHeaderBytes) return undefined
  const view = viewOf(packet)
  const isFragment = (view.getUint16(6) & 0x3fff) !== 0
  if (packet[9] !== udpProtocol || isFragment || view.getUint16(2) !== packet.length) return undefined
  if (fold(sum(packet.subarray(0, headerBytes), 0)) !== 0) return undefined
  const source = addressFromBytes(packet.subarray(12, 16))
  const destination = addressFromBytes(packet.subarray(16, 20))
  return parseSegment(source, destination, packet.subarray(headerBytes))
}

function parseUdp6(packet: Uint8Array): UdpDatagram | undefined {
  if (packet.length < ipv6HeaderBytes + udpHeaderBytes || packet[6] !== udpProtocol) return undefined
  if (viewOf(packet).getUint16(4) !== packet.length - ipv6HeaderBytes) return undefined
  const source = addressFromBytes(packet.subarray(8, 24))
  const destination = addressFromBytes(packet.subarray(24, 40))
  return parseSegment(source, destination, packet.subarray(ipv6HeaderBytes))
}

function parseSegment(source: IpAddress, destination: IpAddress, segment: Uint8Array): UdpDatagram | undefined {
  const view = viewOf(segment)
  if (view.getUint16(4) !== segment.length) return undefined
  // [RFC 768], [RFC 8200 8.1] IPv4 may leave the checksum out, IPv6 may not.
  const isUnchecked = source.family === 4 && view.getUint16(6) === 0
  if (!isUnchecked && transportChecksum({ source, destination }, udpProtocol, segment) !== 0) return undefined
  return {
    source,
    sourcePort: view.getUint16(0),
    destination,
    destinationPort: view.getUint16(2),
    payload: segment.subarray(udpHeaderBytes),
  }
}

function wrap(
  { source, destination }: Pick<UdpDatagram, 'source' | 'destination'>,
  protocol: number,
  segment: Uint8Array,
): Uint8Array {
  const headerBytes = source.family === 4 ? ipv4HeaderBytes : ipv6HeaderBytes
  const packet = new Uint8Array(headerBytes + segment.length)
  const view = new DataView(packet.buffer)
  packet.set(segment, headerBytes)
  packet.set(addressBytes(source), source.family === 4 ? 12 : 8)
  packet.set(addressBytes(destination), source.family === 4 ? 16 : 24)
  if (source.family === 6) {
    packet[0] = 0x60
    view.setUint16(4, segment.length)
    packet[6] = protocol
    packet[7] = hopLimit
    return packet
  }
  packet[0] = 0x45
  view.setUint16(2, packet.length)
  packet[8] = hopLimit
  packet[9] = protocol
  view.setUint16(10, fold(sum(packet.subarray(0, headerBytes), 0)))
  return packet
}

/** [RFC 768], [RFC 8200 8.1] Over the addresses, the protocol, the length and the segment; 0 when it is correct. */
function transportChecksum(
  { source, destination }: Pick<UdpDatagram, 'source' | 'destination'>,
  protocol: number,
  segment: Uint8Array,
): number {
  const addresses = sum(addressBytes(destination), sum(addressBytes(source), 0))
  return fold(sum(segment, addresses + protocol + segment.length))
}

/** Adds 16-bit words; at most 64 KiB plus headers, so the total stays far below 2^53. */
function sum(bytes: Uint8Array, start: number): number {
  let total = start
  for (let i = 0; i + 1 < bytes.length; i += 2) total += ((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0)
  if (bytes.length % 2 === 1) total += (bytes.at(-1) ?? 0) << 8
  return total
}

/** [RFC 1071] The one's complement of the one's complement sum. */
function fold(total: number): number {
  let folded = total
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000)
  return ~folded & 0xffff
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
