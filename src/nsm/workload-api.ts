import type { Clock } from '../base/clock.ts'
import { type ErrorCode, NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { followWorkload, type WatchWorkload } from '../identity/workload-api.ts'
import type { WorkloadChoice, WorkloadUpdate } from '../identity/workload-state.ts'
import { SpiffeWorkloadAPI, type X509SVIDResponse } from './generated/workload_pb.js'
import { type CallLine, callStream } from './line-calls.ts'
import { status } from './status-code.ts'
import { codeOf, createAgentLine } from './workload-calls.ts'
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
  const line = createAgentLine(socket, settings.clock)
  const source = await followWorkload({ ...rest, watch: watchOf(line) }).catch((error) => {
    line.close()
    throw error
  })
  return {
    ...source,
    jwt: createJwtSource(line),
    async close() {
      await source.close()
      line.close()
    },
  }
}

function watchOf(line: CallLine): WatchWorkload {
  return async function* watch(signal) {
    try {
      const call = { method: SpiffeWorkloadAPI.method.fetchX509SVID, request: {}, settings: { signal } }
      for await (const message of callStream(line, call)) yield updateOf(message)
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
