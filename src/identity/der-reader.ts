import { refusal } from './refusal.ts'

/** One DER element; `raw` is the whole element, `content` what it holds; both are views into the input. */
export interface DerElement {
  readonly tag: number
  readonly content: Uint8Array
  readonly raw: Uint8Array
}

/** Tags used by certificates, requests and keys [X.690 8]. */
export const derTag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const

/** Reads bytes that are exactly one element; with a `tag`, of that tag; throws `IDENTITY` (`DER_INVALID`). */
export function readElement(bytes: Uint8Array, tag?: number): DerElement {
  const element = elementAt(bytes, 0)
  if (element.raw.length !== bytes.length) throw invalid('bytes follow the element')
  return tag === undefined ? element : expectTag(element, tag)
}

/** Reads elements that follow each other until the bytes end; throws `IDENTITY` (`DER_INVALID`). */
export function readElements(bytes: Uint8Array): DerElement[] {
  const elements: DerElement[] = []
  for (let at = 0; at < bytes.length; ) {
    const element = elementAt(bytes, at)
    elements.push(element)
    at += element.raw.length
  }
  return elements
}

/** The elements inside a SEQUENCE that is all of `bytes`. */
export function readSequence(bytes: Uint8Array): DerElement[] {
  return readElements(readElement(bytes, derTag.sequence).content)
}

/** The element itself when it is there and has the tag; throws `IDENTITY` (`DER_INVALID`). */
export function expectTag(element: DerElement | undefined, tag: number): DerElement {
  if (element?.tag !== tag) throw invalid(`tag 0x${tag.toString(16)} expected`)
  return element
}

/** Splits certificates that follow each other without a separator [SPIFFE Workload API 5.2.1]. */
export function splitDer(bytes: Uint8Array): Uint8Array[] {
  return readElements(bytes).map((element) => expectTag(element, derTag.sequence).raw)
}

/** The bytes of a BIT STRING whose bit count is a multiple of eight. */
export function readBitString(element: DerElement | undefined): Uint8Array {
  const { content } = expectTag(element, derTag.bitString)
  if (content[0] !== 0) throw invalid('a BIT STRING of whole bytes expected')
  return content.subarray(1)
}

/** A small INTEGER that is not negative (at most 6 bytes). */
export function readSmallInteger(element: DerElement | undefined): number {
  const { content } = expectTag(element, derTag.integer)
  const [first = 0x80, second = 0] = content
  if (first >= 0x80 || content.length > 6) throw invalid('a small INTEGER expected')
  if (first === 0 && content.length > 1 && second < 0x80) throw invalid('INTEGER with needless zeros')
  return content.reduce((value, byte) => value * 256 + byte, 0)
}

/** A BOOLEAN; DER knows only 0x00 and 0xff. */
export function readBoolean(element: DerElement | undefined): boolean {
  const { content } = expectTag(element, derTag.boolean)
  if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) throw invalid('a BOOLEAN expected')
  return content[0] === 0xff
}

/** Ours: no certificate or request of this protocol is longer; keeps a hostile length from costing memory. */
const elementMaxBytes = 65_536

function elementAt(bytes: Uint8Array, at: number): DerElement {
  const tag = bytes[at]
  const first = bytes[at + 1]
  if (tag === undefined || first === undefined) throw invalid('cut short')
  if ((tag & 0x1f) === 0x1f) throw invalid('long tag')
  const lengthBytes = first < 0x80 ? 0 : first & 0x7f
  const length = lengthBytes === 0 && first < 0x80 ? first : longLength(bytes.subarray(at + 2), lengthBytes)
  const start = at + 2 + lengthBytes
  if (start + length > bytes.length) throw invalid('cut short')
  return { tag, content: bytes.subarray(start, start + length), raw: bytes.subarray(at, start + length) }
}

/** [X.690 10.1]: the shortest form only, never the indefinite one. */
function longLength(bytes: Uint8Array, count: number): number {
  if (count === 0) throw invalid('indefinite length')
  if (count > 3 || count > bytes.length) throw invalid('length too long')
  const length = bytes.subarray(0, count).reduce((value, byte) => value * 256 + byte, 0)
  if (bytes[0] === 0 || length < 0x80) throw invalid('length not minimal')
  if (length > elementMaxBytes) throw invalid('element too long')
  return length
}

function invalid(why: string) {
  return refusal('DER_INVALID', `malformed DER: ${why}`, {
    next: 'send an X.509 certificate or PKCS #10 request in DER',
  })
}
