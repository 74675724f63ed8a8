import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Clock } from '../base/clock.ts'
import { type BundleDocument, formatBundle } from './bundle-document.ts'

/** Gives the own bundle to other domains over connections that somebody else accepts. [SPIFFE Federation 5] */
export interface BundleEndpoint {
  /** Takes over a connection for one question. */
  serve(socket: Socket): void
}

/** Where the bundle is, on every port that gives it. */
export const bundlePath = '/bundle'
/** Ours: from the handshake to the last byte of the answer, which has some KiB. */
const visitMaxMs = 10_000
const headersMaxBytes = 8_192

/** One endpoint over the bundle of the moment. */
export function createBundleEndpoint(parts: {
  readonly document: () => BundleDocument
  readonly clock: Clock
}): BundleEndpoint {
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    response.setHeader('connection', 'close')
    const path = (request.url ?? '').replace(/\?.*$/s, '')
    if (path !== bundlePath) return response.writeHead(404).end()
    if (request.method !== 'GET' && request.method !== 'HEAD') return response.writeHead(405, { allow: 'GET' }).end()
    const text = formatBundle(parts.document())
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    return response.end(request.method === 'GET' ? text : undefined)
  }
  let server: Server | undefined
  return {
    serve(socket) {
      /** A server that does not listen watches no time by itself. */
      const cancel = parts.clock.after(visitMaxMs, () => socket.destroy())
      socket.once('close', cancel)
      server ??= createWebServer(answer)
      server.emit('connection', socket)
    },
  }
}

/** Loaded at the first question: 2 ms of each start of a server, which most are never asked. */
function createWebServer(answer: (request: IncomingMessage, response: ServerResponse) => void): Server {
  const { createServer } = process.getBuiltinModule('node:http')
  const server = createServer({ maxHeaderSize: headersMaxBytes }, answer)
  server.on('clientError', (_error, socket) => socket.destroy())
  return server
}
