import { equals } from '@bufbuild/protobuf'
import {
  MatchSchema,
  type NetworkService,
  type NetworkServiceEndpoint,
  type NetworkServiceLabels,
} from '../nsm/generated/registry_pb.js'

type Labels = Readonly<Record<string, string>>

/** True when every set field of the query fits the service: exact name and payload, equal matches. [NSM sdk matchutils] */
export function matchesService(query: NetworkService, service: NetworkService): boolean {
  return (
    (query.name === '' || query.name === service.name) &&
    (query.payload === '' || query.payload === service.payload) &&
    (query.matches.length === 0 || sameMatches(query, service))
  )
}

/**
 * True when every set field of the query fits the endpoint: exact name, all named services, labels as a subset, the url
 * as a part, the same second of expiry. [NSM sdk matchutils]
 */
export function matchesEndpoint(query: NetworkServiceEndpoint, endpoint: NetworkServiceEndpoint): boolean {
  return (
    (query.name === '' || query.name === endpoint.name) &&
    query.networkServiceNames.every((name) => endpoint.networkServiceNames.includes(name)) &&
    Object.entries(query.networkServiceLabels).every(([service, labels]) => hasLabels(endpoint, service, labels)) &&
    (query.expirationTime === undefined || query.expirationTime.seconds === endpoint.expirationTime?.seconds) &&
    endpoint.url.includes(query.url)
  )
}

/**
 * The endpoints that a client with these labels may use, by the first match of the service that fits; all of them when
 * the service has no matches. [NSM sdk matchutils MatchEndpoint]
 */
export function selectEndpoints(
  clientLabels: Labels,
  service: NetworkService,
  endpoints: readonly NetworkServiceEndpoint[],
): readonly NetworkServiceEndpoint[] {
  if (service.matches.length === 0) return endpoints
  for (const match of service.matches) {
    if (!isSubset(clientLabels, match.sourceSelector, clientLabels)) continue
    const found = match.routes.flatMap((route) =>
      endpoints.filter((endpoint) =>
        isSubset(labelsFor(endpoint, service.name), route.destinationSelector, clientLabels),
      ),
    )
    if (found.length > 0) return found
    if (match.fallthrough) continue
    return match.metadata && match.routes.length === 0 ? endpoints : []
  }
  return []
}

/**
 * True when every wanted label is given with that value; a wanted value that differs is filled in as a template of
 * `values` and compared again. [NSM sdk matchutils IsSubset]
 */
export function isSubset(given: Labels, wanted: Labels, values: Labels): boolean {
  const entries = Object.entries(wanted)
  if (entries.length > Object.keys(given).length) return false
  return entries.every(([key, value]) => {
    const found = labelOf(given, key) ?? ''
    return found === value || found === fillTemplate(value, values)
  })
}

/**
 * Fills `{{.key}}` and `{{ index . "key" }}`, the templates that selectors of NSM use; any other action leaves the text as it is,
 * as a template that does not parse does in Go. An absent key prints Go's `<no value>`.
 */
function fillTemplate(text: string, values: Labels): string {
  const rest = text.replaceAll(action, '')
  if (rest.includes('{{')) return text
  return text.replaceAll(action, (_found, field: string | undefined, key: string | undefined) => {
    if (field !== undefined) return labelOf(values, field) ?? '<no value>'
    return labelOf(values, key ?? '') ?? ''
  })
}

const action = /\{\{-?\s*(?:\.([A-Za-z_][A-Za-z0-9_]*)|index\s+\.\s+"([^"\\]*)")\s*-?\}\}/g

function sameMatches(query: NetworkService, service: NetworkService): boolean {
  if (query.matches.length !== service.matches.length) return false
  return query.matches.every((match, i) => {
    const other = service.matches[i]
    return other !== undefined && equals(MatchSchema, match, other)
  })
}

function hasLabels(endpoint: NetworkServiceEndpoint, service: string, wanted: NetworkServiceLabels): boolean {
  if (!Object.hasOwn(endpoint.networkServiceLabels, service)) return false
  const labels = labelsFor(endpoint, service)
  return Object.entries(wanted.labels).every(([key, value]) => labelOf(labels, key) === value)
}

function labelsFor(endpoint: NetworkServiceEndpoint, service: string): Labels {
  if (!Object.hasOwn(endpoint.networkServiceLabels, service)) return {}
  return endpoint.networkServiceLabels[service]?.labels ?? {}
}

function labelOf(labels: Labels, key: string): string | undefined {
  return Object.hasOwn(labels, key) ? labels[key] : undefined
}
