import type { Frame } from '../../../src/nsm/http2/frames.ts'

/** The frames of whole bytes that a server sent. */
export function readFrames(bytes: Buffer): Frame[] {
  const found: Frame[] = []
  for (let at = 0; at < bytes.length; ) {
    const end = at + 9 + bytes.readUIntBE(at, 3)
    const [type = 0, flags = 0] = bytes.subarray(at + 3, at + 5)
    found.push({ type, flags, streamId: bytes.readUInt32BE(at + 5), payload: bytes.subarray(at + 9, end) })
    at = end
  }
  return found
}

/** The bytes in pieces of these lengths, and the rest. */
export function cut(bytes: Buffer, lengths: readonly number[]): Buffer[] {
  const pieces: Buffer[] = []
  let at = 0
  for (const length of lengths) {
    pieces.push(bytes.subarray(at, at + length))
    at = Math.min(bytes.length, at + length)
  }
  return [...pieces, bytes.subarray(at)]
}
