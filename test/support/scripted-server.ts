import { once } from 'node:events'
import { createSecureServer, type Http2SecureServer, type ServerHttp2Stream } from 'node:http2'
import { certificatesToPem } from '../../src/identity/pem.ts'
import type { Svid } from '../../src/identity/source.ts'
import { frame, frames } from './grpc-frames.ts'

/* A gRPC server that has an identity and nothing of ours besides: it answers with the bytes it is told, as far as it is
 * told. What an honest library would never send can be sent. */

/** One call that arrived whole. */
export interface ScriptedCall {
  /** `/package.Service/Method` */
  readonly method: string
  readonly metadata: Readonly<Record<string, string | string[] | undefined>>
  readonly request: Buffer
  /** Sends a message; with header keys, if it is the first. */
  send(wire: Uint8Array, header?: Readonly<Record<string, string>>): void
  /** Ends the call with a gRPC status. */
  end(code?: number, message?: string): void
  /** Sends bytes that are no whole message. */
  sendBytes(bytes: Uint8Array): void
  /** Ends the stream without a status. */
  reset(): void
  /** Takes the whole connection down. */
  disconnect(): void
}

/** A running scripted server. */
export interface ScriptedServer {
  readonly address: string
  readonly port: number
  /** Methods of the calls so far, in the order of their arrival. */
  readonly seen: readonly string[]
  /** Open at this moment. */
  readonly connections: number
  close(): Promise<void>
}

/** Listens on the loopback. */
export async function startScriptedServer(svid: Svid, onCall: (call: ScriptedCall) => void): Promise<ScriptedServer> {
  const server = createSecureServer({
    key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }),
    cert: certificatesToPem(svid.chain),
    requestCert: true,
    rejectUnauthorized: false,
  })
  const seen: string[] = []
  const sessions = new Set<{ destroy(): void }>()
  server.on('session', (session) => {
    sessions.add(session)
    session.on('error', () => {})
    session.once('close', () => sessions.delete(session))
  })
  server.on('stream', async (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => {})
    const method = String(headers[':path'])
    seen.push(method)
    const request = await frames(stream)
      .next()
      .catch(() => undefined)
    const wire = request?.value ?? Buffer.alloc(0)
    if (!stream.destroyed) onCall({ method, metadata: headers, request: wire, ...answering(stream) })
  })
  const port = await listen(server)
  return {
    address: '127.0.0.1',
    port,
    seen,
    get connections() {
      return sessions.size
    },
    async close() {
      for (const session of sessions) session.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

function answering(stream: ServerHttp2Stream) {
  let status = { 'grpc-status': '0', 'grpc-message': '' }
  stream.on('wantTrailers', () => stream.sendTrailers(status))
  const begin = (header: Readonly<Record<string, string>> = {}) => {
    if (stream.headersSent || stream.destroyed) return
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', ...header }, { waitForTrailers: true })
  }
  return {
    send(wire: Uint8Array, header?: Readonly<Record<string, string>>) {
      begin(header)
      stream.write(frame(wire))
    },
    end(code = 0, message = '') {
      status = { 'grpc-status': String(code), 'grpc-message': encodeURIComponent(message) }
      begin()
      stream.end()
    },
    sendBytes(bytes: Uint8Array) {
      begin()
      stream.write(bytes)
    },
    reset: () => stream.close(8),
    disconnect: () => stream.session?.socket.destroy(),
  }
}

async function listen(server: Http2SecureServer): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  return typeof address === 'object' && address !== null ? address.port : 0
}
