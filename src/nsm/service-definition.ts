import {
  create,
  type DescMessage,
  type DescMethod,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf'

/* Generated protobuf-es descriptors as grpc-js understands them: nothing else knows both. */

/** A method with one request and one answer. */
export interface UnaryMethod<I extends DescMessage = DescMessage, O extends DescMessage = DescMessage> {
  readonly name: string
  readonly parent: { readonly typeName: string }
  readonly methodKind: 'unary'
  readonly input: I
  readonly output: O
}

/** A method with one request and a stream of answers. */
export interface StreamMethod<I extends DescMessage = DescMessage, O extends DescMessage = DescMessage> {
  readonly name: string
  readonly parent: { readonly typeName: string }
  readonly methodKind: 'server_streaming'
  readonly input: I
  readonly output: O
}

/** A method with a stream of requests and a stream of answers. */
export interface DuplexMethod<I extends DescMessage = DescMessage, O extends DescMessage = DescMessage> {
  readonly name: string
  readonly parent: { readonly typeName: string }
  readonly methodKind: 'bidi_streaming'
  readonly input: I
  readonly output: O
}

/** Path and codecs of one method in the shape grpc-js takes on both sides; what is sent may leave fields out. */
export interface MethodCodec<I extends DescMessage, O extends DescMessage> {
  readonly path: string
  readonly originalName: string
  readonly requestStream: boolean
  readonly responseStream: boolean
  readonly requestSerialize: (message: MessageInitShape<I>) => Buffer
  readonly requestDeserialize: (bytes: Buffer) => MessageShape<I>
  readonly responseSerialize: (message: MessageInitShape<O>) => Buffer
  readonly responseDeserialize: (bytes: Buffer) => MessageShape<O>
}

/** The codec of one method. */
export function methodDefinition<I extends DescMessage, O extends DescMessage>(
  method: Pick<DescMethod, 'name' | 'methodKind'> & {
    readonly parent: { readonly typeName: string }
    readonly input: I
    readonly output: O
  },
): MethodCodec<I, O> {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    originalName: method.name,
    requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
    responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
    requestSerialize: (message) => Buffer.from(encode(method.input, message)),
    requestDeserialize: (bytes) => decode(method.input, bytes),
    responseSerialize: (message) => Buffer.from(encode(method.output, message)),
    responseDeserialize: (bytes) => decode(method.output, bytes),
  }
}

/** The bytes of a message, whose fields may be left out. */
export function encode<D extends DescMessage>(schema: D, message: MessageInitShape<D>): Uint8Array {
  return toBinary(schema, create(schema, message))
}

/** The message; throws what protobuf-es throws. It bounds the depth (100), both ends of a call the size (`messageMaxBytes`). */
export function decode<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  return fromBinary(schema, bytes)
}
