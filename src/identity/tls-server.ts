import { createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsLayer, TLSSocket } from 'node:tls'
import { type Clock, systemClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import {
  type Caller,
  type CallerAdmission,
  type ConnectionCounts,
  ConnectionGate,
  type ConnectionLimits,
  defaultConnectionLimits,
} from './connection-gate.ts'
import { certificatesToPem } from './pem.ts'
import type { IdentityState } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'
import { tlsMaterial } from './tls-material.ts'
import { type SessionSettings, TlsSessions } from './tls-sessions.ts'

/** Everything a TLS server is made from. */
export interface TlsServerSettings extends SessionSettings {
  readonly clock?: Clock
  readonly limits?: ConnectionLimits
}

/** A listening or not yet listening TLS server. */
export interface TlsServer {
  /** Binds host and port (0 = any); throws `CONFLICT` when taken, `PERMISSION` when not allowed. */
  listen(at: {
    readonly host: string
    readonly port: number
  }): Promise<{ readonly address: string; readonly port: number }>
  readonly counts: ConnectionCounts
  /** Ends every connection and the listener; calling it again does nothing more. */
  close(): Promise<void>
}

/**
 * A TLS 1.3 server that verifies each client against the bundle of the client's own trust domain, on every connection.
 * It follows the source: new handshakes use the new SVID, and peers that lost their trust or expired are cut.
 */
export function createTlsServer(settings: TlsServerSettings): TlsServer {
  const clock = settings.clock ?? systemClock
  const sessions = new TlsSessions(settings, clock)
  const tls = createTls(settings, sessions)
  const gate = new ConnectionGate(settings.limits ?? defaultConnectionLimits)
  const tcp = createServer((socket) => {
    const { remoteAddress: address } = socket
    if (address === undefined) return void socket.destroy()
    const admission = gate.admit(address, clock.monotonicMs())
    if (admission !== 'admitted') {
      settings.log.debug('connection refused', { address, reason: admission })
      return void socket.destroy()
    }
    sessions.open(socket, followCount(socket, { gate, address }))
    tls.emit('connection', socket)
  })
  const stopListening = settings.source.onChange((next) => {
    tls.setSecureContext(serverMaterial(next))
    sessions.show(next)
    sessions.verifyAgain(next)
  })
  return {
    listen: (at) => listen(tcp, at),
    get counts() {
      return gate.counts
    },
    async close() {
      stopListening()
      sessions.close()
      if (tcp.listening) await new Promise((resolve) => tcp.close(resolve))
    },
  }
}

/** Ours: a client on a bad line finishes in two round trips; a silent one holds a place no longer than this. */
const handshakeTimeoutMs = 5_000

/** [RFC 7301 6] Clients of gRPC offer HTTP/2 alone; who offers this one too wants a document. */
const webProtocol = 'http/1.1'

/** The TLS layer; it does not listen itself, so that a connection over the limits costs no handshake. */
function createTls(settings: TlsServerSettings, sessions: TlsSessions) {
  const tls = createTlsLayer({
    ...serverMaterial(settings.source.current()),
    requestCert: true,
    /** The verdict is made in `accept`: a client without a certificate may be welcome. */
    rejectUnauthorized: false,
    handshakeTimeout: handshakeTimeoutMs,
    /** Node calls it as a method of the socket, the only moment at which the socket is seen before its certificates. */
    ALPNCallback(this: unknown, { protocols }: { readonly protocols: readonly string[] }) {
      if (this instanceof TLSSocket) sessions.watch(this)
      if (settings.onWeb && protocols.includes(webProtocol)) return webProtocol
      return protocols.includes('h2') ? 'h2' : undefined
    },
  })
  tls.on('secureConnection', (socket) => sessions.accept(socket))
  tls.on('tlsClientError', (error) => settings.log.debug('handshake failed', { error: error.message }))
  return tls
}

/** The own roots are sent too: a client that knows only their hash finds them in the chain. */
function serverMaterial(state: IdentityState) {
  const { trustDomain } = parseSpiffeId(state.svid.spiffeId)
  const roots = state.bundles.get(trustDomain) ?? []
  return { ...tlsMaterial(state), cert: certificatesToPem([...state.svid.chain, ...roots]) }
}

/** Keeps the gate's count of an admitted connection right until it is gone; the result is called with who it turned out to be. */
function followCount(
  socket: Socket,
  { gate, address }: { readonly gate: ConnectionGate; readonly address: string },
): (spiffeId: string | undefined) => CallerAdmission {
  let counted: Caller | undefined
  socket.on('error', () => socket.destroy())
  socket.once('close', () => gate.release(counted))
  return (spiffeId) => {
    const caller = { address, spiffeId }
    const admission = gate.finish(caller)
    if (admission === 'admitted') counted = caller
    return admission
  }
}

function listen(server: Server, at: { readonly host: string; readonly port: number }) {
  return new Promise<{ readonly address: string; readonly port: number }>((resolve, reject) => {
    /** Stays for the life of the server: a late error rejects nothing and ends nothing. */
    server.on('error', (error: NodeJS.ErrnoException) => reject(listenError(error, at)))
    server.listen({ host: at.host, port: at.port }, () => {
      const bound = server.address()
      if (bound === null || typeof bound === 'string') return reject(listenError(undefined, at))
      resolve({ address: bound.address, port: bound.port })
    })
  })
}

function listenError(cause: NodeJS.ErrnoException | undefined, at: { readonly host: string; readonly port: number }) {
  const where = `${at.host}:${at.port}`
  if (cause?.code === 'EACCES') {
    return new NsmError('PERMISSION', `no right to listen on ${where}`, 'use a port from 1024 on', { cause })
  }
  const why = cause?.code === 'EADDRINUSE' ? 'is already in use' : `cannot be used: ${cause?.code ?? 'no address'}`
  return new NsmError('CONFLICT', `${where} ${why}`, 'stop the other program or choose another address or port', {
    cause,
  })
}
