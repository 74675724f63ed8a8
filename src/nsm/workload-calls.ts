import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import { type Client, Metadata, type ServiceError } from '@grpc/grpc-js'
import { systemClock } from '../base/clock.ts'
import { printable } from '../base/printable.ts'
import { methodDefinition, type StreamMethod, type UnaryMethod } from './service-definition.ts'
import { status } from './status-code.ts'
import { securityHeader } from './workload-header.ts'

/* Calls of a Workload API. They reject with what grpc-js says, or the reason of the signal; whoever asks knows what it means. */

/** The answers of one stream, until the signal. */
export async function* followAgent<I extends DescMessage, O extends DescMessage>(
  client: Client,
  asked: { readonly method: StreamMethod<I, O>; readonly request: MessageInitShape<I> },
  signal: AbortSignal,
): AsyncGenerator<MessageShape<O>, void> {
  signal.throwIfAborted()
  const { path, requestSerialize, responseDeserialize } = methodDefinition(asked.method)
  const stream = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, asked.request, guarded())
  const cancel = () => stream.cancel()
  /** A cancelled call ends with an error event that nobody may be waiting for. */
  stream.on('error', () => {})
  signal.addEventListener('abort', cancel, { once: true })
  try {
    for await (const message of stream) yield message
  } finally {
    signal.removeEventListener('abort', cancel)
    stream.cancel()
  }
}

/** The one answer to a request. */
export function askAgent<I extends DescMessage, O extends DescMessage>(
  client: Client,
  asked: { readonly method: UnaryMethod<I, O>; readonly request: MessageInitShape<I> },
  signal: AbortSignal,
): Promise<MessageShape<O>> {
  const { path, requestSerialize, responseDeserialize } = methodDefinition(asked.method)
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const call = client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      asked.request,
      guarded(),
      /** grpc-js counts by the real clock. */
      { deadline: systemClock.wallMs() + askTimeoutMs },
      (error: ServiceError | null, answer?: MessageShape<O>) => {
        signal.removeEventListener('abort', cancel)
        if (answer) resolve(answer)
        else reject(error)
      },
    )
    const cancel = () => call.cancel()
    signal.addEventListener('abort', cancel, { once: true })
  })
}

/** The status of a failed call. */
export function codeOf(error: unknown): status {
  return isStatus(error) ? error.code : status.UNKNOWN
}

/** What the agent said of a failed call. */
export function detailsOf(error: unknown): string {
  return isStatus(error) ? printable(error.details) : 'no answer'
}

function isStatus(value: unknown): value is Pick<ServiceError, 'code' | 'details'> {
  return typeof value === 'object' && value !== null && 'code' in value && 'details' in value
}

/** Ours: an agent signs a token in milliseconds, its server somewhere else in a second. */
const askTimeoutMs = 10_000

function guarded(): Metadata {
  const metadata = new Metadata()
  metadata.set(securityHeader, 'true')
  return metadata
}
