import { pointerHopsMax, read16, read32, recordType, skipName, write16, write32 } from './wire.ts'

/** One record's place in a message: offsets of owner name and RDATA. */
export interface RecordPlace {
  readonly owner: number
  readonly type: number
  readonly data: number
  readonly dataBytes: number
}

/** What one walk over the records of a reply found. The OPT is already cut off. */
export interface Body {
  readonly answers: readonly RecordPlace[]
  /** Offset behind the last record. */
  readonly end: number
  readonly ttlOffsets: readonly number[]
  readonly minTtlSeconds: number
  /** [RFC 2308 5]: the lesser of the SOA's own life and its minimum field; 0 without a SOA. */
  readonly negativeTtlSeconds: number
  readonly hasSoa: boolean
  readonly hasNs: boolean
  readonly pointsHome: boolean
  readonly extendedRcode: number
  readonly extendedError: number | undefined
}

/**
 * Walks all records once, checks every bound, sets impossible times to live to 0 [RFC 2181 8] and cuts off the OPT, in place.
 * Undefined when a record leaves the message, there are two OPTs, or an OPT is outside the additional section.
 */
export function walkBody(bytes: Uint8Array, from: number): Body | undefined {
  const walk = new Walk(bytes, from)
  if (!walk.section('answer', read16(bytes, 6))) return undefined
  if (!walk.section('authority', read16(bytes, 8))) return undefined
  if (!walk.section('additional', read16(bytes, 10))) return undefined
  walk.cutOpt()
  return walk
}

type Section = 'answer' | 'authority' | 'additional'

/** No time to live seen yet: the most a record may say. [RFC 2181 8] */
const ttlMaxSeconds = 0x7fff_ffff

class Walk implements Body {
  readonly answers: RecordPlace[] = []
  readonly ttlOffsets: number[] = []
  end: number
  minTtlSeconds = ttlMaxSeconds
  negativeTtlSeconds = 0
  hasSoa = false
  hasNs = false
  pointsHome = false
  extendedRcode = 0
  extendedError: number | undefined = undefined
  readonly #bytes: Uint8Array
  #optStart = -1
  #optEnd = -1
  #recordsBeforeOpt = 0

  constructor(bytes: Uint8Array, from: number) {
    this.#bytes = bytes
    this.end = from
  }

  section(section: Section, count: number): boolean {
    const bytes = this.#bytes
    for (let i = 0; i < count; i++) {
      const owner = this.end
      const fixed = skipName(bytes, owner)
      if (fixed < 0 || fixed + 10 > bytes.length) return false
      const dataBytes = read16(bytes, fixed + 8)
      this.end = fixed + 10 + dataBytes
      if (this.end > bytes.length) return false
      const type = read16(bytes, fixed)
      if (type === recordType.opt) {
        if (section !== 'additional' || this.#optStart >= 0) return false
        this.#readOpt({ owner, fixed, index: i })
      } else this.#readRecord({ owner, fixed, type, dataBytes, section })
    }
    return true
  }

  /** Takes the OPT out; records behind it move down when none of them can refer behind it, else they are left out. */
  cutOpt(): void {
    if (this.#optStart < 0) return
    const bytes = this.#bytes
    const cut = this.#optEnd - this.#optStart
    const kept = this.ttlOffsets.filter((offset) => offset < this.#optStart)
    const tail = this.ttlOffsets.slice(kept.length)
    if (tail.every((offset) => this.#staysTrue(offset))) {
      bytes.copyWithin(this.#optStart, this.#optEnd, this.end)
      this.ttlOffsets.splice(kept.length, tail.length, ...tail.map((offset) => offset - cut))
      this.end -= cut
      write16(bytes, 10, read16(bytes, 10) - 1)
    } else {
      this.ttlOffsets.length = kept.length
      this.end = this.#optStart
      write16(bytes, 10, this.#recordsBeforeOpt)
    }
  }

  /** True for an address record whose owner is one pointer to before the OPT. */
  #staysTrue(ttlOffset: number): boolean {
    const type = read16(this.#bytes, ttlOffset - 4)
    const pointer = read16(this.#bytes, ttlOffset - 6)
    const isAddress = type === recordType.a || type === recordType.aaaa
    return isAddress && pointer >= 0xc000 && (pointer & 0x3fff) < this.#optStart
  }

  #readRecord(record: { owner: number; fixed: number; type: number; dataBytes: number; section: Section }): void {
    const { owner, fixed, type, dataBytes, section } = record
    const ttlOffset = fixed + 4
    let ttl = read32(this.#bytes, ttlOffset)
    if (ttl > ttlMaxSeconds) {
      ttl = 0
      write32(this.#bytes, ttlOffset, 0)
    }
    this.ttlOffsets.push(ttlOffset)
    if (section === 'additional') return
    if (ttl < this.minTtlSeconds) this.minTtlSeconds = ttl
    const data = fixed + 10
    if (section === 'answer') {
      this.answers.push({ owner, type, data, dataBytes })
      if (pointsHome(this.#bytes, { owner, type, data, dataBytes })) this.pointsHome = true
    } else if (type === recordType.soa) {
      this.hasSoa = true
      this.negativeTtlSeconds = dataBytes < 22 ? 0 : Math.min(ttl, read32(this.#bytes, data + dataBytes - 4))
    } else if (type === recordType.ns) this.hasNs = true
  }

  #readOpt({ owner, fixed, index }: { owner: number; fixed: number; index: number }): void {
    this.#optStart = owner
    this.#optEnd = this.end
    this.#recordsBeforeOpt = index
    this.extendedRcode = this.#bytes[fixed + 4] ?? 0
    let at = fixed + 10
    for (let options = 0; at + 4 <= this.end && options < pointerHopsMax; options++) {
      const length = read16(this.#bytes, at + 2)
      if (read16(this.#bytes, at) === extendedErrorOption && length >= 2 && at + 6 <= this.end) {
        this.extendedError = read16(this.#bytes, at + 4)
      }
      at += 4 + length
    }
  }
}

/** EDNS option code of an extended error. [RFC 8914 2] */
const extendedErrorOption = 15

/** An address of this machine itself in an answer: 0.0.0.0/8, 127.0.0.0/8, ::, ::1, ::ffff:127.0.0.0/104. */
function pointsHome(bytes: Uint8Array, record: RecordPlace): boolean {
  const { type, data, dataBytes } = record
  if (type === recordType.a && dataBytes === 4) return bytes[data] === 127 || bytes[data] === 0
  if (type !== recordType.aaaa || dataBytes !== 16) return false
  for (let i = 0; i < 10; i++) if (bytes[data + i] !== 0) return false
  const group = read16(bytes, data + 10)
  if (group === 0xffff) return bytes[data + 12] === 127 || bytes[data + 12] === 0
  return group === 0 && read16(bytes, data + 12) === 0 && read16(bytes, data + 14) <= 1
}
