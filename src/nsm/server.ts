import type { TLSSocket } from 'node:tls'
import type { Audit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { defaultConnectionLimits } from '../identity/connection-gate.ts'
import type { IdentitySource, Svid } from '../identity/source.ts'
import { createTlsServer } from '../identity/tls-server.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import { type Admission, openAdmission } from './admission.ts'
import { startVisit } from './anonymous-visit.ts'
import { byPath, type MethodBinding } from './grpc.ts'
import type { CallOrigin } from './grpc-call.ts'
import { type GrpcConnection, serveConnection } from './grpc-connection.ts'
import type { CallHeaders } from './grpc-headers.ts'
import { healthService } from './health.ts'
import { tokenMaxCharacters } from './limits.ts'
import { createOwnTokens } from './own-tokens.ts'
import { type OwnHop, type PeerContext, tokenExpiresMetadataKey, tokenMetadataKey } from './peer.ts'

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
  /** Who may come. Relays, managers and forwarders of clusters, open a connection for each call they pass on. */
  readonly admission?: Admission
  /** Takes over connections of HTTP/1.1; without it they are cut. */
  readonly onWeb?: ((socket: TLSSocket) => void) | undefined
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
}

/**
 * Serves the methods on one TLS port, with the health service of gRPC. TLS is our own: each connection is verified
 * before gRPC sees it, and each call knows whose connection it came on.
 * Throws `CONFLICT` or `PERMISSION` when the port cannot be had.
 */
export async function startNsmServer(settings: NsmServerSettings): Promise<NsmServer> {
  const { clock, admission = openAdmission({}) } = settings
  const methods = byPath([...settings.services, ...healthService(settings.services)])
  const connections = new Map<GrpcConnection, Guest | undefined>()
  const ignorePolicy = admission.onChange(() => endLostGuests(connections, admission))
  let isStopping = false
  const tls = createTlsServer({
    source: settings.source,
    allowAnonymous: true,
    limits: { ...defaultConnectionLimits, isExempt: (id) => admission.decide({ id, action: 'relay' }).isGranted },
    clock,
    log: settings.log,
    ...(settings.audit && { audit: settings.audit }),
    onWeb: settings.onWeb,
    onConnection(socket, peer, own) {
      if (isStopping) return void socket.destroy()
      const origin = originOf(socket, { peer, own, clock })
      const connection = serveConnection(socket, { methods, origin, clock, certificateEndMs: peer?.notAfterMs })
      connections.set(connection, peer && { id: peer.spiffeId, wasAdmitted: admission.isAdmitted(peer.spiffeId) })
      socket.once('close', () => {
        connections.delete(connection)
        origin.visit?.end()
      })
    },
  })
  const bound = await tls.listen({ host: settings.listen.address, port: settings.listen.port })
  return {
    ...bound,
    async stop() {
      isStopping = true
      ignorePolicy()
      await Promise.all([...connections.keys()].map((connection) => connection.stop()))
      await tls.close()
    },
  }
}

interface Guest {
  readonly id: string
  /** Whoever never had a grant may stay: each call is refused with the reason, and renewals need none. */
  wasAdmitted: boolean
}

/** A new policy ends the connections of those who may do nothing any more; nobody else notices. */
function endLostGuests(connections: ReadonlyMap<GrpcConnection, Guest | undefined>, admission: Admission): void {
  for (const [connection, guest] of connections) {
    if (!guest) continue
    const isAdmitted = admission.isAdmitted(guest.id)
    if (guest.wasAdmitted && !isAdmitted) void connection.stop()
    guest.wasAdmitted = isAdmitted
  }
}

/** What all calls of one connection have in common; `own` signs with the SVID this peer saw in its handshake. */
function originOf(
  socket: TLSSocket,
  seen: { readonly peer: PeerIdentity | undefined; readonly own: Svid; readonly clock: Clock },
): CallOrigin {
  const { peer, clock } = seen
  const address = plainAddress(socket.remoteAddress)
  const localAddress = plainAddress(socket.localAddress)
  return {
    own: ownHop(seen.own, peer, clock),
    address,
    visit: peer ? undefined : startVisit(clock, () => socket.destroy()),
    peerOf(headers) {
      if (!peer) return undefined
      const { spiffeId, certificate, intermediates, notAfterMs } = peer
      if (notAfterMs <= clock.wallMs()) throw unverified(`the certificate of ${spiffeId} is expired`)
      return { spiffeId, certificate, intermediates, ...callerToken(headers), address, localAddress }
    },
  }
}

/** Exactly one value of each key, else there is no token. [NSM sdk token/context.go] */
function callerToken(headers: CallHeaders): Pick<PeerContext, 'token' | 'tokenExpiresMs'> {
  const token = headers.only(tokenMetadataKey)
  const tokenExpiresMs = Date.parse(headers.only(tokenExpiresMetadataKey) ?? '')
  const isToken = token !== undefined && token.length <= tokenMaxCharacters && !Number.isNaN(tokenExpiresMs)
  return isToken ? { token, tokenExpiresMs } : { token: undefined, tokenExpiresMs: undefined }
}

function ownHop(own: Svid, peer: PeerIdentity | undefined, clock: Clock): OwnHop {
  const token = createOwnTokens({ svid: () => own, clock, ...(peer && { endMs: peer.notAfterMs }) })
  return { spiffeId: own.spiffeId, token }
}

/** IPv4 in IPv6 clothes, as a socket for both families gives it, becomes plain IPv4. */
function plainAddress(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '')
}

function unverified(why: string): NsmError {
  return new NsmError('IDENTITY', why, 'join with `nsm connect --join FILE`')
}
