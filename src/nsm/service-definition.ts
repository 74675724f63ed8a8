import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf'

/* Methods and messages of generated protobuf-es descriptors. */

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

/** How a call names its method. [gRPC PROTOCOL-HTTP2] */
export function pathOf({ name, parent }: Pick<UnaryMethod, 'name' | 'parent'>): string {
  return `/${parent.typeName}/${name}`
}

/** The bytes of a message, whose fields may be left out. */
export function encode<D extends DescMessage>(schema: D, message: MessageInitShape<D>): Uint8Array {
  return toBinary(schema, create(schema, message))
}

/** The message; throws what protobuf-es throws. It bounds the depth (100), both ends of a call the size (`messageMaxBytes`). */
export function decode<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  return fromBinary(schema, bytes)
}
