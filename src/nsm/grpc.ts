import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import { NsmError } from '../base/errors.ts'
import type { Call, PeerCall } from './call.ts'
import { EncodedAnswers } from './encoded-answers.ts'
import type { GrpcCall } from './grpc-call.ts'
import { frameMessage } from './grpc-message.ts'
import { malformedMessage, secondRequest } from './grpc-status.ts'
import { readRequests } from './read-requests.ts'
import { type DuplexMethod, decode, encode, type StreamMethod, type UnaryMethod } from './service-definition.ts'

export type { Call, PeerCall } from './call.ts'

/** One method of one service, ready for a server. */
export interface MethodBinding {
  readonly service: string
  readonly name: string
  /** True: its calls may last, and end with the server; false: they have one answer, which is waited for. */
  readonly lasting: boolean
  /** Reads and answers a call. Ends it itself, also when it fails. */
  readonly serve: (call: GrpcCall) => void
}

/** Methods by the path that a call names, `/package.Service/Method`. */
export function byPath(methods: readonly MethodBinding[]): ReadonlyMap<string, MethodBinding> {
  return new Map(methods.map((method) => [`/${method.service}/${method.name}`, method]))
}

/** Answers of a stream, one by one or all at once. */
export type Answers<O extends DescMessage> = AsyncIterable<MessageInitShape<O>> | EncodedAnswers

/** Binds a unary method for verified peers. */
export function unary<I extends DescMessage, O extends DescMessage>(
  method: UnaryMethod<I, O>,
  handler: (request: MessageShape<I>, call: PeerCall) => Promise<MessageInitShape<O>>,
): MethodBinding {
  return {
    ...named(method),
    lasting: false,
    serve(call) {
      if (!isVerified(call)) return call.fail(anonymous())
      readOne(method.input, call, (request) => void answerOne(method.output, call, () => handler(request, call)))
    },
  }
}

/** Binds a unary method that answers anonymous callers too. */
export function openUnary<I extends DescMessage, O extends DescMessage>(
  method: UnaryMethod<I, O>,
  handler: (request: MessageShape<I>, call: Call) => Promise<MessageInitShape<O>>,
): MethodBinding {
  return {
    ...named(method),
    lasting: false,
    serve(call) {
      readOne(method.input, call, async (request) => {
        const onAnswered = call.visit?.begin()
        await answerOne(method.output, call, () => handler(request, call))
        onAnswered?.()
      })
    },
  }
}

/** Binds a method with a stream of answers for verified peers; the stream ends when the answers do. */
export function serverStream<I extends DescMessage, O extends DescMessage>(
  method: StreamMethod<I, O>,
  handler: (request: MessageShape<I>, call: PeerCall) => Answers<O>,
): MethodBinding {
  return {
    ...named(method),
    lasting: true,
    serve(call) {
      if (!isVerified(call)) return call.fail(anonymous())
      readOne(method.input, call, (request) => void answerAll(method.output, call, () => handler(request, call)))
    },
  }
}

/** Binds a method with a stream of answers for callers whom no certificate names. */
export function openServerStream<I extends DescMessage, O extends DescMessage>(
  method: StreamMethod<I, O>,
  handler: (request: MessageShape<I>, call: Call) => Answers<O>,
): MethodBinding {
  return {
    ...named(method),
    lasting: true,
    serve(call) {
      readOne(method.input, call, (request) => void answerAll(method.output, call, () => handler(request, call)))
    },
  }
}

/** Binds a method with streams both ways for verified peers; the answers end when the iterable does. */
export function duplexStream<I extends DescMessage, O extends DescMessage>(
  method: DuplexMethod<I, O>,
  handler: (requests: AsyncIterable<MessageShape<I>>, call: PeerCall) => AsyncIterable<MessageInitShape<O>>,
): MethodBinding {
  return {
    ...named(method),
    lasting: true,
    serve(call) {
      if (!isVerified(call)) return call.fail(anonymous())
      const requests = readRequests(call, (bytes) => decodeOr(method.input, bytes, call))
      void answerAll(method.output, call, () => handler(requests, call))
    },
  }
}

function named(method: { readonly name: string; readonly parent: { readonly typeName: string } }) {
  return { service: method.parent.typeName, name: method.name }
}

function isVerified(call: GrpcCall): call is GrpcCall & PeerCall {
  return call.peer !== undefined
}

function anonymous(): NsmError {
  return new NsmError('IDENTITY', 'this call needs a client certificate', 'join with `nsm connect --join FILE`')
}

/**
 * Reads the one request of a call, and goes on when the caller has said that it was the last. Until then it stays bytes:
 * a message takes many times their place.
 */
function readOne<I extends DescMessage>(input: I, call: GrpcCall, go: (request: MessageShape<I>) => void): void {
  let bytes: Buffer | undefined
  let keptBytes = 0
  call.read({
    get keptBytes() {
      return keptBytes
    },
    onMessage(message) {
      if (bytes) call.end(secondRequest)
      else bytes = Buffer.from(message)
      keptBytes = bytes?.length ?? 0
      return true
    },
    onEnd() {
      const request = decodeOr(input, bytes, call)
      bytes = undefined
      if (request) go(request)
    },
  })
}

function decodeOr<I extends DescMessage>(
  input: I,
  bytes: Buffer | undefined,
  call: GrpcCall,
): MessageShape<I> | undefined {
  try {
    if (bytes) return decode(input, bytes)
  } catch {}
  call.end(malformedMessage)
  return undefined
}

async function answerOne<O extends DescMessage>(
  output: O,
  call: GrpcCall,
  handler: () => Promise<MessageInitShape<O>>,
): Promise<void> {
  try {
    const answer = await handler()
    if (!call.isOver) call.finish(frameMessage(encode(output, answer)))
  } catch (error) {
    call.fail(error)
  }
}

async function answerAll<O extends DescMessage>(output: O, call: GrpcCall, handler: () => Answers<O>): Promise<void> {
  try {
    const answers = handler()
    if (answers instanceof EncodedAnswers) return await sendEncoded(call, answers)
    for await (const answer of answers) {
      if (call.isOver) return
      await call.send(frameMessage(encode(output, answer)))
    }
    call.finish()
  } catch (error) {
    call.fail(error)
  }
}

/** Ours: a call whose caller does not read costs no more than this, and the usual answer leaves in one piece. */
const pieceMaxBytes = 64 * 1024

async function sendEncoded(call: GrpcCall, { frames }: EncodedAnswers): Promise<void> {
  let piece: Buffer[] = []
  let bytes = 0
  for (const frame of frames) {
    if (bytes > 0 && bytes + frame.length > pieceMaxBytes) {
      await call.send(Buffer.concat(piece, bytes))
      piece = []
      bytes = 0
    }
    piece.push(frame)
    bytes += frame.length
  }
  call.finish(bytes > 0 ? Buffer.concat(piece, bytes) : undefined)
}
