import { NsmError } from '../base/errors.ts'
import type { Connection, MonitorScopeSelector, Path } from './generated/connection_pb.js'
import type { IPContext } from './generated/connectioncontext_pb.js'
import type { NetworkServiceRequest } from './generated/networkservice_pb.js'

/** Ours: bytes of one answer; a list of a thousand connections stays below it. */
export const messageMaxBytes = 4 * 1024 * 1024
/**
 * Ours: bytes of one request; real ones have 2 KB, with the longest real path 64. Fields of two bytes take a hundred times
 * as much once they are read: 256 KiB take 43 MB for 0.1 s, 4 MiB would stop everything for 4 s.
 */
export const requestMaxBytes = 256 * 1024
/** Ours: bytes of a request on a call that lasts: it may be kept as long; 1,024 excluded prefixes stay below it. */
export const lastingRequestMaxBytes = 64 * 1024
/** Ours: bytes of a request without a certificate; a request for one has 5 KB, and 16 KiB of token at most. */
export const visitorRequestMaxBytes = 32 * 1024
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
/** Ours: name servers and domains of one connection together. */
const dnsEntriesMax = 1_024
/** Ours: entries of a context's extra map, or parameters of a mechanism. */
const parametersMax = 128
/** Ours: mechanisms a client may offer. */
const mechanismsMax = 16

/** Refuses a request that is larger than any honest one; throws `REFUSED` naming the limit. */
export function checkRequestLimits(request: NetworkServiceRequest): void {
  check('mechanism preferences', request.mechanismPreferences.length, mechanismsMax)
  for (const { parameters } of request.mechanismPreferences) checkParameters(parameters)
  if (request.connection) checkConnectionLimits(request.connection)
}

/** Refuses a connection that is larger than any honest one; throws `REFUSED` naming the limit. */
export function checkConnectionLimits(connection: Connection): void {
  checkPathLimits(connection.path)
  check('labels', Object.keys(connection.labels).length, labelsMax)
  checkParameters(connection.mechanism?.parameters ?? {})
  const { ipContext, dnsContext, extraContext = {} } = connection.context ?? {}
  checkParameters(extraContext)
  check('prefixes', ipContext ? prefixesOf(ipContext) : 0, prefixesMax)
  const configs = dnsContext?.configs ?? []
  check(
    'DNS entries',
    sum(configs, ({ dnsServerIps, searchDomains }) => dnsServerIps.length + searchDomains.length + 1),
    dnsEntriesMax,
  )
}

function prefixesOf(ip: IPContext): number {
  const lists = [ip.srcIpAddrs, ip.dstIpAddrs, ip.srcRoutes, ip.dstRoutes, ip.excludedPrefixes, ip.extraPrefixes]
  return (
    sum(lists, ({ length }) => length) + sum(ip.policies, ({ routes }) => routes.length + 1) + ip.ipNeighbors.length
  )
}

function sum<T>(list: readonly T[], count: (one: T) => number): number {
  return list.reduce((total, one) => total + count(one), 0)
}

function checkParameters(parameters: Readonly<Record<string, string>>): void {
  check('parameters', Object.keys(parameters).length, parametersMax)
}

/** Ours: services that one watch may name. */
const watchedServicesMax = 64

/** Refuses a selector that is larger than any honest one: a watch holds it for long. Throws `REFUSED` naming the limit. */
export function checkSelectorLimits(selector: MonitorScopeSelector): void {
  check('network services', selector.networkServices.length, watchedServicesMax)
  checkPathLimits(selector)
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
