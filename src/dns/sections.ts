import { walkBody } from './body.ts'
import type { WireRecord } from './message.ts'
import { copyName, nameMaxBytes, read16, read32, recordType } from './wire.ts'

/** The records of a message's answer and authority sections, with all names written out. */
export interface Sections {
  readonly answers: readonly WireRecord[]
  readonly authority: readonly WireRecord[]
}

/** Reads both sections of a message whose question ends at `from`; undefined when a record or a name is broken. */
export function readSections(bytes: Uint8Array, from: number): Sections | undefined {
  if (!walkBody(bytes, from)) return undefined
  const counts = [read16(bytes, 6), read16(bytes, 8)]
  const sections: WireRecord[][] = []
  let at = from
  for (const count of counts) {
    const records: WireRecord[] = []
    for (let i = 0; i < count; i++) {
      const found = recordAt(bytes, at)
      if (!found) return undefined
      records.push(found.record)
      at = found.end
    }
    sections.push(records)
  }
  return { answers: sections[0] ?? [], authority: sections[1] ?? [] }
}

function recordAt(bytes: Uint8Array, at: number): { readonly record: WireRecord; readonly end: number } | undefined {
  const owner = nameAt(bytes, at)
  if (!owner) return undefined
  const { end: fixed, name } = owner
  const type = read16(bytes, fixed)
  const end = fixed + 10 + read16(bytes, fixed + 8)
  const data = expandedData(bytes, { type, from: fixed + 10, to: end })
  return data && { record: { name, type, ttlSeconds: read32(bytes, fixed + 4), data }, end }
}

/** RDATA that may hold compressed names is written out; all other RDATA is taken as it is. [RFC 3597 4] */
function expandedData(bytes: Uint8Array, place: { type: number; from: number; to: number }): Uint8Array | undefined {
  const { type, from, to } = place
  const [skip, names] = namesIn.get(type) ?? [0, 0]
  const parts: Uint8Array[] = [bytes.subarray(from, from + skip)]
  let at = from + skip
  for (let i = 0; i < names; i++) {
    const found = nameAt(bytes, at)
    if (!found || found.end > to) return undefined
    parts.push(found.name)
    at = found.end
  }
  parts.push(bytes.subarray(at, to))
  return Buffer.concat(parts)
}

/** Bytes before the first name and number of names, for the types whose RDATA may be compressed. [RFC 1035 3.3, RFC 3597 4] */
const namesIn = new Map<number, readonly [number, number]>([
  [recordType.ns, [0, 1]],
  [recordType.cname, [0, 1]],
  [recordType.soa, [0, 2]],
  [recordType.ptr, [0, 1]],
  [recordType.mx, [2, 1]],
  [recordType.srv, [6, 1]],
  [recordType.dname, [0, 1]],
])

function nameAt(bytes: Uint8Array, at: number): { readonly name: Uint8Array; readonly end: number } | undefined {
  const length = copyName(bytes, at, scratch)
  if (length < 0) return undefined
  let end = at
  while ((bytes[end] ?? 0) !== 0 && (bytes[end] ?? 0) < 0xc0) end += (bytes[end] ?? 0) + 1
  return { name: Buffer.from(scratch.subarray(0, length)), end: end + ((bytes[end] ?? 0) === 0 ? 1 : 2) }
}

const scratch = Buffer.alloc(nameMaxBytes + 1)
