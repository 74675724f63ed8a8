import { type ErrorCode, NsmError, toNsmError } from '../base/errors.ts'
import { type CallEnd, codeTrailer } from './call-end.ts'
import type { GrpcStatus } from './grpc-status.ts'
import { status } from './status-code.ts'

/* The one place where gRPC status and our codes meet. Other NSM programs answer most failures with code Unknown and a
 * nested text, so their texts are recognised by fragment; our own servers also say our code in the trailers. */

/** The failure that a call ended with. */
export function fromCallEnd(end: CallEnd): NsmError {
  const text = printable(end.details)
  const found = knownTexts.find(({ fragment }) => text.includes(fragment))
  const code = knownCode(end.errorCode) ?? found?.code ?? statusCodes[end.code] ?? 'BUG'
  return new NsmError(code, text, found?.next ?? nextSteps[code], { cause: end })
}

/** The end of a call that got no connection, with what the system or TLS said of the last attempt. */
export function noConnection(error: unknown): CallEnd {
  return { code: status.UNAVAILABLE, details: `no connection: ${systemText(error)}`, unconnected: { error } }
}

/** Why there is no connection, in plain words. */
export function systemText(error: unknown): string {
  if (!(error instanceof Error)) return 'the connection was closed'
  const code = 'code' in error ? String(error.code) : ''
  return (Object.hasOwn(systemTexts, code) && systemTexts[code]) || printable(error.message) || code
}

const systemTexts: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'the connection was reset',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to the network',
  ETIMEDOUT: 'no answer',
  EPIPE: 'the connection was closed',
  ENOTFOUND: 'the name is not known',
  EAI_AGAIN: 'the name is not known',
  ENOENT: 'there is no such socket',
}

/** Turns a failure of a handler into a gRPC status; a defect of ours shows no inner text to the peer. */
export function toGrpcStatus(thrown: unknown): GrpcStatus {
  const error = toNsmError(thrown)
  const details = error.code === 'BUG' ? 'internal failure' : error.message
  return { code: statusOf(error), details: printable(details), trailers: { [codeTrailer]: error.code } }
}

function statusOf(error: NsmError): status {
  if (error.code === 'CONFLICT' && error.message.includes('exhausted')) return status.RESOURCE_EXHAUSTED
  if (error.code === 'REFUSED' && !error.message.includes(notPrivileged)) return status.FAILED_PRECONDITION
  return statuses[error.code]
}

/** [NSM sdk authorize] The text of every failed policy. */
export const notPrivileged = 'no sufficient privileges'

/** The refusal of a failed policy, in NSM's words; the policy's name follows them. */
export function policyRefusal(policy: string): NsmError {
  return new NsmError('REFUSED', `${notPrivileged}: ${policy}`, nextSteps.REFUSED)
}

const statuses: Readonly<Record<ErrorCode, status>> = {
  BUG: status.INTERNAL,
  USAGE: status.INVALID_ARGUMENT,
  NOT_READY: status.UNAVAILABLE,
  IDENTITY: status.UNAUTHENTICATED,
  REFUSED: status.PERMISSION_DENIED,
  NOT_FOUND: status.NOT_FOUND,
  UNREACHABLE: status.UNAVAILABLE,
  CONFLICT: status.ALREADY_EXISTS,
  PERMISSION: status.PERMISSION_DENIED,
  LOST: status.UNAVAILABLE,
}

const statusCodes: Readonly<Partial<Record<status, ErrorCode>>> = {
  [status.CANCELLED]: 'UNREACHABLE',
  [status.UNKNOWN]: 'REFUSED',
  [status.INVALID_ARGUMENT]: 'REFUSED',
  [status.DEADLINE_EXCEEDED]: 'UNREACHABLE',
  [status.NOT_FOUND]: 'NOT_FOUND',
  [status.ALREADY_EXISTS]: 'CONFLICT',
  [status.PERMISSION_DENIED]: 'REFUSED',
  [status.RESOURCE_EXHAUSTED]: 'CONFLICT',
  [status.FAILED_PRECONDITION]: 'REFUSED',
  [status.ABORTED]: 'UNREACHABLE',
  [status.OUT_OF_RANGE]: 'REFUSED',
  [status.UNIMPLEMENTED]: 'REFUSED',
  [status.INTERNAL]: 'UNREACHABLE',
  [status.UNAVAILABLE]: 'UNREACHABLE',
  [status.UNAUTHENTICATED]: 'IDENTITY',
}

