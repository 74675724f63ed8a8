import { ChannelCredentials, Client, credentials, Metadata } from '@grpc/grpc-js'
import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { ClientSecurity } from '../identity/tls-client.ts'
import { signToken } from '../identity/token.ts'
import type { Target } from './call-settings.ts'
import { messageMaxBytes } from './limits.ts'
import type { CallLine } from './line-calls.ts'
import { tokenLifetimeMs as defaultLifetimeMs, tokenExpiresMetadataKey, tokenMetadataKey } from './peer.ts'

/** One grpc-js client with one SVID; it dials by itself, and again when a connection is lost. */
export interface Line extends CallLine {
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
  const { target, security } = settings
  const listeners = new Set<(error: NsmError) => void>()
  const tell = (error: NsmError) => {
    for (const listener of [...listeners]) listener(error)
  }
  let unanswered = 0
  let refused: NsmError | undefined
  const watched = new WatchedCredentials(security, {
    connected() {
      refused = undefined
      unanswered++
      if (unanswered > unansweredMax) tell(notAccepted(target))
    },
    failed(error) {
      refused = security.refusal() ?? certificateFault(error)
      if (refused) tell(refused)
    },
  })
  const client = new Client(
    addressText(target),
    security.svid ? watched.compose(hopTokens(security, settings)) : watched,
    clientOptions(security),
  )
  return {
    client,
    server: () => security.serverIdentity(),
    refused: () => refused,
    onRefused(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    answered() {
      unanswered = unansweredMax - unansweredAgainMax
    },
    /** grpc-js lets calls under way go on, streams for ever. */
    close() {
      tell(new NsmError('UNREACHABLE', `the channel to ${addressText(target)} is closed`, 'open a new one'))
      client.close()
    },
  }
}

/**
 * Ours: TLS 1.3 lets a client finish its handshake before the server has judged it, so a refusal looks like a lost
 * connection. After this many in a row without any answer it is one.
 */
const unansweredMax = 3
/** Ours: as many after an answer, some seconds: the server did accept us, and may have ceased to. */
const unansweredAgainMax = 6

/** Keepalive stays above 5 minutes: grpc-go servers answer more frequent pings with GOAWAY. Times in milliseconds. */
function clientOptions(security: ClientSecurity) {
  return {
    'grpc.ssl_target_name_override': security.serverName,
    'grpc.default_authority': security.serverName,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_channelz': 0,
    // Else a variable of the caller's shell would say through whom a call goes.
    'grpc.enable_http_proxy': 0,
    'grpc.enable_retries': 0,
    'grpc.service_config_disable_resolution': 1,
    'grpc.max_receive_message_length': messageMaxBytes,
    'grpc.initial_reconnect_backoff_ms': 200,
    'grpc.max_reconnect_backoff_ms': 5_000,
    'grpc.keepalive_time_ms': 310_000,
    'grpc.keepalive_timeout_ms': 20_000,
  }
}

/** Both metadata keys on every call; made after the handshake, when the audience is known. [NSM sdk token/creds.go] */
function hopTokens(
  security: ClientSecurity,
  {
    clock,
    tokenLifetimeMs = defaultLifetimeMs,
  }: { readonly clock: Clock; readonly tokenLifetimeMs?: number | undefined },
) {
  return credentials.createFromMetadataGenerator((_call, done) => {
    const { svid } = security
    const server = security.serverIdentity()
    if (!svid || !server) return done(notConnected())
    const expiresMs = Math.min(clock.wallMs() + tokenLifetimeMs, svid.notAfterMs, server.notAfterMs)
    const metadata = new Metadata()
    metadata.set(tokenMetadataKey, signToken({ svid, audience: server.spiffeId, expiresMs }))
    metadata.set(tokenExpiresMetadataKey, new Date(expiresMs).toISOString())
    done(null, metadata)
  })
}

type CreateConnector = ChannelCredentials['_createSecureConnector']

/** The TLS credentials of grpc-js, with a word about each handshake that it keeps to itself otherwise. */
class WatchedCredentials extends ChannelCredentials {
  readonly #inner: ChannelCredentials
  readonly #seen: { connected(): void; failed(error: unknown): void }

  constructor(security: ClientSecurity, seen: { connected(): void; failed(error: unknown): void }) {
    super()
    this.#inner = ChannelCredentials.createFromSecureContext(security.secureContext, security.verifyOptions)
    this.#seen = seen
  }

  override _isSecure(): boolean {
    return true
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other
  }

  override _createSecureConnector(...parameters: Parameters<CreateConnector>): ReturnType<CreateConnector> {
    const connector = this.#inner._createSecureConnector(...parameters)
    return {
      connect: async (socket) => {
        try {
          const connected = await connector.connect(socket)
          this.#seen.connected()
          return connected
        } catch (error) {
          this.#seen.failed(error)
          throw error
        }
      },
      waitForReady: () => connector.waitForReady(),
      getCallCredentials: () => connector.getCallCredentials(),
      destroy: () => connector.destroy(),
    }
  }
}

/** OpenSSL's verdict on the server's chain, or the server's alert about ours. */
function certificateFault(error: unknown): NsmError | undefined {
  if (!(error instanceof Error)) return undefined
  const code = 'code' in error ? String(error.code) : error.message
  if (!/CERT|SELF_SIGNED|UNABLE_TO|_ALERT_/.test(`${code} ${error.message}`.toUpperCase())) return undefined
  const next = 'check that both sides belong to the same trust domain'
  return new NsmError('IDENTITY', `the TLS handshake was refused: ${error.message}`, next, { cause: error })
}

function notAccepted(target: Target): NsmError {
  const message = `${addressText(target)} ends each connection after the handshake: it does not accept this identity`
  return new NsmError('IDENTITY', message, 'ask for a new join string: `nsm invite` on the server')
}

function notConnected(): NsmError {
  return new NsmError('UNREACHABLE', 'no verified connection to sign a token for', 'try again')
}
