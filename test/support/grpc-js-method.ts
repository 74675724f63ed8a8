import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import { decode, encode, pathOf } from '../../src/nsm/service-definition.ts'

/** Path and codecs of one method in the shape that grpc-js, a peer of the tests, takes on both sides. */
export function methodDefinition<I extends DescMessage, O extends DescMessage>(method: {
  readonly name: string
  readonly methodKind: 'unary' | 'server_streaming' | 'client_streaming' | 'bidi_streaming'
  readonly parent: { readonly typeName: string }
  readonly input: I
  readonly output: O
}) {
  return {
    path: pathOf(method),
    originalName: method.name,
    requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
    responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
    requestSerialize: (message: MessageInitShape<I>) => Buffer.from(encode(method.input, message)),
    requestDeserialize: (bytes: Buffer): MessageShape<I> => decode(method.input, bytes),
    responseSerialize: (message: MessageInitShape<O>) => Buffer.from(encode(method.output, message)),
    responseDeserialize: (bytes: Buffer): MessageShape<O> => decode(method.output, bytes),
  }
}