const nextSteps: Readonly<Record<ErrorCode, string>> = {
  BUG: 'report it with the output of `nsm version --json`',
  USAGE: 'see `nsm connect --help`',
  NOT_READY: 'try again',
  IDENTITY: 'ask for a new join string: `nsm invite` on the server, then `nsm connect --join FILE`',
  REFUSED: 'ask whoever runs the manager',
  NOT_FOUND: '`nsm list` shows the services that can be requested',
  UNREACHABLE: 'check that the manager runs and that its TCP port can be reached',
  CONFLICT: 'free what is taken, or ask whoever runs the manager',
  PERMISSION: 'ask whoever runs the manager',
  LOST: 'try again',
}

const federateNext =
  'ask whoever runs the server to federate with that domain: both servers name the other one in their policy'
const notGrantedNext = 'ask whoever runs the server for a grant; `nsm whoami` shows the identity to name'

/** Texts of NSM's programs and of gRPC's, most telling first. [NSM sdk] */
const knownTexts: readonly { readonly fragment: string; readonly code: ErrorCode; readonly next: string }[] = [
  { fragment: `${notPrivileged}: NOT_GRANTED`, code: 'REFUSED', next: notGrantedNext },
  { fragment: 'and we do not trust each other', code: 'IDENTITY', next: federateNext },
  { fragment: notPrivileged, code: 'REFUSED', next: 'check the clocks of both machines and the identity in use' },
  { fragment: 'message larger than max', code: 'REFUSED', next: nextSteps.REFUSED },
  { fragment: 'is initializing', code: 'UNREACHABLE', next: 'the endpoint is starting; try again' },
  { fragment: 'network service endpoint candidates not found', code: 'NOT_FOUND', next: nextSteps.NOT_FOUND },
  { fragment: 'IPPool is empty', code: 'CONFLICT', next: 'give the service a larger prefix' },
  { fragment: 'is exhausted', code: 'CONFLICT', next: 'give the service a larger prefix' },
  { fragment: 'cannot support any of the requested mechanism', code: 'REFUSED', next: nextSteps.REFUSED },
  { fragment: 'unsupported mechanism', code: 'REFUSED', next: nextSteps.REFUSED },
  { fragment: 'no grpc.ClientConnInterface provided', code: 'REFUSED', next: 'name the endpoint' },
  { fragment: 'expiration for the previous path segment', code: 'REFUSED', next: nextSteps.REFUSED },
  { fragment: 'network service endpoint', code: 'NOT_FOUND', next: nextSteps.NOT_FOUND },
  { fragment: 'is not found', code: 'NOT_FOUND', next: nextSteps.NOT_FOUND },
  { fragment: 'all forwarders have failed', code: 'UNREACHABLE', next: 'try again' },
  { fragment: 'all candidates have failed', code: 'UNREACHABLE', next: 'try again' },
  { fragment: 'failed to select endpoint', code: 'UNREACHABLE', next: 'try again' },
  { fragment: 'is not available', code: 'UNREACHABLE', next: 'try again' },
]

function knownCode(said: string | undefined): ErrorCode | undefined {
  return said === 'BUG' ? undefined : codes.find((code) => code === said)
}

const codes: readonly ErrorCode[] = [
  'USAGE',
  'NOT_READY',
  'IDENTITY',
  'REFUSED',
  'NOT_FOUND',
  'UNREACHABLE',
  'CONFLICT',
  'PERMISSION',
  'LOST',
]

/** Ours: a peer's text in a message is cut here. */
const textMaxCharacters = 1_024

function printable(text: string): string {
  return text.slice(0, textMaxCharacters).replace(/[^\P{Cc}\n]/gu, '?')
}
