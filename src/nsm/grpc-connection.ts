import type { Socket } from 'node:net'
import type { Clock } from '../base/clock.ts'
import { watchAge } from './connection-age.ts'
import { Deadlines } from './deadlines.ts'
import type { MethodBinding } from './grpc.ts'
import { type CallOrigin, GrpcCall, type HeldBytes, refuse } from './grpc-call.ts'
import { toGrpcStatus } from './grpc-errors.ts'
import { CallHeaders, isGrpcMediaType, parseTimeoutMs } from './grpc-headers.ts'
import { malformedTimeout, readFault, serverStopping, unknownMethod } from './grpc-status.ts'
import { ServerSession } from './http2/server-session.ts'
import type { ServerStream } from './http2/server-stream.ts'
import {
  lastingRequestMaxBytes,
  metadataMaxBytes,
  requestMaxBytes,
  streamsPerConnectionMax,
  visitorRequestMaxBytes,
} from './limits.ts'
import { feed, outputOf } from './session-socket.ts'

/** Everything a connection is served with. */
export interface ConnectionParts {
  /** By path, `/package.Service/Method`. */
  readonly methods: ReadonlyMap<string, MethodBinding>
  readonly origin: CallOrigin
  readonly clock: Clock
  /** True for a process of this machine that the kernel has named. */
  readonly isLocal?: boolean
  /** Wall milliseconds at which the caller's certificate ends. */
  readonly certificateEndMs?: number | undefined
}

/** A connection that is served. */
export interface GrpcConnection {
  /** Ends the streams, waits a moment for the calls that have one answer, and closes the connection. */
  stop(): Promise<void>
}

/** Ours: what is left to calls with one answer when the server stops; most take some milliseconds. */
const stopGraceMs = 1_000
/** Ours: headers and requests of one connection together: 40 KB for each of its calls, where real ones have 4. */
const heldMaxBytes = 4 * 1024 * 1024
/** Ours: as much for a caller without a certificate, who has one request. */
const visitorHeldMaxBytes = 128 * 1024

const limits = { streamsMax: streamsPerConnectionMax, headerListMaxBytes: metadataMaxBytes }

/** Serves the methods on a verified connection until it closes. */
export function serveConnection(socket: Socket, parts: ConnectionParts): GrpcConnection {
  const { clock, isLocal = false, certificateEndMs } = parts
  const calls = new Calls(parts)
  const { output, cancel: cancelFarewell } = outputOf(socket, clock)
  const session = new ServerSession({ ...output, onStream: (stream) => calls.take(stream) }, limits)
  const stopTimers = watchAge({ session, socket, clock, isLocal, certificateEndMs })
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => {
      stopTimers()
      cancelFarewell()
      session.lost()
      calls.close()
      resolve()
    })
  })
  feed(session, socket, clock)
  return {
    stop() {
      calls.endStreams()
      session.close()
      const cancel = clock.after(stopGraceMs, () => socket.destroy())
      return closed.finally(cancel)
    },
  }
}

/** The open calls of one connection. */
class Calls {
  readonly #parts: ConnectionParts
  readonly #open = new Map<GrpcCall, MethodBinding>()
  readonly #deadlines: Deadlines<GrpcCall>
  readonly #held: HeldBytes
  readonly #forget = (call: GrpcCall) => {
    this.#open.delete(call)
    this.#deadlines.remove(call)
  }

  constructor(parts: ConnectionParts) {
    this.#parts = parts
    this.#held = { used: 0, max: parts.origin.visit ? visitorHeldMaxBytes : heldMaxBytes }
    this.#deadlines = new Deadlines(parts.clock, (call) => call.expire())
  }

  take(stream: ServerStream): void {
    const headers = new CallHeaders(stream.fields)
    const httpStatus = httpFault(headers)
    if (httpStatus !== undefined) return void stream.respond({ ':status': httpStatus }, true)
    const path = headers.last(':path') ?? ''
    const method = this.#parts.methods.get(path)
    if (!method) return void refuse(stream, unknownMethod(path))
    const timeout = headers.last('grpc-timeout')
    const timeoutMs = timeout === undefined ? undefined : parseTimeoutMs(timeout)
    if (timeout !== undefined && timeoutMs === undefined) return void refuse(stream, malformedTimeout)
    this.#serve(stream, { headers, method, timeoutMs })
  }

  #serve(
    stream: ServerStream,
    asked: {
      readonly headers: CallHeaders
      readonly method: MethodBinding
      readonly timeoutMs: number | undefined
    },
  ): void {
    const { headers, method, timeoutMs } = asked
    const { origin, clock } = this.#parts
    if (this.#held.used + stream.headerBytes > this.#held.max) return void refuse(stream, readFault('too-large'))
    const known = peerOr(origin, headers)
    if ('refused' in known) return void refuse(stream, known.refused)
    const deadlineMs = timeoutMs === undefined ? undefined : clock.wallMs() + timeoutMs
    const { peer } = known
    const call = new GrpcCall(stream, {
      ...{ headers, origin, peer, deadlineMs },
      requestMaxBytes: requestMaxOf(method, origin),
      held: this.#held,
      onClose: this.#forget,
    })
    this.#open.set(call, method)
    if (timeoutMs !== undefined) this.#deadlines.add(call, timeoutMs)
    method.serve(call)
  }

  /** Ends the calls that last. */
  endStreams(): void {
    for (const [call, { lasting }] of this.#open) if (lasting) call.end(serverStopping)
  }

  close(): void {
    this.#deadlines.close()
  }
}

function requestMaxOf({ lasting }: MethodBinding, { visit }: CallOrigin): number {
  if (visit) return visitorRequestMaxBytes
  return lasting ? lastingRequestMaxBytes : requestMaxBytes
}

function peerOr(origin: CallOrigin, headers: CallHeaders) {
  try {
    return { peer: origin.peerOf(headers) }
  } catch (error) {
    return { refused: toGrpcStatus(error) }
  }
}

/** [RFC 9110 15.5] */
const methodNotAllowed = 405
const unsupportedMediaType = 415

/** The HTTP status for what is no gRPC call at all. */
function httpFault(headers: CallHeaders): number | undefined {
  if (headers.last(':method') !== 'POST') return methodNotAllowed
  return isGrpcMediaType(headers.last('content-type')) ? undefined : unsupportedMediaType
}
