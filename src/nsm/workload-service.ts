import { isDeepStrictEqual } from 'node:util'
import { eachState } from '../base/each-state.ts'
import { NsmError } from '../base/errors.ts'
import type { IdentityState, TrustBundles } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import type { Call } from './call.ts'
import {
  type JWTSVIDRequest,
  SpiffeWorkloadAPI,
  type ValidateJWTSVIDRequest,
  type ValidateJWTSVIDResponse,
} from './generated/workload_pb.js'
import { type MethodBinding, openServerStream, openUnary } from './grpc.ts'
import type { GrpcStatus } from './grpc-status.ts'
import { status } from './status-code.ts'
import { concatenate, encodeBundles } from './svid-encoding.ts'
import { securityHeader } from './workload-header.ts'
import type { JwtSource } from './workload-jwt.ts'

/* The SPIFFE Workload API as a server: every message is the complete state, the first at once, the next after each change.
 * A caller that reads slowly skips states, it never gets them late: what is sent is looked up when there is room. */

/** An identity that applications may use. */
export interface ServedIdentity extends IdentityState {
  /** Where its authority signs tokens too. */
  readonly jwt?: JwtSource
}

/** What applications may use at the moment. */
export interface ServedIdentities {
  /** The first one is the default. */
  current(): readonly ServedIdentity[]
  /** Calls the listener after each change; the result ends that. */
  onChange(listener: () => void): () => void
}

const { fetchX509SVID, fetchX509Bundles, fetchJWTSVID, fetchJWTBundles, validateJWTSVID } = SpiffeWorkloadAPI.method

/** The methods of the Workload API [SPIFFE Workload API 5, 6]; who may call has been decided before. */
export function workloadService(identities: ServedIdentities): readonly MethodBinding[] {
  const x509 = [
    openServerStream(fetchX509SVID, (_, call) => eachMessage(identities, call, x509Svids)),
    openServerStream(fetchX509Bundles, (_, call) => eachMessage(identities, call, x509Bundles)),
  ]
  const agent = () => identities.current().find(({ jwt }) => jwt)?.jwt
  const jwt = [
    openUnary(fetchJWTSVID, (request, { signal }) => jwtSvids(identities.current(), request, signal)),
    openUnary(validateJWTSVID, (request, { signal }) => validated(identities.current(), request, signal)),
    openServerStream(fetchJWTBundles, (_, { signal }) => keysOf(identities, agent() ?? notEntitled(), signal)),
  ]
  return [...x509, ...jwt.map((method) => ifSigned(method, () => agent() !== undefined))].map(withHeader)
}

/** A SPIFFE agent tells of every change, also of identities that are not used here: the same message is sent once. */
function eachMessage<T>(
  identities: ServedIdentities,
  { signal }: Call,
  messageOf: (states: readonly ServedIdentity[]) => T,
) {
  const current = () => {
    const states = identities.current()
    return states.length > 0 ? messageOf(states) : notEntitled()
  }
  const onChange = (listener: () => void) => identities.onChange(listener)
  return eachState({ current, onChange, isSame: isDeepStrictEqual }, signal)
}

/** The keys that an agent tells, for as long as an identity of it is served. */
async function* keysOf(identities: ServedIdentities, agent: JwtSource, signal: AbortSignal) {
  const left = new AbortController()
  const stop = identities.onChange(() => {
    if (!identities.current().some(({ jwt }) => jwt === agent)) left.abort(agentLeft())
  })
  try {
    yield* agent.bundles(AbortSignal.any([signal, left.signal]))
  } finally {
    stop()
  }
}

function x509Svids(states: readonly ServedIdentity[]) {
  const own = new Set(states.map(domainOf))
  return {
    svids: states.map((state) => ({
      spiffeId: state.svid.spiffeId,
      x509Svid: concatenate(state.svid.chain),
      x509SvidKey: new Uint8Array(state.svid.privateKey.export({ type: 'pkcs8', format: 'der' })),
      bundle: concatenate(state.bundles.get(domainOf(state)) ?? []),
    })),
    federatedBundles: byDomainId(new Map([...bundlesOf(states)].filter(([domain]) => !own.has(domain)))),
  }
}

function x509Bundles(states: readonly ServedIdentity[]) {
  return { bundles: byDomainId(bundlesOf(states)) }
}

/** Of each agent only the identity that is served here: it may have more for this process. */
async function jwtSvids(states: readonly ServedIdentity[], asked: JWTSVIDRequest, signal: AbortSignal) {
  const { audience, spiffeId } = asked
  if (audience.length === 0) throw new NsmError('USAGE', 'no audience is named', 'name whom the token is for')
  const wanted = states.filter(({ svid }) => spiffeId === '' || svid.spiffeId === spiffeId)
  const given = await Promise.all(
    wanted.flatMap(({ jwt, svid }) => jwt?.fetch({ audience, spiffeId: svid.spiffeId }, signal) ?? []),
  )
  return given.length > 0 ? { svids: given.flatMap(({ svids }) => svids) } : notEntitled()
}

/** Several authorities may be served: a token is good when one of them believes it. */
async function validated(
  states: readonly ServedIdentity[],
  asked: ValidateJWTSVIDRequest,
  signal: AbortSignal,
): Promise<ValidateJWTSVIDResponse> {
  const [first = notEntitled(), ...others] = states.flatMap(({ jwt }) => jwt ?? [])
  return others.reduce(
    (answer, jwt) => answer.catch((why) => jwt.validate(asked, signal).catch(() => Promise.reject(why))),
    first.validate(asked, signal),
  )
}

/** What the identity of a domain says of its own domain counts before what others say of it. */
function bundlesOf(states: readonly ServedIdentity[]): TrustBundles {
  const others = [...states].reverse().flatMap(({ bundles }) => [...bundles])
  const own = states.flatMap((state) => {
    const roots = state.bundles.get(domainOf(state))
    return roots ? [[domainOf(state), roots] as const] : []
  })
  return new Map([...others, ...own])
}

function byDomainId(bundles: TrustBundles): Record<string, Uint8Array> {
  return encodeBundles(new Map([...bundles].map(([domain, roots]) => [`spiffe://${domain}`, roots])))
}

function domainOf({ svid }: IdentityState): string {
  return parseSpiffeId(svid.spiffeId).trustDomain
}

/** [SPIFFE Workload Endpoint 6] */
function withHeader(method: MethodBinding): MethodBinding {
  return {
    ...method,
    serve(call) {
      if (call.metadata(securityHeader) === 'true') method.serve(call)
      else call.end(withoutHeader)
    },
  }
}

/** [SPIFFE Workload API 6] A profile that is not supported is not implemented: clients do not ask again. */
function ifSigned(method: MethodBinding, isSigned: () => boolean): MethodBinding {
  return {
    ...method,
    serve(call) {
      if (isSigned()) method.serve(call)
      else call.end(noTokens)
    },
  }
}

const withoutHeader = refusalOf(status.INVALID_ARGUMENT, `the security header ${securityHeader}: true is missing`)
const noTokens = refusalOf(status.UNIMPLEMENTED, 'the authority of this identity signs no JWT-SVIDs')

function refusalOf(code: status, details: string): GrpcStatus {
  return { code, details, trailers: {} }
}

/** [SPIFFE Workload API 5.2.1] Clients ask again, with pauses. */
function notEntitled(): never {
  throw new NsmError('PERMISSION', 'no identity for this process', 'connect first: nsm connect SERVICE')
}

function agentLeft(): NsmError {
  return new NsmError('UNREACHABLE', 'the identity of these keys is not served any more', 'ask again')
}
