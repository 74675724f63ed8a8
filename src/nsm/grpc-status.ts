import { percentEncode } from './grpc-headers.ts'
import type { MessageFault } from './grpc-message.ts'
import { status } from './status-code.ts'

/** What a server ends a call with. */
export interface GrpcStatus {
  readonly code: status
  readonly details: string
  /** Further trailers. */
  readonly trailers: Readonly<Record<string, string>>
}

/** The trailers of a call that ends with this status. */
export function trailersOf({ code, details, trailers }: GrpcStatus): Record<string, string | number> {
  return { 'grpc-status': code, 'grpc-message': percentEncode(details), ...trailers }
}

/* The statuses that do not come from a handler. */

/** The deadline of the call has passed. */
export const deadlinePassed = plain(status.DEADLINE_EXCEEDED, 'the deadline of the call has passed')
/** The caller ended its half before its message was whole, or before there was one. */
export const cutInMessage = plain(status.INTERNAL, 'the request ends before its message is whole')
/** A method with one request got two. */
export const secondRequest = plain(status.INTERNAL, 'this method takes one request')
/** The bytes of a message are not those of its type. */
export const malformedMessage = plain(status.INTERNAL, 'the request cannot be read')
/** `grpc-timeout` is not in its format. */
export const malformedTimeout = plain(status.INTERNAL, 'the value of grpc-timeout cannot be read')
/** The server ends. */
export const serverStopping = plain(status.UNAVAILABLE, 'the server is stopping')

const readFaults: Readonly<Record<MessageFault, GrpcStatus>> = {
  'too-large': plain(status.RESOURCE_EXHAUSTED, 'the request is larger than this server reads'),
  compressed: plain(status.UNIMPLEMENTED, 'this server reads no compressed messages'),
}

/** The status for what a message reader stopped at. */
export function readFault(fault: MessageFault): GrpcStatus {
  return readFaults[fault]
}

/** Nobody here has this method. */
export function unknownMethod(path: string): GrpcStatus {
  return plain(status.UNIMPLEMENTED, `unknown method ${path.slice(0, pathMaxCharacters)}`)
}

/** Ours: as much of an unknown path is said back. */
const pathMaxCharacters = 128

function plain(code: status, details: string): GrpcStatus {
  return { code, details, trailers: {} }
}
