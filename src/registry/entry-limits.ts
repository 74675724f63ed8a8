import { type DescMessage, type MessageShape, toBinary } from '@bufbuild/protobuf'
import { NsmError } from '../base/errors.ts'
import {
  type NetworkService,
  type NetworkServiceEndpoint,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../nsm/generated/registry_pb.js'
import { checkLabelCount } from '../nsm/limits.ts'

/** [RFC 1035 2.3.4] Bytes of a name: services and endpoints become DNS names. */
const nameMaxBytes = 253
/** Ours: services that one endpoint may offer. */
const offeredMax = 64
/** Ours: bytes of a url; a host name and a port have 265. */
const urlMaxBytes = 512
/** Ours: bytes of a stored entry. With 1,024 services and as many endpoints an identity may fill 32 MiB. */
const entryMaxBytes = 16 * 1024

/** Refuses a service that is larger than any honest one; throws `REFUSED` naming the limit. */
export function checkServiceSize(service: NetworkService): void {
  check('bytes of a name', bytesOf(service.name), nameMaxBytes)
  checkEncoded(NetworkServiceSchema, service)
}

/** Refuses an endpoint that is larger than any honest one; throws `REFUSED` naming the limit. */
export function checkEndpointSize(endpoint: NetworkServiceEndpoint): void {
  const { name, networkServiceNames: offered } = endpoint
  checkEndpointCounts(endpoint)
  for (const one of [name, ...offered]) check('bytes of a name', bytesOf(one), nameMaxBytes)
  check('bytes of a url', bytesOf(endpoint.url), urlMaxBytes)
  checkEncoded(NetworkServiceEndpointSchema, endpoint)
}

/** Refuses an endpoint, or a query for one, of more parts than any honest one: each is looked for. Throws `REFUSED`. */
export function checkEndpointCounts({
  networkServiceNames,
  networkServiceLabels,
}: Pick<NetworkServiceEndpoint, 'networkServiceNames' | 'networkServiceLabels'>): void {
  check('service names', networkServiceNames.length, offeredMax)
  const labelled = Object.values(networkServiceLabels)
  check('labelled services', labelled.length, offeredMax)
  checkLabelCount(labelled.reduce((sum, { labels }) => sum + Object.keys(labels).length, 0))
}

function checkEncoded<T extends DescMessage>(schema: T, message: MessageShape<T>): void {
  check('bytes of an entry', toBinary(schema, message).length, entryMaxBytes)
}

function bytesOf(text: string): number {
  return Buffer.byteLength(text)
}

function check(what: string, count: number, max: number): void {
  if (count > max) throw new NsmError('REFUSED', `${count} ${what}, at most ${max} are allowed`, `send fewer ${what}`)
}
