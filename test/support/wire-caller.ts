import { once } from 'node:events'
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2'
import { certificatesToPem } from '../../src/identity/pem.ts'
import type { Svid } from '../../src/identity/source.ts'
import { signToken } from '../../src/identity/token.ts'
import type { Target } from '../../src/nsm/channel.ts'
import { frame, frames } from './grpc-frames.ts'

/* A gRPC client that has an identity and nothing of ours besides: it sends the bytes it is told. */

/** What came back. */
export interface WireAnswer {
  readonly code: number
  readonly message: string
  readonly header: Readonly<Record<string, string>>
  readonly messages: readonly Buffer[]
}

/** Metadata to send; undefined leaves out what would be sent by itself. */
export type Sent = Readonly<Record<string, string | undefined>>

/** An open HTTP/2 connection. */
export interface WireCaller {
  readonly session: ClientHttp2Session
  /** One call with one message, until the server ends it; with an honest hop token unless metadata say otherwise. */
  call(method: string, wire: Uint8Array, metadata?: Sent): Promise<WireAnswer>
  /** One call with one message; its answers as they come. */
  watch(method: string, wire: Uint8Array): AsyncGenerator<Buffer, void>
  /** Begins a call and sends bytes that need not be a message; its stream. */
  begin(method: string, bytes: Uint8Array): ClientHttp2Stream
  close(): void
}

const tokenMs = 600_000

/** Connects with the SVID; `audience` is the SPIFFE ID of the server. */
export async function openWireCaller(target: Target, svid: Svid, audience: string): Promise<WireCaller> {
  const session = connect(`https://${target.address}:${target.port}`, {
    key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }),
    cert: certificatesToPem(svid.chain),
    rejectUnauthorized: false,
  })
  session.on('error', () => {})
  await once(session, 'connect')
  const open = (method: string, metadata: Sent) => {
    const wanted = { te: 'trailers', 'content-type': 'application/grpc', ...bearer(svid, audience), ...metadata }
    const header = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined))
    return session.request({ ':method': 'POST', ':path': method, ...header })
  }
  return {
    session,
    async call(method, wire, metadata = {}) {
      const stream = open(method, metadata)
      const header: Record<string, string> = {}
      const note = (values: object) => {
        for (const [key, value] of Object.entries(values)) header[key] = String(value)
      }
      stream.on('response', note)
      stream.on('trailers', note)
      stream.end(frame(wire))
      const messages: Buffer[] = []
      for await (const message of frames(stream)) messages.push(message)
      const { 'grpc-status': code = '-1', 'grpc-message': message = '' } = header
      return { code: Number(code), message: decodeURIComponent(message), header, messages }
    },
    watch(method, wire) {
      const stream = open(method, {})
      stream.on('error', () => {})
      stream.end(frame(wire))
      return frames(stream)
    },
    begin(method, bytes) {
      const stream = open(method, {})
      stream.on('error', () => {})
      stream.write(bytes)
      return stream
    },
    close: () => session.destroy(),
  }
}

/** Both metadata of a hop token. */
export function bearer(svid: Svid, audience: string, expiresMs = Date.now() + tokenMs) {
  return {
    'nsm-client-token': signToken({ svid, audience, expiresMs }),
    'nsm-client-token-expires': new Date(expiresMs).toISOString(),
  }
}
