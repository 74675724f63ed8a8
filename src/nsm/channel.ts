import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import { type ClientDuplexStream, type ClientReadableStream, Metadata, status } from '@grpc/grpc-js'
import { addressText } from '../base/address-text.ts'
import { type Clock, systemClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { IdentitySource, TrustBundles } from '../identity/source.ts'
import { createClientSecurity } from '../identity/tls-client.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import { fromGrpcError, noConnection } from './grpc-errors.ts'
import { createLine, type Line, type Target } from './line.ts'
import { type DuplexMethod, methodDefinition, type StreamMethod, type UnaryMethod } from './service-definition.ts'

/* A channel is one server and one identity. Below it are lines, each one grpc-js client with one SVID: servers check hop
 * tokens with the certificate of the TLS connection, so a new SVID means a new line. Calls that are open finish on theirs.
 *
 * The clients are generic ones, without methods made from a service: such a client of NetworkService would have its
 * Close call where grpc-js has `close()`, and could not be closed any more. */

/** Settings of one call. */
export interface CallSettings {
  readonly signal?: AbortSignal
  /** From now, connecting included; servers take what is left of it off a lease, so keep it near the default. */
  readonly timeoutMs?: number
  readonly metadata?: Readonly<Record<string, string>>
  /** False: fail as soon as the server cannot be reached, not at the deadline. */
  readonly wait?: boolean
}

/** The answer of a unary call. */
export interface Answer<T> {
  readonly message: T
  /** The last text value of a key of the response header. */
  header(key: string): string | undefined
  /** The server of the connection that carried the call. */
  readonly server: PeerIdentity
}

/** Calls to one server. Every call throws `NsmError` only, or the reason of its signal. */
export interface Channel {
  readonly clock: Clock
  /** The SPIFFE ID the next call presents; undefined for an anonymous channel. */
  ownId(): string | undefined
  unary<I extends DescMessage, O extends DescMessage>(
    method: UnaryMethod<I, O>,
    request: MessageInitShape<I>,
    settings?: CallSettings,
  ): Promise<Answer<MessageShape<O>>>
  /** Has no deadline; leaving the loop cancels the call. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: StreamMethod<I, O>,
    request: MessageInitShape<I>,
    settings?: CallSettings,
  ): AsyncGenerator<MessageShape<O>, void>
  /** As `stream`, with requests that are sent as the iterable gives them; its end ends our half only. */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: DuplexMethod<I, O>,
    requests: AsyncIterable<MessageInitShape<I>>,
    settings?: CallSettings,
  ): AsyncGenerator<MessageShape<O>, void>
  /** Makes a new connection for the next call; calls under way stay on theirs. */
  redial(): void
  /** Ends every call; calling it again does nothing more. */
  close(): void
}

export type { Target } from './line.ts'

/** [NSM cmd-nsc] Default deadline of a call: NSM's programs take what is left of it off the lease. */
const callTimeoutMs = 15_000

/** A channel with mutual TLS and hop tokens on each call; it dials at the first call and anew when the SVID changes. */
export function openChannel(settings: {
  readonly target: Target
  readonly source: IdentitySource
  readonly clock: Clock
  readonly expect?: (spiffeId: string) => boolean
  /** The longest life of the tokens of its calls. */
  readonly tokenLifetimeMs?: number | undefined
}): Channel {
  const { target, source, clock, expect, tokenLifetimeMs } = settings
  const secure = () => createClientSecurity({ as: { source }, clock, ...(expect ? { expect } : {}) })
  const lines = createLines(() => createLine({ target, clock, tokenLifetimeMs, security: secure() }))
  const stopFollowing = source.onChange(() => lines.renew())
  return createChannel(lines, {
    target,
    clock,
    ownId: () => source.current().svid.spiffeId,
    onClose: stopFollowing,
  })
}

/** A channel without an identity: only the methods that are open to everybody answer it. */
export function openAnonymousChannel(settings: {
  readonly target: Target
  readonly bundles: TrustBundles
  readonly clock: Clock
}): Channel {
  const { target, bundles, clock } = settings
  const lines = createLines(() =>
    createLine({ target, clock, security: createClientSecurity({ as: { bundles }, clock }) }),
  )
  return createChannel(lines, { target, clock, ownId: () => undefined, onClose() {} })
}

