/** Record types this resolver must know by name; all others pass through as numbers. [RFC 1035 3.2.2] */
export const recordType = {
  a: 1,
  ns: 2,
  cname: 5,
  soa: 6,
  ptr: 12,
  hinfo: 13,
  mx: 15,
  txt: 16,
  sig: 24,
  aaaa: 28,
  srv: 33,
  dname: 39,
  opt: 41,
  svcb: 64,
  tsig: 250,
  any: 255,
} as const

/** Response codes. [RFC 1035 4.1.1] */
export const responseCode = {
  noError: 0,
  formatError: 1,
  serverFailure: 2,
  nameError: 3,
  notImplemented: 4,
  refused: 5,
  notAuthoritative: 9,
  badVersion: 16,
} as const

/** The class of the Internet. [RFC 1035 3.2.4] */
export const classInternet = 1

/** Protocol: bytes of a message header. [RFC 1035 4.1.1] */
export const headerBytes = 12
/** Protocol: bytes of a name on the wire, with the root label. [RFC 1035 2.3.4] */
export const nameMaxBytes = 255
/** Protocol: bytes of one label. [RFC 1035 2.3.4] */
export const labelMaxBytes = 63
/** Ours: more hops than any sane name needs; bounds the work on a hostile message. */
export const pointerHopsMax = 16
/** Ours: EDNS size asked for and offered; one packet inside every tunnel MTU. [RFC 6891 6.2.5] */
export const ednsBytes = 1_232
/** Protocol: UDP size of a client without EDNS. [RFC 1035 4.2.1] */
export const plainUdpBytes = 512

/** Bits of the second header word. [RFC 1035 4.1.1, RFC 4035 3.1.6] */
export const flag = {
  response: 0x8000,
  authoritative: 0x0400,
  truncated: 0x0200,
  recursionDesired: 0x0100,
  recursionAvailable: 0x0080,
  authenticData: 0x0020,
  checkingDisabled: 0x0010,
  opcodes: 0x7800,
  rcodes: 0x000f,
} as const

/** Reads a 16-bit number; the caller has checked the bounds (0 outside). */
export function read16(bytes: Uint8Array, offset: number): number {
  return ((bytes[offset] ?? 0) << 8) | (bytes[offset + 1] ?? 0)
}

/** Reads an unsigned 32-bit number; the caller has checked the bounds (0 outside). */
export function read32(bytes: Uint8Array, offset: number): number {
  return read16(bytes, offset) * 0x10000 + read16(bytes, offset + 2)
}

/** Writes a 16-bit number; the caller has checked the bounds. */
export function write16(bytes: Uint8Array, offset: number, value: number): void {
  bytes[offset] = (value >> 8) & 0xff
  bytes[offset + 1] = value & 0xff
}

/** Writes an unsigned 32-bit number; the caller has checked the bounds. */
export function write32(bytes: Uint8Array, offset: number, value: number): void {
  write16(bytes, offset, value >>> 16)
  write16(bytes, offset + 2, value & 0xffff)
}

/** Gives the offset behind a name, or -1 when it leaves the message or has a reserved label type. [RFC 1035 4.1.4] */
export function skipName(bytes: Uint8Array, offset: number): number {
  let at = offset
  while (at < bytes.length) {
    const length = bytes[at] ?? 0
    if (length === 0) return at + 1
    if (length >= 0xc0) return at + 2 <= bytes.length ? at + 2 : -1
    if (length > labelMaxBytes) return -1
    at += length + 1
    if (at - offset >= nameMaxBytes) return -1
  }
  return -1
}

/** ASCII lower case of one byte; name length bytes are at most 63 and so never letters. */
export function lowerByte(byte: number): number {
  return byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte
}

/**
 * Reads a possibly compressed name into lower-case wire form as one latin-1 character per byte.
 * Gives undefined for a broken name, more than 16 pointers, or a pointer that does not point backwards.
 */
export function readNameKey(bytes: Uint8Array, offset: number): string | undefined {
  const length = copyName(bytes, offset, scratch)
  if (length < 0) return undefined
  for (let i = 0; i < length; i++) scratch[i] = lowerByte(scratch[i] ?? 0)
  return scratch.toString('latin1', 0, length)
}

/** Copies a possibly compressed name uncompressed into `target` (255 bytes); gives its length or -1. */
export function copyName(bytes: Uint8Array, offset: number, target: Uint8Array): number {
  let at = offset
  let length = 0
  for (let hops = 0; hops <= pointerHopsMax; ) {
    const label = bytes[at]
    if (label === undefined) return -1
    if (label >= 0xc0) {
      const to = read16(bytes, at) & 0x3fff
      if (at + 1 >= bytes.length || to >= at) return -1
      at = to
      hops++
      continue
    }
    if (label > labelMaxBytes || at + label >= bytes.length || length + label + 1 > nameMaxBytes) return -1
    for (let i = 0; i <= label; i++) target[length + i] = bytes[at + i] ?? 0
    length += label + 1
    if (label === 0) return length
    at += label + 1
  }
  return -1
}

const scratch = Buffer.alloc(nameMaxBytes + 1)
