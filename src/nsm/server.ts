import { Server, ServerCredentials } from '@grpc/grpc-js'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { defaultConnectionLimits } from '../identity/connection-gate.ts'
import type { IdentitySource, Svid } from '../identity/source.ts'
import { createTlsServer } from '../identity/tls-server.ts'
import { signToken } from '../identity/token.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import { startVisit, type Visit } from './anonymous-visit.ts'
import { type CallOrigin, lastText, type MethodBinding, type ServerCall } from './grpc.ts'
import { healthService } from './health.ts'
import { messageMaxBytes, metadataMaxBytes, streamsPerConnectionMax, tokenMaxCharacters } from './limits.ts'
import {
  type HopToken,
  type OwnHop,
  type PeerContext,
  tokenExpiresMetadataKey,
  tokenLifetimeMs,
  tokenMetadataKey,
} from './peer.ts'
import { isNamed } from './policies.ts'

/** A running server; `address` and `port` are where it listens. */
export interface NsmServer {
  readonly address: string
  readonly port: number
  /** Ends every call and connection; calling it again does nothing more. */
  stop(): Promise<void>
}

/** Everything a server is made from. */
export interface NsmServerSettings {
  readonly source: IdentitySource
  readonly listen: { readonly address: string; readonly port: number }
  readonly services: readonly MethodBinding[]
  /** Managers and forwarders of clusters, as in `isNamed`: they open a connection for each call they pass on. */
  readonly relays?: readonly string[]
  readonly clock: Clock
  readonly log: Log
}

/** Ours: connections are renewed, so that a rotated or withdrawn certificate is not in use for longer. */
const connectionAgeMaxMs = 1_800_000
/** Ours: what is left to calls of a connection that is renewed. */
const connectionAgeGraceMs = 30_000
/** Ours: a machine that went away without a word frees its place after both, so that its identity does not use up its own. */
const keepaliveMs = 120_000
const keepaliveTimeoutMs = 20_000

/**
 * Serves the methods on one TLS port, with the health service of gRPC. TLS is our own: each connection is verified
 * before gRPC sees it, and each call knows whose connection it came on.
 * Throws `CONFLICT` or `PERMISSION` when the port cannot be had.
 */
export async function startNsmServer(settings: NsmServerSettings): Promise<NsmServer> {
  const connections = new Connections(settings.clock)
  const grpc = new Server({
    'grpc.max_receive_message_length': messageMaxBytes,
    'grpc.max_metadata_size': metadataMaxBytes,
    'grpc.max_concurrent_streams': streamsPerConnectionMax,
    'grpc.max_connection_age_ms': connectionAgeMaxMs,
    'grpc.max_connection_age_grace_ms': connectionAgeGraceMs,
    'grpc.keepalive_time_ms': keepaliveMs,
    'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    'grpc.enable_channelz': 0,
  })
  addServices(grpc, connections, [...settings.services, ...healthService(settings.services)])
  const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure())
  const tls = createTlsServer({
    source: settings.source,
    allowAnonymous: true,
    limits: { ...defaultConnectionLimits, isExempt: (spiffeId) => isNamed(spiffeId, settings.relays ?? []) },
    clock: settings.clock,
    log: settings.log,
    onConnection(socket, peer, own) {
      const address = plainAddress(socket.remoteAddress)
      const localAddress = plainAddress(socket.localAddress)
      const key = connectionKey(socket.remoteAddress, socket.remotePort)
      const visit = peer ? undefined : startVisit(settings.clock, () => socket.destroy())
      connections.add(key, { peer, own: ownHop(own, peer, settings.clock), address, localAddress, visit })
      socket.once('close', () => {
        connections.remove(key)
        visit?.end()
      })
      injector.injectConnection(socket)
    },
  })
  const bound = await tls.listen({ host: settings.listen.address, port: settings.listen.port })
  return {
    ...bound,
    async stop() {
      injector.destroy()
      grpc.forceShutdown()
      await tls.close()
    },
  }
}

function addServices(grpc: Server, connections: Connections, methods: readonly MethodBinding[]): void {
  const origins = {
    open: (call: ServerCall) => connections.openOriginOf(call),
    verified: (call: ServerCall) => connections.verifiedOriginOf(call),
  }
  for (const service of new Set(methods.map((method) => method.service))) {
    const own = methods.filter((method) => method.service === service)
    grpc.addService(
      Object.fromEntries(own.map(({ name, definition }) => [name, definition])),
      Object.fromEntries(own.map(({ name, implement }) => [name, implement(origins)])),
    )
  }
}

