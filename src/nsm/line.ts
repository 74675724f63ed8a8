import { connect, type TLSSocket } from 'node:tls'
import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { ClientSecurity } from '../identity/tls-client.ts'
import { signToken } from '../identity/token.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import type { Target } from './call-settings.ts'
import { Dialer } from './dialer.ts'
import type { CallLine } from './line-calls.ts'
import { tokenLifetimeMs as defaultLifetimeMs, tokenExpiresMetadataKey, tokenMetadataKey } from './peer.ts'

/** One server and one SVID; it dials by itself, and again when a connection is lost. */
export interface Line extends CallLine {
  /** The server of the last handshake. */
  server(): PeerIdentity | undefined
  /** Ends every call under way. */
  close(): void
}

/** Dials at the first call. */
export function createLine(settings: {
  readonly target: Target
  readonly security: ClientSecurity
  readonly clock: Clock
  /** Of the tokens it signs; NSM's default when nothing is said. */
  readonly tokenLifetimeMs?: number | undefined
}): Line {
  const { target, security, clock } = settings
  const where = addressText(target)
  const listeners = new Set<(error: NsmError) => void>()
  const tell = (error: NsmError) => {
    for (const listener of [...listeners]) listener(error)
  }
  let unanswered = 0
  let refused: NsmError | undefined
  const dialer = new Dialer({
    ...{ clock, pauseMaxMs, scheme: 'https', authority: security.serverName, connectedEvent: 'secureConnect' },
    open: () => dial(target, security),
    onConnected() {
      refused = undefined
      unanswered++
      if (unanswered > unansweredMax) tell(notAccepted(where))
      return security.serverIdentity()
    },
    onFailed(error) {
      refused = error === security.refusal() ? security.refusal() : certificateFault(error)
      if (refused) tell(refused)
    },
    metadata: (server) => hopToken(server, settings),
  })
  return {
    dialer,
    where,
    server: () => security.serverIdentity(),
    refused: () => refused,
    onRefused(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    answered() {
      unanswered = unansweredMax - unansweredAgainMax
    },
    close() {
      tell(new NsmError('UNREACHABLE', `the channel to ${where} is closed`, 'open a new one'))
      dialer.close()
    },
  }
}

/** Ours: the longest pause between two attempts to connect. */
const pauseMaxMs = 5_000

function dial({ address, port }: Target, { secureContext, verifyOptions, serverName }: ClientSecurity): TLSSocket {
  const server = { host: address, port, servername: serverName, ALPNProtocols: ['h2'] }
  return connect({ ...server, secureContext, ...verifyOptions })
}

/**
 * Ours: TLS 1.3 lets a client finish its handshake before the server has judged it, so a refusal looks like a lost
 * connection. After this many in a row without any answer it is one.
 */
const unansweredMax = 3
/** Ours: as many after an answer, some seconds: the server did accept us, and may have ceased to. */
const unansweredAgainMax = 6

/** Both metadata keys on every call; made after the handshake, when the audience is known. [NSM sdk token/creds.go] */
function hopToken(
  server: PeerIdentity | undefined,
  {
    security: { svid },
    clock,
    tokenLifetimeMs = defaultLifetimeMs,
  }: { readonly security: ClientSecurity; readonly clock: Clock; readonly tokenLifetimeMs?: number | undefined },
): Readonly<Record<string, string>> {
  if (!svid || !server) return {}
  const expiresMs = Math.min(clock.wallMs() + tokenLifetimeMs, svid.notAfterMs, server.notAfterMs)
  return {
    [tokenMetadataKey]: signToken({ svid, audience: server.spiffeId, expiresMs }),
    [tokenExpiresMetadataKey]: new Date(expiresMs).toISOString(),
  }
}

/** OpenSSL's verdict on the server's chain, or the server's alert about ours. */
function certificateFault(error: unknown): NsmError | undefined {
  // What the system says names the host, which may be called anything.
  if (!(error instanceof Error) || 'syscall' in error) return undefined
  const code = 'code' in error ? String(error.code) : error.message
  if (!/CERT|SELF_SIGNED|UNABLE_TO|_ALERT_/.test(`${code} ${error.message}`.toUpperCase())) return undefined
  const next = 'check that both sides belong to the same trust domain'
  return new NsmError('IDENTITY', `the TLS handshake was refused: ${error.message}`, next, { cause: error })
}

function notAccepted(where: string): NsmError {
  const message = `${where} ends each connection after the handshake: it does not accept this identity`
  return new NsmError('IDENTITY', message, 'ask for a new join string: `nsm invite` on the server')
}
