import { isIPv4 } from 'node:net'
import { NsmError } from './errors.ts'

/** 4 or 6. */
export type IpFamily = 4 | 6

/** One IP address; `bits` is the number in network order. */
export interface IpAddress {
  readonly family: IpFamily
  readonly bits: bigint
}

/** An IP prefix; bits below the length are always zero. */
export interface Prefix {
  readonly family: IpFamily
  readonly bits: bigint
  readonly length: number
}

/** Address bits of a family. */
export const familyBits = { 4: 32, 6: 128 } as const

/** Parses an IPv4 or IPv6 address (no zone); throws `USAGE`. */
export function parseAddress(text: string): IpAddress {
  if (isIPv4(text)) return { family: 4, bits: ipv4Bits(text) }
  const bits = ipv6Bits(text)
  if (bits !== undefined) return { family: 6, bits }
  throw new NsmError('USAGE', `"${text}" is not an IP address`, 'write it like 10.64.0.1 or fd00::1')
}

/** Parses `address` or `address/length`; host bits are cleared; throws `USAGE`. */
export function parsePrefix(text: string): Prefix {
  const { address, length } = parseInterfaceAddress(text)
  return prefixOf(address, length)
}

/** Parses `address/length` and keeps the host bits; without a length the whole address counts; throws `USAGE`. */
export function parseInterfaceAddress(text: string): { readonly address: IpAddress; readonly length: number } {
  const slash = text.indexOf('/')
  const address = parseAddress(slash < 0 ? text : text.slice(0, slash))
  const max = familyBits[address.family]
  const digits = slash < 0 ? String(max) : text.slice(slash + 1)
  if (!/^\d{1,3}$/.test(digits) || Number(digits) > max) {
    throw new NsmError(
      'USAGE',
      `"${text}" is not an IP prefix`,
      `write it like 10.64.0.0/16; the length is at most ${max}`,
    )
  }
  return { address, length: Number(digits) }
}

/** The prefix of `length` bits that holds the address. */
export function prefixOf(address: IpAddress, length: number): Prefix {
  const hostBits = BigInt(familyBits[address.family] - length)
  return { family: address.family, bits: (address.bits >> hostBits) << hostBits, length }
}

/** Text of an address; IPv6 as RFC 5952 asks. */
export function formatAddress(address: IpAddress): string {
  if (address.family === 4) {
    return [24n, 16n, 8n, 0n].map((shift) => String((address.bits >> shift) & 0xffn)).join('.')
  }
  const groups = Array.from({ length: 8 }, (_, i) => Number((address.bits >> BigInt(112 - 16 * i)) & 0xffffn))
  return compressZeros(groups)
}

/** Text `address/length` of a prefix. */
export function formatPrefix(prefix: Prefix): string {
  return `${formatAddress(prefix)}/${prefix.length}`
}

/** The first address of a prefix. */
export function firstAddress(prefix: Prefix): IpAddress {
  return { family: prefix.family, bits: prefix.bits }
}

/** The last address of a prefix. */
export function lastAddress(prefix: Prefix): IpAddress {
  return { family: prefix.family, bits: prefix.bits | ((1n << BigInt(familyBits[prefix.family] - prefix.length)) - 1n) }
}

/** True when the address lies inside the prefix. */
export function prefixContains(prefix: Prefix, address: IpAddress): boolean {
  if (prefix.family !== address.family) return false
  const hostBits = BigInt(familyBits[prefix.family] - prefix.length)
  return address.bits >> hostBits === prefix.bits >> hostBits
}

/** True when `inner` lies wholly inside `outer` (or is the same). */
export function prefixCovers(outer: Prefix, inner: Prefix): boolean {
  return outer.length <= inner.length && prefixContains(outer, firstAddress(inner))
}

/** True when the two prefixes share an address. */
export function prefixesOverlap(a: Prefix, b: Prefix): boolean {
  return prefixCovers(a, b) || prefixCovers(b, a)
}

/** True when both are the same address of the same family. */
export function sameAddress(a: IpAddress, b: IpAddress): boolean {
  return a.family === b.family && a.bits === b.bits
}

/** `::ffff:a.b.c.d` leads to a.b.c.d; other addresses as they are. [RFC 4291 2.5.5.2] */
export function unmappedAddress(address: IpAddress): IpAddress {
  const isMapped = address.family === 6 && address.bits >> 32n === 0xffffn
  return isMapped ? { family: 4, bits: address.bits & 0xffff_ffffn } : address
}

/** The address as 4 or 16 bytes in network order. */
export function addressBytes(address: IpAddress): Uint8Array {
  const count = familyBits[address.family] / 8
  return Uint8Array.from({ length: count }, (_, i) => Number((address.bits >> BigInt(8 * (count - 1 - i))) & 0xffn))
}

/** The address of 4 or 16 bytes in network order; throws `USAGE` for any other length. */
export function addressFromBytes(bytes: Uint8Array): IpAddress {
  if (bytes.length !== 4 && bytes.length !== 16) {
    throw new NsmError('USAGE', `an IP address has 4 or 16 bytes, not ${bytes.length}`, 'pass the raw address')
  }
  return { family: bytes.length === 4 ? 4 : 6, bits: bytes.reduce((bits, byte) => (bits << 8n) | BigInt(byte), 0n) }
}

function ipv4Bits(text: string): bigint {
  return text.split('.').reduce((bits, part) => (bits << 8n) | BigInt(part), 0n)
}

/** The bits of an IPv6 address [RFC 4291 2.2], undefined of another text. By hand: Node takes 3 ms to compile its pattern. */
function ipv6Bits(text: string): bigint | undefined {
  const halves = text.split('::')
  const [left, right] = halves.map((half, index) => groupsOf(half, index === halves.length - 1))
  if (left === undefined || halves.length > 2 || (halves.length === 2 && right === undefined)) return undefined
  const zeros = 8 - left.length - (right ?? []).length
  if (halves.length === 1 ? zeros !== 0 : zeros < 1) return undefined
  const groups = [...left, ...Array.from({ length: zeros }, () => '0'), ...(right ?? [])]
  return groups.reduce((bits, group) => (bits << 16n) | BigInt(`0x${group}`), 0n)
}

/** The groups of one side of `::`; an IPv4 address stands for the last two. */
function groupsOf(half: string, isLast: boolean): readonly string[] | undefined {
  if (half === '') return []
  const groups = half.split(':')
  const tail = groups.at(-1) ?? ''
  if (isLast && isIPv4(tail)) groups.splice(-1, 1, ...ipv4AsGroups(tail))
  return groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group)) ? groups : undefined
}

function ipv4AsGroups(text: string): readonly string[] {
  const bits = ipv4Bits(text)
  return [bits >> 16n, bits & 0xffffn].map((group) => group.toString(16))
}

/** [RFC 5952 4.2]: the longest run of at least two zero groups becomes `::`, the first one on a tie. */
function compressZeros(groups: readonly number[]): string {
  let best = { start: 0, length: 1 }
  for (let start = 0; start < groups.length; start++) {
    let length = 0
    while (groups[start + length] === 0) length++
    if (length > best.length) best = { start, length }
  }
  const hex = (from: number, to: number) =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(':')
  if (best.length < 2) return hex(0, 8)
  return `${hex(0, best.start)}::${hex(best.start + best.length, 8)}`
}
