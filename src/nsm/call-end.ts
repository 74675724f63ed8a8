import { type CallHeaders, isGrpcMediaType, percentDecode } from './grpc-headers.ts'
import type { MessageFault } from './grpc-message.ts'
import { errorCodes } from './http2/frames.ts'
import type { StreamEnd } from './http2/stream.ts'
import { status } from './status-code.ts'

/** What ended a call, as its caller sees it. */
export interface CallEnd {
  readonly code: status
  readonly details: string
  /** Of a trailer of our own servers: the stable code of the failure. */
  readonly errorCode?: string | undefined
  /** There was no connection, and this is why. */
  readonly unconnected?: { readonly error: unknown }
}

/** Trailer of our own servers with the stable code. Only the code is taken: a server does not give advice to run. */
export const codeTrailer = 'nsm-error-code'

/** Our own deadline has passed. */
export const deadlineOver = end(status.DEADLINE_EXCEEDED, 'the deadline of the call has passed')
/** What arrived is no answer of gRPC. */
export const malformedAnswer = end(status.INTERNAL, 'the answer is not whole')
/** The bytes of a message are not those of its type. */
export const unreadableAnswer = end(status.INTERNAL, 'the answer cannot be read')
/** A method with one answer gave none, or two. */
export const wrongCount = end(status.INTERNAL, 'the answer of this method is one message')
/** The requests of a call could not be had. */
export const unsent = end(status.CANCELLED, 'the requests have ended with a failure')
/** The owner of the connection has ended it. */
export const closed = end(status.UNAVAILABLE, 'the channel is closed')

const faults: Readonly<Record<MessageFault, CallEnd>> = {
  'too-large': end(status.RESOURCE_EXHAUSTED, 'received message larger than max'),
  compressed: end(status.INTERNAL, 'the answer is compressed, which was not asked for'),
}

/** The end of a call whose messages cannot be read on. */
export function answerFault(fault: MessageFault): CallEnd {
  return faults[fault]
}

/** [grpc http-grpc-status-mapping] For an answer of something that is no gRPC server. */
const httpStatuses: Readonly<Record<string, status>> = {
  400: status.INTERNAL,
  401: status.UNAUTHENTICATED,
  403: status.PERMISSION_DENIED,
  404: status.UNIMPLEMENTED,
  429: status.UNAVAILABLE,
  502: status.UNAVAILABLE,
  503: status.UNAVAILABLE,
  504: status.UNAVAILABLE,
}

/** What is wrong with the header of an answer; a status of gRPC says more than one of HTTP. */
export function headerFault(header: CallHeaders, isLast: boolean): CallEnd | undefined {
  if (isLast && header.last('grpc-status') !== undefined) return undefined
  const http = header.last(':status') ?? ''
  if (http !== '200') return end(httpStatuses[http] ?? status.UNKNOWN, `answered with HTTP status ${http}`)
  const type = header.last('content-type')
  return isGrpcMediaType(type) ? undefined : end(status.UNKNOWN, `answered with content type ${type ?? 'none'}`)
}

/** The status that a server has ended a call with. */
export function endOfTrailers(trailers: CallHeaders | undefined): CallEnd {
  const text = trailers?.last('grpc-status')
  if (!trailers || text === undefined) return end(status.UNKNOWN, 'the server ended the call without a status')
  const code = Object.values(status).find((known) => String(known) === text) ?? status.UNKNOWN
  return { ...end(code, percentDecode(trailers.last('grpc-message') ?? '')), errorCode: trailers.last(codeTrailer) }
}

/** [gRPC PROTOCOL-HTTP2 "HTTP2 Transport Mapping"] */
const resetStatuses: Readonly<Record<number, status>> = {
  [errorCodes.refusedStream]: status.UNAVAILABLE,
  [errorCodes.cancel]: status.CANCELLED,
  [errorCodes.calm]: status.RESOURCE_EXHAUSTED,
  [errorCodes.inadequateSecurity]: status.PERMISSION_DENIED,
}

/** The end of a call whose stream ended without a status. */
export function endOfStream(streamEnd: StreamEnd): CallEnd {
  if (typeof streamEnd === 'object') {
    const { resetCode } = streamEnd
    return end(resetStatuses[resetCode] ?? status.INTERNAL, `the server has reset the call with code ${resetCode}`)
  }
  if (streamEnd === 'too-large') return end(status.RESOURCE_EXHAUSTED, 'received header larger than max')
  if (streamEnd === 'ours') return end(status.RESOURCE_EXHAUSTED, 'the server does not take what is sent')
  return end(status.UNAVAILABLE, 'the connection was lost')
}

function end(code: status, details: string): CallEnd {
  return { code, details }
}
