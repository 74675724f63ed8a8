import { Remainder } from './remainder.ts'

/* [RFC 9113 4.1] A frame is the length of its payload (3 bytes), its type, its flags, its stream (4 bytes), and the payload. */

/** [RFC 9113 6] */
export const frameTypes = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  push: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const

/** [RFC 9113 6] `ack` and `endStream` share a bit. */
export const flags = { ack: 0x1, endStream: 0x1, endHeaders: 0x4, padded: 0x8, priority: 0x20 } as const

/** [RFC 9113 7] */
export const errorCodes = {
  none: 0,
  protocol: 1,
  internal: 2,
  flowControl: 3,
  frameSize: 6,
  refusedStream: 7,
  cancel: 8,
  compression: 9,
  calm: 11,
  inadequateSecurity: 12,
} as const

/** [RFC 9113 3.4] What a client says first. */
export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
/** [RFC 9113 4.2] The largest payload as long as nobody allows more, and neither side of ours does. */
export const payloadMaxBytes = 16_384

const headBytes = 9

/** A frame; the payload is a view that the next call of the reader may overwrite. */
export interface Frame {
  readonly type: number
  readonly flags: number
  readonly streamId: number
  readonly payload: Buffer
}

/** Cuts the bytes of the other side into frames: those of a client after its preface. Pure. */
export class FrameReader {
  readonly #rest = new Remainder()
  #isGreeted: boolean

  constructor(of: 'client' | 'server' = 'client') {
    this.#isGreeted = of === 'server'
  }

  /** Gives each frame that is whole; an error code for bytes that cannot be read on, and then nothing more. */
  push(piece: Buffer, onFrame: (frame: Frame) => void): number | undefined {
    const bytes = this.#rest.with(piece)
    let at = 0
    if (!this.#isGreeted) {
      const begin = bytes.subarray(0, preface.length)
      if (!begin.equals(preface.subarray(0, begin.length))) return errorCodes.protocol
      if (begin.length === preface.length) {
        this.#isGreeted = true
        at = preface.length
      }
    }
    while (this.#isGreeted && bytes.length - at >= headBytes) {
      const length = bytes.readUIntBE(at, 3)
      if (length > payloadMaxBytes) return errorCodes.frameSize
      const end = at + headBytes + length
      if (end > bytes.length) break
      onFrame({
        type: bytes[at + 3] ?? 0,
        flags: bytes[at + 4] ?? 0,
        streamId: bytes.readUInt32BE(at + 5) & 0x7fff_ffff,
        payload: bytes.subarray(at + headBytes, end),
      })
      at = end
    }
    this.#rest.keep(bytes, at)
    return undefined
  }
}

/** The first bytes of a frame, which its payload follows. */
export function frameHead(head: { type: number; flags: number; streamId: number; length: number }): Buffer {
  const bytes = Buffer.allocUnsafe(headBytes)
  bytes.writeUIntBE(head.length, 0, 3)
  bytes[3] = head.type
  bytes[4] = head.flags
  bytes.writeUInt32BE(head.streamId, 5)
  return bytes
}

/** A whole frame. */
export function frame(head: { type: number; flags: number; streamId: number }, payload: Buffer): Buffer {
  return Buffer.concat([frameHead({ ...head, length: payload.length }), payload])
}

/** A frame whose payload is one number of four bytes. */
export function numberFrame(type: number, streamId: number, value: number): Buffer {
  const payload = Buffer.allocUnsafe(4)
  payload.writeUInt32BE(value)
  return frame({ type, flags: 0, streamId }, payload)
}

/** A header block in as many frames as it takes. */
export function headersFrames(streamId: number, block: Buffer, isLast: boolean): Buffer {
  const pieces: Buffer[] = []
  for (let at = 0; at === 0 || at < block.length; at += payloadMaxBytes) {
    const piece = block.subarray(at, at + payloadMaxBytes)
    const type = at === 0 ? frameTypes.headers : frameTypes.continuation
    const ends = at + payloadMaxBytes >= block.length ? flags.endHeaders : 0
    pieces.push(frame({ type, flags: ends | (at === 0 && isLast ? flags.endStream : 0), streamId }, piece))
  }
  return pieces.length === 1 && pieces[0] ? pieces[0] : Buffer.concat(pieces)
}

/** [RFC 9113 6.5.2] */
export const settingIds = {
  headerTable: 1,
  enablePush: 2,
  maxStreams: 3,
  initialWindow: 4,
  maxFrame: 5,
  maxHeaderList: 6,
} as const

/** The payload of SETTINGS. */
export function settingsPayload(settings: readonly (readonly [id: number, value: number])[]): Buffer {
  const payload = Buffer.allocUnsafe(settings.length * 6)
  for (const [i, [id, value]] of settings.entries()) {
    payload.writeUInt16BE(id, i * 6)
    payload.writeUInt32BE(value, i * 6 + 2)
  }
  return payload
}

/** The payload without its padding and priority; undefined when it is shorter than they say. */
export function withoutPadding({ type, flags: set, payload }: Frame): Buffer | undefined {
  const padBytes = set & flags.padded ? (payload[0] ?? Number.POSITIVE_INFINITY) : 0
  const priorityBytes = type === frameTypes.headers && set & flags.priority ? 5 : 0
  const start = (set & flags.padded ? 1 : 0) + priorityBytes
  return start + padBytes <= payload.length ? payload.subarray(start, payload.length - padBytes) : undefined
}
