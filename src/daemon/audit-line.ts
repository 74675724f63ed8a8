import { hash } from 'node:crypto'
import type { AuditEvent } from '../base/audit.ts'
import { isJsonObject, readJsonObject } from '../base/json.ts'
import { printable } from '../base/printable.ts'
import { hasSecret, isSecretField } from '../base/secrets.ts'

/** Where a line stands in the chain. */
export interface ChainPlace {
  /** 1 for the first line. */
  readonly seq: number
  /** SHA-256 of the line before, hex; 64 zeros before the first one. */
  readonly prev: string
}

/** What comes before the first line. */
export const chainStart: ChainPlace = { seq: 1, prev: '0'.repeat(64) }

/** One event as one line of JSON, without its end of line; bounded, and without anything that looks like a secret. */
export function auditLine(event: AuditEvent, at: ChainPlace & { readonly wallMs: number }): string {
  const { event: name, ...fields } = event
  const head = { ts: new Date(at.wallMs).toISOString(), seq: at.seq, event: name }
  return JSON.stringify({ ...head, ...cleaned(fields), ...head, prev: at.prev })
}

/** The place of the line that follows this one. */
export function placeAfter(line: string, seq: number): ChainPlace {
  return { seq: seq + 1, prev: hash('sha256', line, 'hex') }
}

/** What a line says of its place; undefined for text that is no line of an audit log. */
export function readPlace(line: string): ChainPlace | undefined {
  return placeOf(readJsonObject(line))
}

/** The place that an object of JSON names; undefined for any other value. */
export function placeOf(value: unknown): ChainPlace | undefined {
  const { seq, prev } = isJsonObject(value) ? value : {}
  if (typeof seq !== 'number' || !Number.isSafeInteger(seq)) return undefined
  return typeof prev === 'string' && /^[0-9a-f]{64}$/.test(prev) ? { seq, prev } : undefined
}

/** Ours: text of others is cut here, so that a hostile name cannot fill the file. */
const textMaxBytes = 256

type Fields = Readonly<Record<string, string | number | boolean | undefined>>

function cleaned(fields: Fields): Fields {
  const kept: Record<string, string | number | boolean> = {}
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue
    if (name === 'publicKey') kept[name] = typeof value === 'string' && wireGuardKey.test(value) ? value : '[secret]'
    else if (isSecretField(name)) continue
    else kept[name] = typeof value === 'string' ? cleanText(value) : value
  }
  return kept
}

/** A public key has the shape of a private one; only the field of this name may hold it. */
const wireGuardKey = /^[A-Za-z0-9+/]{43}=$/
/** [SPIFFE ID 2] An ID is public: nobody hides his own by a path that looks like a secret. */
const spiffeId = /^spiffe:\/\/[a-z0-9._-]{1,255}(\/[A-Za-z0-9._-]+)*$/

function cleanText(text: string): string {
  if (!spiffeId.test(text) && hasSecret(text)) return '[secret]'
  return printable(cut(text))
}

/** No longer than the bound in UTF-8, and never half a character. */
function cut(text: string): string {
  if (text.length * 3 <= textMaxBytes) return text
  const bytes = Buffer.from(text)
  if (bytes.length <= textMaxBytes) return text
  let end = textMaxBytes
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--
  return `${bytes.toString('utf8', 0, end)}...`
}
