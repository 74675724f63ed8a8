import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import {
  Metadata,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type sendUnaryData,
  type UntypedHandleCall,
} from '@grpc/grpc-js'
import { NsmError } from '../base/errors.ts'
import { toGrpcStatus } from './grpc-errors.ts'
import type { OwnHop, PeerContext } from './peer.ts'
import { type DuplexMethod, methodDefinition, type StreamMethod, type UnaryMethod } from './service-definition.ts'

/** One call as a handler sees it; the caller may be anonymous. */
export interface Call {
  /** What TLS verified; undefined for a connection without a client certificate. */
  readonly peer: PeerContext | undefined
  readonly own: OwnHop
  /** The caller's IP address. */
  readonly address: string
  /** Aborted when the caller goes away or cancels. */
  readonly signal: AbortSignal
  /** What is left of the call's deadline, 0 without one, in milliseconds. */
  remainingMs(nowMs: number): number
  /** The last text value of a metadata key. */
  metadata(key: string): string | undefined
  /** Sends a key in the response header; before the first answer only. */
  setHeader(key: string, value: string): void
}

/** A call of a peer that TLS verified. */
export interface PeerCall extends Call {
  readonly peer: PeerContext
}

/** What the server knows about the connection of a call. */
export interface CallOrigin {
  readonly peer: PeerContext | undefined
  readonly own: OwnHop
  readonly address: string
  /** To be called when an open call has its answer. */
  readonly onAnswered?: () => void
}

/** Finds the origin of a call; throws the `NsmError` that refuses it. */
export type OriginOf = (call: ServerCall) => CallOrigin

/** The part of grpc-js's server calls that does not depend on the message. */
export type ServerCall = Pick<
  ServerUnaryCall<unknown, unknown>,
  'getPeer' | 'getDeadline' | 'metadata' | 'sendMetadata'
> & { on(event: 'cancelled', listener: () => void): unknown }

/** One method of one service, ready for a server. */
export interface MethodBinding {
  readonly service: string
  readonly name: string
  readonly definition: ServiceDefinition[string]
  readonly implement: (origins: { readonly open: OriginOf; readonly verified: VerifiedOriginOf }) => UntypedHandleCall
}

/** As `OriginOf`, and throws `IDENTITY` for an anonymous caller. */
export type VerifiedOriginOf = (call: ServerCall) => CallOrigin & { readonly peer: PeerContext }

/** Binds a unary method for verified peers. */
export function unary<I extends DescMessage, O extends DescMessage>(
  method: UnaryMethod<I, O>,
  handler: (request: MessageShape<I>, call: PeerCall) => Promise<MessageInitShape<O>>,
): MethodBinding {
  return bindUnary(method, ({ verified }) => (request, call) => {
    const origin = verified(call)
    return handler(request, { ...callOf(call, origin), peer: origin.peer })
  })
}

/** Binds a unary method that answers anonymous callers too. */
export function openUnary<I extends DescMessage, O extends DescMessage>(
  method: UnaryMethod<I, O>,
  handler: (request: MessageShape<I>, call: Call) => Promise<MessageInitShape<O>>,
): MethodBinding {
  return bindUnary(method, ({ open }) => async (request, call) => {
    const origin = open(call)
    try {
      return await handler(request, callOf(call, origin))
    } finally {
      origin.onAnswered?.()
    }
  })
}

/** Binds a method with a stream of answers for verified peers; the stream ends when the iterable does. */
export function serverStream<I extends DescMessage, O extends DescMessage>(
  method: StreamMethod<I, O>,
  handler: (request: MessageShape<I>, call: PeerCall) => AsyncIterable<MessageInitShape<O>>,
): MethodBinding {
  return {
    service: method.parent.typeName,
    name: method.name,
    definition: methodDefinition(method),
    implement: ({ verified }) => {
      return (stream: ServerWritableStream<MessageShape<I>, MessageInitShape<O>>) =>
        answerAll(stream, verified, (call) => handler(stream.request, call))
    },
  }
}

