import { Client, credentials } from '@grpc/grpc-js'
import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import { type ErrorCode, NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { followWorkload, parseEndpointSocket, type WatchWorkload } from '../identity/workload-api.ts'
import type { WorkloadChoice, WorkloadUpdate } from '../identity/workload-state.ts'
import { SpiffeWorkloadAPI, type X509SVIDResponse } from './generated/workload_pb.js'
import { messageMaxBytes } from './limits.ts'
import { status } from './status-code.ts'
import { codeOf, followAgent } from './workload-calls.ts'
import { createJwtSource, type TokenSource } from './workload-jwt.ts'

/**
 * The identity that a SPIFFE agent of this machine gives, kept up to date. Resolves with the first one; throws `IDENTITY`
 * when none comes within 30 s, and `USAGE` for an address that is none or a socket that is no Workload API.
 */
export async function openWorkloadApi(settings: {
  /** As in `SPIFFE_ENDPOINT_SOCKET`. */
  readonly socket: string
  readonly choice?: WorkloadChoice
  readonly clock: Clock
  readonly log: Log
  readonly signal?: AbortSignal
}): Promise<TokenSource> {
  const { socket, ...rest } = settings
  const client = new Client(targetOf(socket), credentials.createInsecure(), {
    'grpc.max_receive_message_length': messageMaxBytes,
    'grpc.default_authority': 'localhost',
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_channelz': 0,
    'grpc.service_config_disable_resolution': 1,
    'grpc.initial_reconnect_backoff_ms': 200,
    'grpc.max_reconnect_backoff_ms': 1_000,
  })
  const source = await followWorkload({ ...rest, watch: watchOf(client) }).catch((error) => {
    client.close()
    throw error
  })
  return {
    ...source,
    jwt: createJwtSource(client),
    async close() {
      await source.close()
      client.close()
    },
  }
}

function targetOf(socket: string): string {
  const found = parseEndpointSocket(socket)
  return 'path' in found ? `unix://${found.path}` : addressText(found)
}

const everySvid = { method: SpiffeWorkloadAPI.method.fetchX509SVID, request: {} }

function watchOf(client: Client): WatchWorkload {
  return async function* watch(signal) {
    try {
      for await (const message of followAgent(client, everySvid, signal)) yield updateOf(message)
    } catch (error) {
      throw failureOf(error)
    }
  }
}

function updateOf({ svids, federatedBundles }: X509SVIDResponse): WorkloadUpdate {
  return {
    svids: svids.map(({ spiffeId, x509Svid, x509SvidKey, bundle, hint }) => {
      return { spiffeId, chain: x509Svid, privateKey: x509SvidKey, bundle, hint }
    }),
    federatedBundles,
  }
}

/** Asking again helps, except where the other side does not understand the question. */
function failureOf(error: unknown): NsmError {
  const [code, text, next] = explanations[codeOf(error)] ?? silent
  return new NsmError(code, text, next, { cause: error })
}

type Explanation = readonly [code: ErrorCode, text: string, next: string]

const silent: Explanation = ['UNREACHABLE', 'the agent does not answer', 'check that the SPIFFE agent runs']
const noWorkloadApi: Explanation = [
  'USAGE',
  'what answers at this address is no SPIFFE Workload API',
  'set SPIFFE_ENDPOINT_SOCKET to the socket of the agent',
]
const explanations: Readonly<Partial<Record<status, Explanation>>> = {
  [status.INVALID_ARGUMENT]: noWorkloadApi,
  [status.UNIMPLEMENTED]: noWorkloadApi,
  [status.PERMISSION_DENIED]: [
    'IDENTITY',
    'the agent has no identity for this workload: is it registered?',
    'register the workload with the SPIFFE server',
  ],
}
