import { domainToASCII } from 'node:url'
import { NsmError } from '../base/errors.ts'
import { addressFromBytes, formatAddress, type Prefix, parseAddress, prefixOf } from '../base/ip.ts'
import { labelMaxBytes, lowerByte, nameMaxBytes } from './wire.ts'

/**
 * Wire form of a domain name; one trailing dot is allowed, '' and '.' are the root, labels with a non-ASCII character
 * become A-labels. Throws `USAGE` for empty or long labels and names of more than 255 bytes.
 */
export function nameFromText(text: string): Uint8Array {
  const trimmed = text.endsWith('.') ? text.slice(0, -1) : text
  if (trimmed === '') return Uint8Array.of(0)
  const labels = trimmed.split('.').map((label) => labelBytes(label, text))
  const total = labels.reduce((sum, label) => sum + label.length + 1, 1)
  if (total > nameMaxBytes) throw badName(text, `has ${total} bytes, at most ${nameMaxBytes} are allowed`)
  return Buffer.concat([...labels.flatMap((label) => [Uint8Array.of(label.length), label]), Uint8Array.of(0)])
}

/** Text of an uncompressed wire name without trailing dot ('.' for the root); odd bytes as `\DDD`. [RFC 4343 2.1] */
export function nameToText(name: Uint8Array): string {
  const labels: string[] = []
  for (let at = 0; at < name.length && name[at] !== 0; at += (name[at] ?? 0) + 1) {
    labels.push(labelText(name.subarray(at + 1, at + 1 + (name[at] ?? 0))))
  }
  return labels.length === 0 ? '.' : labels.join('.')
}

/** The key of an uncompressed wire name in maps: ASCII lower case, one latin-1 character per byte. */
export function nameKey(name: Uint8Array): string {
  return Buffer.from(name.map(lowerByte)).toString('latin1')
}

/** The wire name of a key. */
export function nameFromKey(key: string): Uint8Array {
  return Buffer.from(key, 'latin1')
}

/** The key of a domain name in text; throws `USAGE` as `nameFromText`. */
export function keyFromText(text: string): string {
  return nameKey(nameFromText(text))
}

/** The reverse name of an address: `4.3.2.1.in-addr.arpa` or 32 nibbles under `ip6.arpa`. [RFC 1035 3.5, RFC 3596 2.5] */
export function reverseNameOf(address: string): string {
  const parsed = parseAddress(address)
  if (parsed.family === 4) return `${address.split('.').reverse().join('.')}.in-addr.arpa`
  const nibbles = parsed.bits.toString(16).padStart(32, '0')
  return `${[...nibbles].reverse().join('.')}.ip6.arpa`
}

/** The address a reverse name stands for (wire name or its key); undefined when it is not a full, proper reverse name. */
export function addressFromReverseName(name: Uint8Array | string): string | undefined {
  const key = typeof name === 'string' ? name : nameKey(name)
  if (key.endsWith(ipv4Zone)) return ipv4FromReverse(labelsOfKey(key.slice(0, -ipv4Zone.length)))
  if (key.endsWith(ipv6Zone)) return ipv6FromReverse(labelsOfKey(key.slice(0, -ipv6Zone.length)))
  return undefined
}

/** The prefix of a reverse zone in text (`64.10.in-addr.arpa`: 10.64.0.0/16); undefined when it is no proper one. */
export function prefixFromReverseZone(zone: string): Prefix | undefined {
  const [, family, ...labels] = zone.toLowerCase().split('.').reverse()
  if (labels.length === 0 || !zone.toLowerCase().endsWith('.arpa')) return undefined
  const kind = reverseKinds.get(family ?? '')
  if (!kind || labels.length > kind.labels) return undefined
  const whole = [...labels, ...Array.from({ length: kind.labels - labels.length }, () => '0')].reverse()
  const address = kind.read(whole)
  return address === undefined ? undefined : prefixOf(parseAddress(address), labels.length * kind.labelBits)
}

/** [RFC 1035 3.5, RFC 3596 2.5] */
const reverseKinds = new Map([
  ['in-addr', { labels: 4, labelBits: 8, read: ipv4FromReverse }],
  ['ip6', { labels: 32, labelBits: 4, read: ipv6FromReverse }],
])

/** True when the key is a name under `in-addr.arpa` or `ip6.arpa`. */
export function isReverseKey(key: string): boolean {
  return key.endsWith(ipv4Zone) || key.endsWith(ipv6Zone)
}

const ipv4Zone = '\x07in-addr\x04arpa\0'
const ipv6Zone = '\x03ip6\x04arpa\0'

/**
 * The labels of a key without its end. A length byte cannot be mistaken for a letter because it counts exactly; a label that
 * holds a dot stays one.
 */
export function labelsOfKey(front: string): string[] {
  const labels: string[] = []
  for (let at = 0; at < front.length; at += front.charCodeAt(at) + 1) {
    labels.push(front.slice(at + 1, at + 1 + front.charCodeAt(at)))
  }
  return labels
}

function ipv4FromReverse(labels: readonly string[]): string | undefined {
  const proper = labels.length === 4 && labels.every((label) => /^(0|[1-9]\d{0,2})$/.test(label) && Number(label) < 256)
  return proper ? [...labels].reverse().join('.') : undefined
}

function ipv6FromReverse(labels: readonly string[]): string | undefined {
  if (labels.length !== 32 || !labels.every((label) => /^[0-9a-f]$/.test(label))) return undefined
  return formatAddress(addressFromBytes(Buffer.from([...labels].reverse().join(''), 'hex')))
}

/** Only labels with a non-ASCII character go through IDNA: on others it would rewrite digits, `_` and `*`. */
function labelBytes(label: string, whole: string): Uint8Array {
  const ascii = [...label].every((character) => character > ' ' && character < '\x7f') ? label : domainToASCII(label)
  if (ascii === '') throw badName(whole, `has an empty or unusable label "${label}"`)
  if (ascii.length > labelMaxBytes) throw badName(whole, `has a label of more than ${labelMaxBytes} bytes`)
  return Buffer.from(ascii, 'latin1')
}

function labelText(label: Uint8Array): string {
  return [...label]
    .map((byte) => {
      if (byte === 0x2e || byte === 0x5c) return `\\${String.fromCharCode(byte)}`
      return byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\${String(byte).padStart(3, '0')}`
    })
    .join('')
}

function badName(text: string, why: string): NsmError {
  return new NsmError('USAGE', `the domain name "${text.slice(0, 80)}" ${why}`, 'write it like db.corp.example')
}
