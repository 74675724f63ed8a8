import {
  createRegistry,
  type DescMessage,
  fromBinary,
  type JsonValue,
  type Message,
  toBinary,
  toJson,
} from '@bufbuild/protobuf'
import { EmptySchema, file_google_protobuf_empty } from '@bufbuild/protobuf/wkt'
import type { Svid } from '../../src/identity/source.ts'
import { decodeToken, signToken } from '../../src/identity/token.ts'
import {
  type Connection,
  ConnectionEventSchema,
  ConnectionSchema,
  file_connection,
} from '../../src/nsm/generated/connection_pb.js'
import { file_networkservice } from '../../src/nsm/generated/networkservice_pb.js'
import {
  file_registry,
  type NetworkServiceEndpoint,
  NetworkServiceEndpointResponseSchema,
  NetworkServiceEndpointSchema,
} from '../../src/nsm/generated/registry_pb.js'
import type { RecordedMessage } from './recordings.ts'

const types = createRegistry(file_connection, file_networkservice, file_registry, file_google_protobuf_empty)

/** The schema of a recorded message, by its full name. */
export function schemaOf(type: string): DescMessage {
  return types.getMessage(type) ?? EmptySchema
}

/** A message as NSM's programs write it in JSON. */
export function jsonOf(schema: DescMessage, message: Message): JsonValue {
  return toJson(schema, message, { useProtoFieldName: true, registry: types })
}

/** Every field that a JSON document has, as a path; entries of lists and maps with free keys count as one. */
export function shapeOf(value: unknown): string[] {
  return [...new Set(pathsOf(value, ''))].sort()
}

const freeKeys =
  /\.(parameters|labels|connections|metrics|source_selector|destination_selector|network_service_labels)$/

function pathsOf(value: unknown, at: string): string[] {
  if (Array.isArray(value)) return value.flatMap((entry) => pathsOf(entry, `${at}[]`))
  if (typeof value !== 'object' || value === null) return [at]
  const isMap = freeKeys.test(at) && !at.endsWith('.parameters')
  return Object.entries(value).flatMap(([key, entry]) => pathsOf(entry, isMap ? `${at}.*` : `${at}.${key}`))
}

/** Who signs in place of the recorded programs, whose keys are not kept. */
export type Signers = (spiffeId: string) => Svid

/**
 * The bytes of a recorded message as they would be today: tokens with the same claims signed by `signers`, ends as far away as
 * they were. A message without tokens and ends keeps its bytes.
 */
export function asOfNow(message: RecordedMessage, recordedMs: number, signers: Signers): Uint8Array {
  const schema = schemaOf(message.type)
  const shiftSeconds = Math.floor((Date.now() - recordedMs) / 1_000)
  if (schema === ConnectionSchema) {
    return toBinary(ConnectionSchema, restamp(fromBinary(ConnectionSchema, message.wire), shiftSeconds, signers))
  }
  if (schema === ConnectionEventSchema) {
    const event = fromBinary(ConnectionEventSchema, message.wire)
    for (const connection of Object.values(event.connections)) restamp(connection, shiftSeconds, signers)
    return toBinary(ConnectionEventSchema, event)
  }
  if (schema === NetworkServiceEndpointSchema) {
    return toBinary(schema, later(fromBinary(NetworkServiceEndpointSchema, message.wire), shiftSeconds))
  }
  if (schema === NetworkServiceEndpointResponseSchema) {
    const response = fromBinary(NetworkServiceEndpointResponseSchema, message.wire)
    if (response.networkServiceEndpoint) later(response.networkServiceEndpoint, shiftSeconds)
    return toBinary(schema, response)
  }
  return message.wire
}

function restamp(connection: Connection, shiftSeconds: number, signers: Signers): Connection {
  for (const segment of connection.path?.pathSegments ?? []) {
    const { sub, aud, expMs } = decodeToken(segment.token)
    segment.token = signToken({ svid: signers(sub), audience: aud[0] ?? '', expiresMs: expMs + shiftSeconds * 1_000 })
    if (segment.expires) segment.expires.seconds += BigInt(shiftSeconds)
  }
  return connection
}

function later(endpoint: NetworkServiceEndpoint, shiftSeconds: number): NetworkServiceEndpoint {
  if (endpoint.expirationTime) endpoint.expirationTime.seconds += BigInt(shiftSeconds)
  return endpoint
}
