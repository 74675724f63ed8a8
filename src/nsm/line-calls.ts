import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { PeerIdentity } from '../identity/verify.ts'
import { AnswerQueue } from './answer-queue.ts'
import { type CallEnd, deadlineOver, unreadableAnswer, unsent, wrongCount } from './call-end.ts'
import type { CallSettings } from './call-settings.ts'
import { type CallListener, ClientCall, type Question } from './client-call.ts'
import type { Dialer } from './dialer.ts'
import { fromCallEnd, systemText } from './grpc-errors.ts'
import type { CallHeaders } from './grpc-headers.ts'
import { frameMessage } from './grpc-message.ts'
import { type DuplexMethod, decode, encode, pathOf, type StreamMethod, type UnaryMethod } from './service-definition.ts'
import { status } from './status-code.ts'

/** What a call needs of its line. */
export interface CallLine {
  readonly dialer: Dialer
  /** The server, for people. */
  readonly where: string
  /** Why the last handshake failed for good: it is repeated, and calls meanwhile would hear of no connection only. */
  refused(): NsmError | undefined
  /** Calls the listener when no call on this line can succeed: one side does not believe the other, or the line is closed. */
  onRefused(listener: (error: NsmError) => void): () => void
  /** The server has answered a call: it accepts our identity, and only many connections without an answer say otherwise. */
  answered(): void
}

/** The one answer to a request. */
export interface Received<T> {
  readonly message: T
  /** The last text value of a key of the response header. */
  header(key: string): string | undefined
  /** The server of the connection that carried the call, where TLS has shown one. */
  readonly server: PeerIdentity | undefined
}

/** A call with one answer; without settings it has a deadline, and waits for the server until then. */
export function callUnary<I extends DescMessage, O extends DescMessage>(
  line: CallLine,
  call: {
    readonly method: UnaryMethod<I, O>
    readonly request: MessageInitShape<I>
    readonly settings: CallSettings
  },
): Promise<Received<MessageShape<O>>> {
  const { method, settings } = call
  const timeoutMs = settings.timeoutMs ?? callTimeoutMs
  const request = framed(method.input, call.request)
  return new Promise((resolve, reject) => {
    if (settings.signal?.aborted) return reject(settings.signal.reason)
    let header: CallHeaders | undefined
    let bytes: Buffer | undefined
    const question = {
      path: pathOf(method),
      metadata: settings.metadata,
      request,
      timeoutMs,
      wait: settings.wait ?? true,
    }
    const started = new ClientCall(line.dialer, question, {
      onHeader(received) {
        header = received
        line.answered()
      },
      onMessage(message) {
        if (bytes) started.end(wrongCount)
        bytes = Buffer.from(message)
        return true
      },
      onEnd(end) {
        stop()
        const found = end.code === status.OK ? readOne(method.output, bytes) : end
        if ('code' in found) return reject(explain(found, line, timeoutMs))
        resolve({ message: found.message, header: (key) => header?.last(key), server: started.server })
      },
    })
    const stop = whenItMustEnd(line, settings.signal, (reason) => {
      stop()
      started.cancel()
      reject(reason)
    })
    line.dialer.start(started)
  })
}

/** [NSM cmd-nsc] Default deadline of a call: NSM's programs take what is left of it off the lease. */
const callTimeoutMs = 15_000

/** A message that cannot be encoded is a defect of ours. */
function framed<I extends DescMessage>(input: I, request: MessageInitShape<I>): Buffer {
  try {
    return frameMessage(encode(input, request))
  } catch (error) {
    throw toNsmError(error)
  }
}

function readOne<O extends DescMessage>(
  output: O,
  bytes: Buffer | undefined,
): { readonly message: MessageShape<O> } | CallEnd {
  try {
    return bytes ? { message: decode(output, bytes) } : wrongCount
  } catch {
    return unreadableAnswer
  }
}

