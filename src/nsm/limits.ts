import { NsmError } from '../base/errors.ts'
import type { Connection, Path } from './generated/connection_pb.js'
import type { NetworkServiceRequest } from './generated/networkservice_pb.js'

/** Ours: bytes of one message; a connection with every other limit used up stays below it. */
export const messageMaxBytes = 4 * 1024 * 1024
/** Ours: bytes of a call's metadata; a token and a registry path of 64 hops do not fit, real paths have 8. */
export const metadataMaxBytes = 32 * 1024
/** Ours: calls that one connection may have open. */
export const streamsPerConnectionMax = 100
/** Ours: an interdomain path has 8 segments. */
const pathSegmentsMax = 64
/** Ours: characters of a hop token; a real one has about 350. */
export const tokenMaxCharacters = 16 * 1024
/** Ours: labels of one connection or endpoint. */
const labelsMax = 128
/** Ours: prefixes, routes and addresses of one connection together. */
const prefixesMax = 1_024
/** Ours: mechanisms a client may offer. */
const mechanismsMax = 16

/** Refuses a request that is larger than any honest one; throws `REFUSED` naming the limit. */
export function checkRequestLimits(request: NetworkServiceRequest): void {
  check('mechanism preferences', request.mechanismPreferences.length, mechanismsMax)
  if (request.connection) checkConnectionLimits(request.connection)
}

/** Refuses a connection that is larger than any honest one; throws `REFUSED` naming the limit. */
export function checkConnectionLimits(connection: Connection): void {
  checkPathLimits(connection.path)
  check('labels', Object.keys(connection.labels).length, labelsMax)
  const ip = connection.context?.ipContext
  if (!ip) return
  const lists = [ip.srcIpAddrs, ip.dstIpAddrs, ip.srcRoutes, ip.dstRoutes, ip.excludedPrefixes, ip.extraPrefixes]
  const count = lists.reduce((sum, list) => sum + list.length, ip.policies.length + ip.ipNeighbors.length)
  check('prefixes', count, prefixesMax)
}

/** Refuses a path with too many segments or a token that is too long; throws `REFUSED`. */
export function checkPathLimits(path: Pick<Path, 'pathSegments'> | undefined): void {
  const segments = path?.pathSegments ?? []
  check('path segments', segments.length, pathSegmentsMax)
  for (const segment of segments) check('characters of a token', segment.token.length, tokenMaxCharacters)
}

/** Refuses a registry entry that is larger than any honest one; throws `REFUSED` naming the limit. */
export function checkLabelCount(count: number): void {
  check('labels', count, labelsMax)
}

function check(what: string, count: number, max: number): void {
  if (count > max) throw new NsmError('REFUSED', `${count} ${what}, at most ${max} are allowed`, `send fewer ${what}`)
}