/** Binds a method with streams both ways for verified peers; the answers end when the iterable does. */
export function duplexStream<I extends DescMessage, O extends DescMessage>(
  method: DuplexMethod<I, O>,
  handler: (requests: AsyncIterable<MessageShape<I>>, call: PeerCall) => AsyncIterable<MessageInitShape<O>>,
): MethodBinding {
  return {
    service: method.parent.typeName,
    name: method.name,
    definition: methodDefinition(method),
    implement: ({ verified }) => {
      return (stream: ServerDuplexStream<MessageShape<I>, MessageInitShape<O>>) =>
        // A handler that stops reading, as one that refuses does, still has its status to send.
        answerAll(stream, verified, (call) => handler(stream.iterator({ destroyOnReturn: false }), call))
    },
  }
}

type Origins = Parameters<MethodBinding['implement']>[0]

async function answerAll<I, O>(
  stream: ServerWritableStream<I, O> | ServerDuplexStream<I, O>,
  verified: Origins['verified'],
  answers: (call: PeerCall) => AsyncIterable<O>,
): Promise<void> {
  try {
    const origin = verified(stream)
    const call = { ...callOf(stream, origin), peer: origin.peer }
    for await (const message of answers(call)) await write(stream, message, call.signal)
    if (!stream.destroyed) stream.end()
  } catch (error) {
    // grpc-js ends a stream for each of its errors, and ending a destroyed one is an error: it would never stop.
    if (!stream.destroyed) stream.emit('error', toGrpcStatus(error))
  }
}

function bindUnary<I extends DescMessage, O extends DescMessage>(
  method: UnaryMethod<I, O>,
  answerWith: (origins: Origins) => (request: MessageShape<I>, call: ServerCall) => Promise<MessageInitShape<O>>,
): MethodBinding {
  return {
    service: method.parent.typeName,
    name: method.name,
    definition: methodDefinition(method),
    implement: (origins) => {
      const answer = answerWith(origins)
      return async (
        call: ServerUnaryCall<MessageShape<I>, MessageInitShape<O>>,
        respond: sendUnaryData<MessageInitShape<O>>,
      ) => {
        try {
          respond(null, await answer(call.request, call))
        } catch (error) {
          respond(toGrpcStatus(error))
        }
      }
    },
  }
}

/** One for all calls: grpc-js ends most of them with "cancelled", and the default reason takes a stack trace each time. */
const callerGone = new NsmError('UNREACHABLE', 'the caller went away', 'call again')

function callOf(call: ServerCall, origin: CallOrigin): Call {
  const gone = new AbortController()
  call.on('cancelled', () => gone.abort(callerGone))
  return {
    ...origin,
    signal: gone.signal,
    remainingMs: (nowMs) => remainingOf(call.getDeadline(), nowMs),
    metadata: (key) => lastText(call.metadata, key),
    setHeader(key, value) {
      const header = new Metadata()
      header.set(key, value)
      call.sendMetadata(header)
    },
  }
}

function remainingOf(deadline: Date | number, nowMs: number): number {
  const endMs = typeof deadline === 'number' ? deadline : deadline.getTime()
  return Number.isFinite(endMs) ? Math.max(0, endMs - nowMs) : 0
}

/** The last value of a key, as NSM's programs read it; binary values do not count. */
export function lastText(metadata: Metadata, key: string): string | undefined {
  const value = metadata.get(key).at(-1)
  return typeof value === 'string' ? value : undefined
}

/** One message at a time: a reader that does not read stops its own stream, not our memory. */
function write<T>(
  stream: {
    write(message: T): boolean
    on(event: 'drain', listener: () => void): unknown
    off(event: 'drain', listener: () => void): unknown
  },
  message: T,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted || stream.write(message)) return resolve()
    const go = () => {
      stream.off('drain', go)
      signal.removeEventListener('abort', go)
      resolve()
    }
    stream.on('drain', go)
    signal.addEventListener('abort', go, { once: true })
  })
}
