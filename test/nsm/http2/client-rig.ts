import { ClientSession } from '../../../src/nsm/http2/client-session.ts'
import type { ClientStream } from '../../../src/nsm/http2/client-stream.ts'
import { flags, frame, frameTypes, numberFrame, preface } from '../../../src/nsm/http2/frames.ts'
import { encodeHeaders } from '../../../src/nsm/http2/hpack.ts'
import { readFrames } from './frame-tools.ts'
import { settings, testSocket } from './session-rig.ts'

/* Frames as a server writes them, and a client's session whose socket is the test. */

export const okHeader = encodeHeaders({ ':status': 200, 'content-type': 'application/grpc' })
export const okTrailers = encodeHeaders({ 'grpc-status': 0 })
export const answer = (streamId: number, block = okHeader, set: number = flags.endHeaders) =>
  frame({ type: frameTypes.headers, flags: set, streamId }, block)
export const trailers = (streamId: number, block = okTrailers) =>
  answer(streamId, block, flags.endHeaders | flags.endStream)
export const reset = (streamId: number, code: number) => numberFrame(frameTypes.reset, streamId, code)
export const goaway = (lastId: number, code = 0) => {
  const payload = Buffer.alloc(8)
  payload.writeUInt32BE(lastId)
  payload.writeUInt32BE(code, 4)
  return frame({ type: frameTypes.goaway, flags: 0, streamId: 0 }, payload)
}

/** A session whose socket is the test; what it sent is read by `sent`. */
export function connectTo({ greeting = true } = {}) {
  const heard: string[] = []
  const { writes, state, io } = testSocket()
  const session = new ClientSession(
    {
      ...io,
      onReady: () => heard.push('ready'),
      onLeaving: () => heard.push('leaving'),
      onRoom: () => {},
    },
    1_000,
  )
  let isGreeted = false
  let nowMs = 0
  const say = (...frames: Buffer[]) => session.receive(Buffer.concat(frames), nowMs)
  const sent = async () => {
    await new Promise((resolve) => setImmediate(resolve))
    const bytes = Buffer.concat(writes.splice(0))
    const start = isGreeted ? 0 : preface.length
    isGreeted = true
    return readFrames(bytes.subarray(start))
  }
  const open = (isLast = true): ClientStream => {
    const stream = session.open(encodeHeaders({ ':method': 'POST' }), {
      onHeader: (fields, last) => heard.push(`${stream.id} header ${fields.join(' ')}${last ? ' last' : ''}`),
      onData: (piece) => heard.push(`${stream.id}: ${piece}`),
      onEnd: () => heard.push(`${stream.id} end`),
      onDrain: () => heard.push(`${stream.id} drain`),
      onClose: (end) => heard.push(`${stream.id} ${typeof end === 'object' ? `reset ${end.resetCode}` : end}`),
    })
    if (isLast) stream.finish(Buffer.from('question'))
    return stream
  }
  if (greeting) say(settings())
  return { session, heard, state, say, sent, open, writes, pass: (ms: number) => (nowMs += ms) }
}
