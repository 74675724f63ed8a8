import { hostname } from 'node:os'
import { NsmError } from '../base/errors.ts'
import { serviceText, type Wanted } from '../connection/wanted.ts'
import { parseServiceList, parseServiceUrl, type ServiceUrl } from '../nsm/service-url.ts'
import type { ConnectRequest } from './protocol.ts'

/** The services of a request, each with everything that is wanted of it; throws `USAGE` for what cannot be meant. */
export function wantedServices(request: ConnectRequest): Wanted[] {
  const urls = request.services.flatMap(parseServiceList)
  const names = urls.map(serviceText)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw new NsmError('USAGE', `${twice} is named twice`, 'name each service once')
  if (urls.length > 1 && request.interfaceName !== undefined) {
    throw new NsmError(
      'USAGE',
      'one interface name cannot serve several services',
      'name the interface in the service URL: kernel://service/interface',
    )
  }
  for (const url of (request.awarenessGroups ?? []).flat()) parseServiceUrl(url)
  return urls.map((url) => wantedOf(url, request))
}

/** The names under which services are connected, from service URLs; throws `USAGE`. */
export function serviceNames(urls: readonly string[]): string[] {
  return urls.flatMap(parseServiceList).map(serviceText)
}

function wantedOf(url: ServiceUrl, request: ConnectRequest): Wanted {
  const interfaceName = url.interfaceName ?? request.interfaceName
  return {
    service: url.service,
    ...(url.domain === undefined ? {} : { domain: url.domain }),
    labels: { ...request.labels, ...url.labels },
    name: request.name ?? hostname().split('.')[0] ?? 'host',
    ...(interfaceName === undefined ? {} : { interfaceName }),
    ...(request.mtuBytes === undefined ? {} : { mtuBytes: request.mtuBytes }),
    allowPrefixes: request.allowPrefixes,
    excludePrefixes: request.excludePrefixes,
    allowDomains: request.allowDomains ?? [],
    dnsMode: request.dnsMode,
    dns: request.dns,
    ...(request.livenessEnabled === undefined ? {} : { livenessEnabled: request.livenessEnabled }),
    ...(request.livenessIntervalMs === undefined ? {} : { livenessIntervalMs: request.livenessIntervalMs }),
    ...(request.livenessTimeoutMs === undefined ? {} : { livenessTimeoutMs: request.livenessTimeoutMs }),
    ...(request.awarenessGroups === undefined ? {} : { awarenessGroups: request.awarenessGroups }),
  }
}
