import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'

/* Recorded exchanges of NSM's own programs: test/fixtures/nsm-sdk/*.jsonl, made by `npm run record`. */

/** One line of a recording; `wire` is base64 of the bytes of one message, `json` the same message in protojson. */
export interface RecordedEvent {
  readonly event: 'versions' | 'peer' | 'call' | 'send' | 'recv' | 'header' | 'end'
  readonly exchange?: string
  readonly call?: number
  readonly method?: string
  readonly metadata?: Readonly<Record<string, string>>
  readonly type?: string
  readonly json?: unknown
  readonly wire?: string
  readonly code?: number
  readonly message?: string
  readonly peer?: string
  readonly versions?: Readonly<Record<string, string>>
  /** When the recording began, ISO 8601. */
  readonly at?: string
}

/** One message of a call. */
export interface RecordedMessage {
  readonly type: string
  readonly json: unknown
  readonly wire: Buffer
}

/** One call as the client saw it. */
export interface RecordedCall {
  readonly exchange: string
  /** `/package.Service/Method` */
  readonly method: string
  readonly metadata: Readonly<Record<string, string>>
  readonly sent: readonly RecordedMessage[]
  readonly received: readonly RecordedMessage[]
  readonly header: Readonly<Record<string, string>>
  /** gRPC code; undefined for a stream that the client left. */
  readonly code: number | undefined
  readonly message: string
}

/** One recording. */
export interface Recording {
  readonly versions: Readonly<Record<string, string>>
  readonly atMs: number
  /** DER certificates of the servers by SPIFFE ID. */
  readonly certificates: ReadonlyMap<string, Buffer>
  readonly calls: readonly RecordedCall[]
}

/** Each is one file; an exchange belongs to the recording that its name begins with. */
export const recordingNames = ['registry', 'manager', 'direct', 'refused'] as const
export type RecordingName = (typeof recordingNames)[number]

/** The file of a recording, from the root of the project. */
export function fixtureOf(name: RecordingName): string {
  return `test/fixtures/nsm-sdk/${name}.jsonl`
}

/** Reads a recording and puts the events of each call together. */
export function readRecording(name: RecordingName): Recording {
  const text = readFileSync(resolve(import.meta.dirname, '../..', fixtureOf(name)), 'utf8')
  const events: RecordedEvent[] = text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line))
  const first = events.find(({ event }) => event === 'versions')
  const certificates = events.filter(({ event }) => event === 'peer')
  const numbers = new Set(events.flatMap(({ call }) => call ?? []))
  return {
    versions: first?.versions ?? {},
    atMs: Date.parse(first?.at ?? ''),
    certificates: new Map(certificates.map(({ peer = '', wire = '' }) => [peer, Buffer.from(wire, 'base64')])),
    calls: [...numbers].map((number) => callOf(events.filter(({ call }) => call === number))),
  }
}

function callOf(events: readonly RecordedEvent[]): RecordedCall {
  const of = (kind: RecordedEvent['event']) => events.filter(({ event }) => event === kind)
  const messages = (kind: RecordedEvent['event']) =>
    of(kind).map(({ type = '', json, wire = '' }) => ({ type, json, wire: Buffer.from(wire, 'base64') }))
  const [begin] = of('call')
  const [end] = of('end')
  return {
    exchange: begin?.exchange ?? '',
    method: begin?.method ?? '',
    metadata: begin?.metadata ?? {},
    sent: messages('send'),
    received: messages('recv'),
    header: of('header')[0]?.metadata ?? {},
    code: end?.code,
    message: end?.message ?? '',
  }
}
