import { type ErrorCode, NsmError } from '../base/errors.ts'
import type { IdentitySource } from '../identity/source.ts'
import {
  type JWTBundlesResponse,
  type JWTSVIDRequest,
  type JWTSVIDResponse,
  SpiffeWorkloadAPI,
  type ValidateJWTSVIDRequest,
  type ValidateJWTSVIDResponse,
} from './generated/workload_pb.js'
import { type CallLine, callStream, callUnary, type Received } from './line-calls.ts'
import { status } from './status-code.ts'
import { asking, codeOf, detailsOf } from './workload-calls.ts'

/** JWT-SVIDs of an authority that signs them [SPIFFE JWT-SVID]; fails with `USAGE`, `PERMISSION` or `UNREACHABLE`. */
export interface JwtSource {
  /** Tokens for an audience, of one identity. */
  fetch(request: Fields<JWTSVIDRequest>, signal: AbortSignal): Promise<JWTSVIDResponse>
  /** Whom a token names, and what it says. */
  validate(request: Fields<ValidateJWTSVIDRequest>, signal: AbortSignal): Promise<ValidateJWTSVIDResponse>
  /** The keys of each trust domain, at once and after each change. */
  bundles(signal: AbortSignal): AsyncIterable<JWTBundlesResponse>
}

type Fields<T> = Omit<T, '$typeName' | '$unknown'>

/** An identity whose authority may sign tokens too. */
export interface TokenSource extends IdentitySource {
  readonly jwt?: JwtSource | undefined
}

const { fetchJWTSVID, fetchJWTBundles, validateJWTSVID } = SpiffeWorkloadAPI.method

/** The JWT-SVIDs that a SPIFFE agent gives; nothing is kept here, each call is the agent's to answer. */
export function createJwtSource(line: CallLine): JwtSource {
  return {
    fetch: (request, signal) => ask(callUnary(line, { method: fetchJWTSVID, request, settings: asking(signal) })),
    validate: (request, signal) => ask(callUnary(line, { method: validateJWTSVID, request, settings: asking(signal) })),
    async *bundles(signal) {
      try {
        yield* callStream(line, { method: fetchJWTBundles, request: {}, settings: { signal } })
      } catch (error) {
        failed(error)
      }
    },
  }
}

async function ask<T>(answer: Promise<Received<T>>): Promise<T> {
  return (await answer.catch(failed)).message
}

/** Who asks hears the agent's own words. */
function failed(error: unknown): never {
  const code = codes[codeOf(error)] ?? 'UNREACHABLE'
  throw new NsmError(code, `the SPIFFE agent: ${detailsOf(error)}`, 'see the log of the agent', { cause: error })
}

const codes: Readonly<Partial<Record<status, ErrorCode>>> = {
  [status.INVALID_ARGUMENT]: 'USAGE',
  [status.UNIMPLEMENTED]: 'USAGE',
  [status.PERMISSION_DENIED]: 'PERMISSION',
}
