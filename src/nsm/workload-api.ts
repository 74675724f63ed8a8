import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js'
import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import { type ErrorCode, NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { IdentitySource } from '../identity/source.ts'
import { followWorkload, parseEndpointSocket, type WatchWorkload } from '../identity/workload-api.ts'
import type { WorkloadChoice, WorkloadUpdate } from '../identity/workload-state.ts'
import { SpiffeWorkloadAPI, type X509SVIDResponse } from './generated/workload_pb.js'
import { messageMaxBytes } from './limits.ts'
import { methodDefinition } from './service-definition.ts'

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
}): Promise<IdentitySource> {
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

function watchOf(client: Client): WatchWorkload {
  const { path, requestSerialize, responseDeserialize } = methodDefinition(SpiffeWorkloadAPI.method.fetchX509SVID)
  return async function* watch(signal) {
    const metadata = new Metadata()
    metadata.set(securityHeader, 'true')
    const stream = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, {}, metadata)
    const cancel = () => stream.cancel()
    /** A cancelled call ends with an error event that nobody may be waiting for. */
    stream.on('error', () => {})
    signal.addEventListener('abort', cancel, { once: true })
    try {
      for await (const message of stream) yield updateOf(message)
    } catch (error) {
      throw failureOf(error)
    } finally {
      signal.removeEventListener('abort', cancel)
      stream.cancel()
    }
  }
}

/** Agents refuse calls without it: a web page that was made to send a request cannot set it [SPIFFE Workload Endpoint 6]. */
const securityHeader = 'workload.spiffe.io'

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

function codeOf(error: unknown): status {
  const isStatus = (value: unknown): value is Pick<ServiceError, 'code'> =>
    typeof value === 'object' && value !== null && 'code' in value && typeof value.code === 'number'
  return isStatus(error) ? error.code : status.UNKNOWN
}