/** The lines of one channel: the one for new calls, and older ones until their last call ends. */
interface Lines {
  /** Borrows the line for one call. */
  take(): Line
  give(line: Line): void
  renew(): void
  close(): void
}

function createLines(open: () => Line): Lines {
  const calls = new Map<Line, number>()
  let current: Line | undefined
  let closed = false
  const closeIfIdle = (line: Line) => {
    if (line === current || calls.get(line) !== 0) return
    calls.delete(line)
    line.close()
  }
  return {
    take() {
      if (closed) throw new NsmError('UNREACHABLE', 'the channel is closed', 'open a new one')
      current ??= open()
      calls.set(current, (calls.get(current) ?? 0) + 1)
      return current
    },
    give(line) {
      if (!calls.has(line)) return
      calls.set(line, (calls.get(line) ?? 1) - 1)
      closeIfIdle(line)
    },
    renew() {
      const old = current
      current = undefined
      if (old) closeIfIdle(old)
    },
    close() {
      closed = true
      for (const line of calls.keys()) line.close()
      calls.clear()
      current = undefined
    },
  }
}

interface ChannelParts {
  readonly target: Target
  readonly clock: Clock
  readonly ownId: () => string | undefined
  readonly onClose: () => void
}

function createChannel(lines: Lines, parts: ChannelParts): Channel {
  const borrowed = async <T>(use: (line: Line) => Promise<T>): Promise<T> => {
    const line = lines.take()
    try {
      return await use(line)
    } finally {
      lines.give(line)
    }
  }
  return {
    clock: parts.clock,
    ownId: parts.ownId,
    unary: (method, request, settings = {}) =>
      borrowed((line) => callUnary(line, { method, request, settings, target: parts.target })),
    async *stream(method, request, settings = {}) {
      const line = lines.take()
      try {
        yield* callStream(line, { method, request, settings, target: parts.target })
      } finally {
        lines.give(line)
      }
    },
    async *duplex(method, requests, settings = {}) {
      const line = lines.take()
      try {
        yield* callDuplex(line, { method, requests, settings, target: parts.target })
      } finally {
        lines.give(line)
      }
    },
    redial: () => lines.renew(),
    close() {
      parts.onClose()
      lines.close()
    },
  }
}

function callUnary<I extends DescMessage, O extends DescMessage>(
  line: Line,
  call: {
    readonly method: UnaryMethod<I, O>
    readonly request: MessageInitShape<I>
    readonly settings: CallSettings
    readonly target: Target
  },
): Promise<Answer<MessageShape<O>>> {
  const { settings } = call
  const codec = methodDefinition(call.method)
  const timeoutMs = settings.timeoutMs ?? callTimeoutMs
  return new Promise((resolve, reject) => {
    if (settings.signal?.aborted) return reject(settings.signal.reason)
    let header = new Metadata()
    let failure: { readonly reason: unknown } | undefined
    const started = line.client.makeUnaryRequest(
      codec.path,
      codec.requestSerialize,
      codec.responseDeserialize,
      call.request,
      metadataOf(settings, true),
      /** grpc-js counts by the real clock, whatever ours says. */
      { deadline: systemClock.wallMs() + timeoutMs },
      (error, message) => {
        stop()
        const server = line.server()
        if (failure) return reject(failure.reason)
        if (error) return reject(explain(error, { ...call, timeoutMs }))
        if (message === undefined || !server) return reject(noAnswer(call.target))
        resolve({ message, header: (key) => lastText(header, key), server })
      },
    )
    const fail = (reason: unknown) => {
      failure ??= { reason }
      started.cancel()
    }
    const stop = whenItMustEnd(line, settings.signal, fail)
    started.on('metadata', (received: Metadata) => {
      header = received
      line.answered()
    })
  })
}

