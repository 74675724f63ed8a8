import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import { type Client, type ClientDuplexStream, type ClientReadableStream, Metadata } from '@grpc/grpc-js'
import { addressText } from '../base/address-text.ts'
import { systemClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import type { Answer, CallSettings, Target } from './call-settings.ts'
import { fromGrpcError, noConnection } from './grpc-errors.ts'
import { type DuplexMethod, methodDefinition, type StreamMethod, type UnaryMethod } from './service-definition.ts'
import { status } from './status-code.ts'

/** What a call needs of its line. */
export interface CallLine {
  readonly client: Client
  /** The server of the last handshake. */
  server(): PeerIdentity | undefined
  /** Why the last handshake failed for good; grpc-js repeats it by itself, and calls meanwhile hear of no connection only. */
  refused(): NsmError | undefined
  /** Calls the listener when no call on this line can succeed: one side does not believe the other, or the line is closed. */
  onRefused(listener: (error: NsmError) => void): () => void
  /** The server has answered a call: it accepts our identity, and only many connections without an answer say otherwise. */
  answered(): void
}

/** [NSM cmd-nsc] Default deadline of a call: NSM's programs take what is left of it off the lease. */
const callTimeoutMs = 15_000

/** A call with one answer. */
export function callUnary<I extends DescMessage, O extends DescMessage>(
  line: CallLine,
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
        if (error) return reject(explain(error, line, { ...call, timeoutMs }))
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

/** A call with a stream of answers. */
export async function* callStream<I extends DescMessage, O extends DescMessage>(
  line: CallLine,
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

/** A call with streams both ways. */
export async function* callDuplex<I extends DescMessage, O extends DescMessage>(
  line: CallLine,
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
  line: CallLine,
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
    throw failure ? failure.reason : explain(error, line, call)
  } finally {
    stop()
    started.cancel()
  }
}

/** Calls `fail` when the signal is aborted or the line turns out to be useless; the result ends that. */
function whenItMustEnd(line: CallLine, signal: AbortSignal | undefined, fail: (reason: unknown) => void): () => void {
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

/** Names the server in what grpc-js says of silence, or why there is no connection; every other failure keeps its own text. */
function explain(
  error: unknown,
  line: Pick<CallLine, 'refused'>,
  call: { readonly target: Target; readonly timeoutMs?: number },
): NsmError {
  const known = fromGrpcError(error)
  if (known.code !== 'UNREACHABLE') return known
  const refused = line.refused()
  if (refused && known.message.startsWith(noConnection)) return refused
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