interface Connection {
  readonly peer: PeerIdentity | undefined
  /** Signs with the SVID this peer saw in its handshake. */
  readonly own: OwnHop
  readonly address: string
  readonly localAddress: string
  /** The time limits of a caller without a certificate. */
  readonly visit: Visit | undefined
}

/** Verified connections by remote address and port: the one thing grpc-js tells of a call's connection. */
class Connections {
  readonly #clock: Clock
  readonly #open = new Map<string, Connection>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  add(key: string, connection: Connection): void {
    this.#open.set(key, connection)
  }

  remove(key: string): void {
    this.#open.delete(key)
  }

  openOriginOf(call: ServerCall): CallOrigin {
    const connection = this.#connectionOf(call)
    const onAnswered = connection.visit?.begin()
    return { ...this.#originOf(connection, call), ...(onAnswered ? { onAnswered } : {}) }
  }

  verifiedOriginOf(call: ServerCall): CallOrigin & { readonly peer: PeerContext } {
    const origin = this.#originOf(this.#connectionOf(call), call)
    if (!origin.peer) throw unverified('this call needs a client certificate')
    return { ...origin, peer: origin.peer }
  }

  #connectionOf(call: ServerCall): Connection {
    const connection = this.#open.get(call.getPeer())
    if (!connection) throw unverified('the connection is gone')
    return connection
  }

  #originOf(connection: Connection, call: ServerCall): CallOrigin {
    const { peer, own, address } = connection
    return { own, address, peer: peer && this.#contextOf(connection, peer, call) }
  }

  #contextOf(connection: Connection, peer: PeerIdentity, call: ServerCall): PeerContext {
    if (peer.notAfterMs <= this.#clock.wallMs()) throw unverified(`the certificate of ${peer.spiffeId} is expired`)
    return {
      spiffeId: peer.spiffeId,
      certificate: peer.certificate,
      intermediates: peer.intermediates,
      ...callerToken(call),
      address: connection.address,
      localAddress: connection.localAddress,
    }
  }
}

/** Exactly one value of each key, else there is no token. [NSM sdk token/context.go] */
function callerToken(call: ServerCall): Pick<PeerContext, 'token' | 'tokenExpiresMs'> {
  const absent = { token: undefined, tokenExpiresMs: undefined }
  const keys = [tokenMetadataKey, tokenExpiresMetadataKey]
  if (keys.some((key) => call.metadata.get(key).length !== 1)) return absent
  const token = lastText(call.metadata, tokenMetadataKey)
  const tokenExpiresMs = Date.parse(lastText(call.metadata, tokenExpiresMetadataKey) ?? '')
  if (token === undefined || token.length > tokenMaxCharacters || Number.isNaN(tokenExpiresMs)) return absent
  return { token, tokenExpiresMs }
}

/** Ours: a token is signed anew when it is this much older; signing was a seventh of the cost of a request. */
const tokenReuseMs = 5_000
/** Ours: audiences of one connection, the peer and the endpoints behind us. */
const audiencesMax = 8

function ownHop(own: Svid, peer: PeerIdentity | undefined, clock: Clock): OwnHop {
  const signed = new Map<string, HopToken>()
  return {
    spiffeId: own.spiffeId,
    token(audience) {
      const peerEndMs = peer?.notAfterMs ?? Number.POSITIVE_INFINITY
      const expiresMs = Math.min(clock.wallMs() + tokenLifetimeMs, own.notAfterMs, peerEndMs)
      const known = signed.get(audience)
      if (known && expiresMs >= known.expiresMs && expiresMs - known.expiresMs < tokenReuseMs) return known
      const fresh = { token: signToken({ svid: own, audience, expiresMs }), expiresMs }
      if (signed.size >= audiencesMax) signed.clear()
      signed.set(audience, fresh)
      return fresh
    },
  }
}

/** As grpc-js writes the peer of a call. */
function connectionKey(address: string | undefined, port: number | undefined): string {
  return `${address}:${port}`
}

/** IPv4 in IPv6 clothes, as a socket for both families gives it, becomes plain IPv4. */
function plainAddress(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '')
}

function unverified(why: string): NsmError {
  return new NsmError('IDENTITY', why, 'join with `nsm connect --join FILE`')
}