async function* callStream<I extends DescMessage, O extends DescMessage>(
  line: Line,
  call: {
    readonly method: StreamMethod<I, O>
    readonly request: MessageInitShape<I>
    readonly settings: CallSettings
    readonly target: Target
  },
): AsyncGenerator<MessageShape<O>, void> {
  call.settings.signal?.throwIfAborted()
  const codec = methodDefinition(call.method)
  const started: ClientReadableStream<MessageShape<O>> = line.client.makeServerStreamRequest(
    codec.path,
    codec.requestSerialize,
    codec.responseDeserialize,
    call.request,
    metadataOf(call.settings, false),
  )
  yield* readAnswers(line, started, call)
}

async function* callDuplex<I extends DescMessage, O extends DescMessage>(
  line: Line,
  call: {
    readonly method: DuplexMethod<I, O>
    readonly requests: AsyncIterable<MessageInitShape<I>>
    readonly settings: CallSettings
    readonly target: Target
  },
): AsyncGenerator<MessageShape<O>, void> {
  call.settings.signal?.throwIfAborted()
  const codec = methodDefinition(call.method)
  const started: ClientDuplexStream<MessageInitShape<I>, MessageShape<O>> = line.client.makeBidiStreamRequest(
    codec.path,
    codec.requestSerialize,
    codec.responseDeserialize,
    metadataOf(call.settings, false),
  )
  const send = async () => {
    for await (const request of call.requests) started.write(request)
    started.end()
  }
  void send().catch(() => started.cancel())
  yield* readAnswers(line, started, call)
}

async function* readAnswers<T>(
  line: Line,
  started: ClientReadableStream<T>,
  call: { readonly settings: CallSettings; readonly target: Target },
): AsyncGenerator<T, void> {
  const { signal } = call.settings
  let failure: { readonly reason: unknown } | undefined
  /** A cancelled call ends with an error event that nobody may be waiting for. */
  started.on('error', () => {})
  started.on('metadata', () => line.answered())
  const stop = whenItMustEnd(line, signal, (reason) => {
    failure ??= { reason }
    started.cancel()
  })
  try {
    for await (const message of started) yield message
    if (failure) throw failure.reason
  } catch (error) {
    throw failure ? failure.reason : explain(error, call)
  } finally {
    stop()
    started.cancel()
  }
}

/** Calls `fail` when the signal is aborted or the line turns out to be useless; the result ends that. */
function whenItMustEnd(line: Line, signal: AbortSignal | undefined, fail: (reason: unknown) => void): () => void {
  const onAbort = () => fail(signal?.reason)
  signal?.addEventListener('abort', onAbort, { once: true })
  const forget = line.onRefused(fail)
  return () => {
    signal?.removeEventListener('abort', onAbort)
    forget()
  }
}

function metadataOf(settings: CallSettings, waitByDefault: boolean): Metadata {
  const metadata = new Metadata({ waitForReady: settings.wait ?? waitByDefault })
  for (const [key, value] of Object.entries(settings.metadata ?? {})) metadata.set(key, value)
  return metadata
}

/** Names the server in what grpc-js says of silence; every other failure keeps its own text. */
function explain(error: unknown, call: { readonly target: Target; readonly timeoutMs?: number }): NsmError {
  const known = fromGrpcError(error)
  if (known.code !== 'UNREACHABLE') return known
  const where = addressText(call.target)
  const text = isDeadline(known.cause)
    ? `no answer from ${where} within ${(call.timeoutMs ?? 0) / 1000} s`
    : `${where}: ${known.message}`.replace(`${where}: ${noConnection}: `, `nothing answers at ${where}: `)
  return new NsmError('UNREACHABLE', text, known.next, { cause: error })
}

function noAnswer(target: Target): NsmError {
  return new NsmError('UNREACHABLE', `${addressText(target)} answered nothing`, 'try again')
}

/** The last value of a key, as NSM's programs read it; binary values do not count. */
function lastText(metadata: Metadata, key: string): string | undefined {
  const value = metadata.get(key).at(-1)
  return typeof value === 'string' ? value : undefined
}

function isDeadline(cause: unknown): boolean {
  return cause instanceof Error && 'code' in cause && cause.code === status.DEADLINE_EXCEEDED
}
