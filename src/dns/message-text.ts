import { addressFromBytes, formatAddress } from '../base/ip.ts'
import { walkBody } from './body.ts'
import type { WireRecord } from './message.ts'
import { nameToText } from './name.ts'
import { readSections } from './sections.ts'
import { rcodeText, typeText } from './type-names.ts'
import { flag, headerBytes, read16, read32, recordType, skipName } from './wire.ts'

/** A record for people and programs. */
export interface RecordText {
  readonly name: string
  readonly type: string
  readonly ttlSeconds: number
  /** RDATA as in a zone file; types that are not known here as `\# length hex`. [RFC 3597 5] */
  readonly data: string
}

/** A reply for people and programs. */
export interface MessageText {
  readonly rcode: string
  /** Flags that are set, as dig names them. */
  readonly flags: readonly string[]
  readonly answers: readonly RecordText[]
  readonly authority: readonly RecordText[]
  /** [RFC 8914] */
  readonly extendedError?: number
}

/** Reads a reply to one question; undefined when it is broken. */
export function messageText(message: Uint8Array): MessageText | undefined {
  const bytes = Buffer.from(message)
  const flags = read16(bytes, 2)
  const head = {
    rcode: rcodeText(flags & flag.rcodes),
    flags: flagNames.filter(([, bit]) => (flags & bit) !== 0).map(([name]) => name),
  }
  if (bytes.length < headerBytes) return undefined
  const nameEnd = read16(bytes, 4) === 1 ? skipName(bytes, headerBytes) : headerBytes - 4
  if (nameEnd < 0) return undefined
  const error = walkBody(Buffer.from(bytes), nameEnd + 4)?.extendedError
  const sections = readSections(bytes, nameEnd + 4)
  if (!sections) return undefined
  return {
    ...head,
    answers: sections.answers.map(recordText),
    authority: sections.authority.map(recordText),
    ...(error === undefined ? {} : { extendedError: error }),
  }
}

const flagNames: readonly (readonly [string, number])[] = [
  ['qr', flag.response],
  ['aa', flag.authoritative],
  ['tc', flag.truncated],
  ['rd', flag.recursionDesired],
  ['ra', flag.recursionAvailable],
  ['ad', flag.authenticData],
  ['cd', flag.checkingDisabled],
]

function recordText({ name, type, ttlSeconds, data }: WireRecord): RecordText {
  const write = writers.get(type)
  const generic = `\\# ${data.length} ${Buffer.from(data).toString('hex')}`.trimEnd()
  return { name: nameToText(name), type: typeText(type), ttlSeconds, data: write?.(data) ?? generic }
}

const oneName = (data: Uint8Array) => nameToText(data)

/** RDATA to text; undefined when the data does not have the length its type asks for. */
const writers = new Map<number, (data: Uint8Array) => string | undefined>([
  [recordType.a, (data) => (data.length === 4 ? formatAddress(addressFromBytes(data)) : undefined)],
  [recordType.aaaa, (data) => (data.length === 16 ? formatAddress(addressFromBytes(data)) : undefined)],
  [recordType.ns, oneName],
  [recordType.cname, oneName],
  [recordType.ptr, oneName],
  [recordType.dname, oneName],
  [recordType.mx, (data) => (data.length > 2 ? `${read16(data, 0)} ${nameToText(data.subarray(2))}` : undefined)],
  [recordType.srv, serviceText],
  [recordType.soa, authorityText],
  [recordType.txt, stringsText],
])

function serviceText(data: Uint8Array): string | undefined {
  if (data.length < 7) return undefined
  return `${read16(data, 0)} ${read16(data, 2)} ${read16(data, 4)} ${nameToText(data.subarray(6))}`
}

function authorityText(data: Uint8Array): string | undefined {
  const primaryEnd = skipName(data, 0)
  const mailEnd = primaryEnd < 0 ? -1 : skipName(data, primaryEnd)
  if (mailEnd < 0 || mailEnd + 20 !== data.length) return undefined
  const numbers = [0, 4, 8, 12, 16].map((offset) => read32(data, mailEnd + offset))
  return [nameToText(data), nameToText(data.subarray(primaryEnd)), ...numbers].join(' ')
}

/** Character strings in quotes; bytes beyond printable ASCII as `\DDD`. [RFC 1035 5.1] */
function stringsText(data: Uint8Array): string | undefined {
  const strings: string[] = []
  for (let at = 0; at < data.length; at += 1 + (data[at] ?? 0)) {
    const end = at + 1 + (data[at] ?? 0)
    if (end > data.length) return undefined
    strings.push(`"${[...data.subarray(at + 1, end)].map(characterText).join('')}"`)
  }
  return strings.join(' ')
}

function characterText(byte: number): string {
  const character = String.fromCharCode(byte)
  if (character === '"' || character === '\\') return `\\${character}`
  return byte >= 0x20 && byte < 0x7f ? character : `\\${String(byte).padStart(3, '0')}`
}
