import { flags, frame, frameTypes, numberFrame, preface, settingsPayload } from '../../../src/nsm/http2/frames.ts'
import { encodeHeaders } from '../../../src/nsm/http2/hpack.ts'
import { ServerSession } from '../../../src/nsm/http2/server-session.ts'
import type { ServerStream } from '../../../src/nsm/http2/server-stream.ts'
import { readFrames } from './frame-tools.ts'

/* Frames as a client writes them, and a session whose socket is the test. */

/** The least that is a request. */
export const request = { ':method': 'POST', ':scheme': 'https', ':path': '/a/b' }
export const settings = (pairs: readonly (readonly [number, number])[] = []) =>
  frame({ type: frameTypes.settings, flags: 0, streamId: 0 }, settingsPayload(pairs))
export const headers = (streamId: number, set: number = flags.endHeaders, block = encodeHeaders(request)) =>
  frame({ type: frameTypes.headers, flags: set, streamId }, block)
export const data = (streamId: number, body: string | Buffer, set = 0) =>
  frame({ type: frameTypes.data, flags: set, streamId }, Buffer.from(body))
export const raw = (type: number, streamId: number, payload: Buffer | string = '', set = 0) =>
  frame({ type, flags: set, streamId }, Buffer.from(payload))
export const grant = (streamId: number, bytes: number) => numberFrame(frameTypes.windowUpdate, streamId, bytes)
export const endOf = flags.endStream | flags.endHeaders

/** A socket that the test plays. */
export function testSocket() {
  const writes: Buffer[] = []
  const state = { isEnded: false, hasRoom: true, unsentBytes: 0 }
  const io = {
    write(bytes: Buffer) {
      writes.push(bytes)
      return state.hasRoom
    },
    unsentBytes: () => state.unsentBytes,
    end() {
      state.isEnded = true
    },
  }
  return { writes, state, io }
}

/** A session whose socket is the test; what it sent is read by `sent`. */
export function connect({ greeting = true, streamsMax = 4 } = {}) {
  const streams: ServerStream[] = []
  const heard: string[] = []
  const { writes, state, io } = testSocket()
  const session = new ServerSession(
    {
      ...io,
      onStream(stream) {
        streams.push(stream)
        stream.listener = {
          onData: (piece) => heard.push(`${stream.id}: ${piece}`),
          onEnd: () => heard.push(`${stream.id} end`),
          onDrain: () => heard.push(`${stream.id} drain`),
          onClose: () => heard.push(`${stream.id} close`),
        }
      },
    },
    { streamsMax, headerListMaxBytes: 1_000 },
  )
  let nowMs = 0
  const pass = (ms: number) => {
    nowMs += ms
  }
  const say = (...frames: Buffer[]) => session.receive(Buffer.concat(frames), nowMs)
  const sent = () => readFrames(Buffer.concat(writes.splice(0)))
  if (greeting) {
    say(preface, settings())
    sent()
  }
  return { session, streams, heard, writes, state, say, sent, pass }
}

export const settled = () => new Promise((resolve) => setImmediate(resolve))
export const only = (found: ReturnType<typeof readFrames>, type: number) => found.filter((one) => one.type === type)