/** A call with a stream of answers. */
export async function* callStream<I extends DescMessage, O extends DescMessage>(
  line: CallLine,
  call: {
    readonly method: StreamMethod<I, O>
    readonly request: MessageInitShape<I>
    readonly settings: CallSettings
  },
): AsyncGenerator<MessageShape<O>, void> {
  const request = framed(call.method.input, call.request)
  yield* answers(line, call, (question, listener) => new ClientCall(line.dialer, { ...question, request }, listener))
}

/** A call with streams both ways; requests are asked for once there is a connection. */
export async function* callDuplex<I extends DescMessage, O extends DescMessage>(
  line: CallLine,
  call: {
    readonly method: DuplexMethod<I, O>
    readonly requests: AsyncIterable<MessageInitShape<I>>
    readonly settings: CallSettings
  },
): AsyncGenerator<MessageShape<O>, void> {
  const requests = call.requests[Symbol.asyncIterator]()
  try {
    yield* answers(line, call, (question, listener) => {
      const send = async () => {
        for (let next = await requests.next(); !next.done && !started.isOver; next = await requests.next()) {
          await started.send(framed(call.method.input, next.value))
        }
        started.finish()
      }
      const onBegin = () => void send().catch(() => started.end(unsent))
      const started = new ClientCall(line.dialer, question, { ...listener, onBegin })
      return started
    })
  } finally {
    // Whoever makes the requests hears that no more are wanted; it may never give the one it was asked for.
    leave(requests)
  }
}

function leave(requests: AsyncIterator<unknown>): void {
  const left = async () => void (await requests.return?.())
  left().catch(() => {})
}

async function* answers<O extends DescMessage>(
  line: CallLine,
  { method, settings }: { readonly method: Answering<O>; readonly settings: CallSettings },
  create: (question: Question, listener: CallListener) => ClientCall,
): AsyncGenerator<MessageShape<O>, void> {
  settings.signal?.throwIfAborted()
  const queue = new AnswerQueue<{ readonly status: CallEnd } | { readonly reason: unknown }>()
  const question = { path: pathOf(method), metadata: settings.metadata, wait: settings.wait ?? false }
  const started = create(question, {
    onHeader: () => line.answered(),
    onMessage: (message) => queue.push(Buffer.from(message)),
    onEnd: (end) => queue.end({ status: end }),
  })
  const stop = whenItMustEnd(line, settings.signal, (reason) => {
    queue.cut({ reason })
    started.cancel()
  })
  line.dialer.start(started)
  try {
    for (;;) {
      const next = await queue.next()
      if (!Buffer.isBuffer(next)) return failUnlessOk(line, next.end)
      const found = readOne(method.output, next)
      if ('code' in found) throw explain(found, line)
      yield found.message
      if (queue.hasRoom) started.resume()
    }
  } finally {
    stop()
    started.cancel()
  }
}

interface Answering<O extends DescMessage> extends Pick<UnaryMethod, 'name' | 'parent'> {
  readonly output: O
}

function failUnlessOk(line: CallLine, end: { readonly status: CallEnd } | { readonly reason: unknown }): void {
  if ('reason' in end) throw end.reason
  if (end.status.code !== status.OK) throw explain(end.status, line)
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

/** Names the server in what is said of silence, or why there is no connection; every other failure keeps its own text. */
function explain(end: CallEnd, line: CallLine, timeoutMs?: number): NsmError {
  const known = fromCallEnd(end)
  if (known.code !== 'UNREACHABLE') return known
  const { where } = line
  if (end.unconnected) {
    const { error } = end.unconnected
    const text = `nothing answers at ${where}: ${systemText(error)}`
    return line.refused() ?? new NsmError('UNREACHABLE', text, known.next, { cause: error })
  }
  const isLate = timeoutMs !== undefined && end === deadlineOver
  const text = isLate ? `no answer from ${where} within ${timeoutMs / 1_000} s` : `${where}: ${known.message}`
  return new NsmError('UNREACHABLE', text, known.next, { cause: end })
}
