import { derTag } from './der-reader.ts'

/** One element with any tag; contents are joined in order. */
export function derElement(tag: number, ...contents: readonly Uint8Array[]): Uint8Array {
  const content = Buffer.concat(contents)
  return Buffer.concat([Uint8Array.of(tag, ...lengthBytes(content.length)), content])
}

/** A SEQUENCE of elements. */
export function derSequence(...elements: readonly Uint8Array[]): Uint8Array {
  return derElement(derTag.sequence, ...elements)
}

/** A SET of one element (order plays no part). */
export function derSetOf(element: Uint8Array): Uint8Array {
  return derElement(derTag.set, element)
}

/** An INTEGER from unsigned bytes, in the shortest form. */
export function derUnsigned(bytes: Uint8Array): Uint8Array {
  const firstUsed = bytes.findIndex((byte) => byte !== 0)
  const trimmed = firstUsed < 0 ? Uint8Array.of(0) : bytes.subarray(firstUsed)
  const sign = (trimmed[0] ?? 0) >= 0x80 ? Uint8Array.of(0) : new Uint8Array()
  return derElement(derTag.integer, sign, trimmed)
}

/** An OBJECT IDENTIFIER from its dotted text. */
export function derOid(dotted: string): Uint8Array {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number)
  return derElement(derTag.oid, Uint8Array.from([first * 40 + second, ...rest].flatMap(base128)))
}

/** A BIT STRING; `unusedBits` of the last byte do not count. */
export function derBitString(bytes: Uint8Array, unusedBits = 0): Uint8Array {
  return derElement(derTag.bitString, Uint8Array.of(unusedBits), bytes)
}

/** An OCTET STRING. */
export function derOctetString(bytes: Uint8Array): Uint8Array {
  return derElement(derTag.octetString, bytes)
}

/** A UTF8String. */
export function derText(text: string): Uint8Array {
  return derElement(derTag.utf8String, Buffer.from(text, 'utf8'))
}

/** BOOLEAN TRUE; FALSE is a default and never written in DER. */
export const derTrue: Uint8Array = derElement(derTag.boolean, Uint8Array.of(0xff))

/** A time in whole seconds: UTCTime through 2049, GeneralizedTime from 2050 [RFC 5280 4.1.2.5]. */
export function derTime(wallMs: number): Uint8Array {
  const digits = new Date(wallMs).toISOString().slice(0, 19).replaceAll(/\D/g, '')
  const isLate = digits >= '2050'
  const text = isLate ? `${digits}Z` : `${digits.slice(2)}Z`
  return derElement(isLate ? derTag.generalizedTime : derTag.utcTime, Buffer.from(text, 'ascii'))
}

function lengthBytes(length: number): number[] {
  if (length < 0x80) return [length]
  const bytes: number[] = []
  for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) bytes.unshift(rest % 256)
  return [0x80 | bytes.length, ...bytes]
}

function base128(value: number): number[] {
  const bytes = [value % 128]
  for (let rest = Math.floor(value / 128); rest > 0; rest = Math.floor(rest / 128)) bytes.unshift(0x80 | (rest % 128))
  return bytes
}
