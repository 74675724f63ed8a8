import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { type NsmError, toNsmError } from '../base/errors.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import type { Channel } from './channel.ts'
import {
  type Connection,
  type ConnectionEvent,
  MonitorConnection,
  type MonitorScopeSelector,
  type MonitorScopeSelectorSchema,
} from './generated/connection_pb.js'
import { ConnectionContextSchema } from './generated/connectioncontext_pb.js'
import { NetworkService, type NetworkServiceRequest } from './generated/networkservice_pb.js'
import { policyRefusal } from './grpc-errors.ts'
import { checkConnectionLimits } from './limits.ts'
import { failedClientPolicy, type Policy } from './policies.ts'

/** The calls of a Network Service Mesh client. */
export interface NsmClient {
  /**
   * Asks for a connection, or refreshes it: then `request` holds the whole last one. The answer's tokens are checked;
   * a first answer that fails is closed again. Throws `REFUSED`, `NOT_FOUND`, `UNREACHABLE`, `IDENTITY`, `CONFLICT`.
   */
  request(request: NetworkServiceRequest, signal?: AbortSignal): Promise<Connection>
  /** Closes by the whole last connection: with a shorter path the server would find nothing and say OK. */
  close(connection: Connection, signal?: AbortSignal): Promise<void>
  /** Events until the server or the signal ends the stream; throws when it breaks. */
  monitor(
    selector: MessageInitShape<typeof MonitorScopeSelectorSchema> | MonitorScopeSelector,
    signal?: AbortSignal,
  ): AsyncIterable<ConnectionEvent>
}

/** A client over one channel, whose owner closes it. */
export function createNsmClient(channel: Channel): NsmClient {
  const client: NsmClient = {
    async request(request, signal) {
      const { answer, wrong } = await ask(channel, request, signal)
      if (!wrong) return answer
      if (isFirst(request)) await client.close(answer, signal).catch(() => {})
      throw wrong.error
    },
    async close(connection, signal) {
      await channel.unary(NetworkService.method.close, connection, signal ? { signal } : {})
    },
    monitor: (selector, signal) =>
      channel.stream(MonitorConnection.method.monitorConnections, selector, signal ? { signal } : {}),
  }
  return client
}

/**
 * One request and the verdict on its answer. A server that rotated signs towards the next hop with its new key, while an
 * older connection still shows the old certificate: then the same request, which is idempotent, goes over a new connection.
 */
async function ask(channel: Channel, request: NetworkServiceRequest, signal: AbortSignal | undefined) {
  const first = await askOnce(channel, request, signal)
  if (first.wrong?.policy !== 'next_token_signed') return first
  channel.redial()
  return askOnce(channel, { ...request, connection: first.answer }, signal)
}

async function askOnce(channel: Channel, request: NetworkServiceRequest, signal: AbortSignal | undefined) {
  const settings = signal ? { signal } : {}
  const { message: answer, server } = await channel.unary(NetworkService.method.request, withContext(request), settings)
  return { answer, wrong: judge(answer, { server, nowMs: channel.clock.wallMs() }) }
}

/** What is wrong with an answer: it is too large, or a policy failed. */
function judge(
  answer: Connection,
  { server, nowMs }: { readonly server: PeerIdentity; readonly nowMs: number },
): { readonly error: NsmError; readonly policy?: Policy } | undefined {
  try {
    checkConnectionLimits(answer)
  } catch (error) {
    return { error: toNsmError(error) }
  }
  const policy = failedClientPolicy({
    segments: answer.path?.pathSegments ?? [],
    index: answer.path?.index ?? 0,
    peerCertificate: server.certificate,
    peerId: server.spiffeId,
    nowMs,
  })
  return policy && { policy, error: policyRefusal(`${policy} in the answer of ${server.spiffeId}`) }
}

/** Some endpoints do not survive a request without a context. [NSM sdk v1.15.0 vl3dns/server.go] */
function withContext(request: NetworkServiceRequest): NetworkServiceRequest {
  const { connection } = request
  if (!connection || connection.context) return request
  const context = create(ConnectionContextSchema, { ipContext: {}, dnsContext: {} })
  return { ...request, connection: { ...connection, context } }
}

function isFirst(request: NetworkServiceRequest): boolean {
  return (request.connection?.path?.pathSegments.length ?? 0) <= 1
}
