import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { RegistryClient } from '../registry/client.ts'
import { keepRegistered, type Registration } from '../registry/registration.ts'

/** What the registry is to know of a vL3 endpoint. */
export interface Vl3Registration {
  readonly client: RegistryClient
  readonly service: string
  readonly endpointName: string
  /** Where managers reach the endpoint, `tcp://host:port`. */
  readonly url: string
  /** For the selection among endpoints of one service. */
  readonly labels?: Readonly<Record<string, string>>
  readonly clock: Clock
  readonly log: Log
  readonly signal?: AbortSignal
}

/** Registers the service, payload IP, and its endpoint [NSM cmd-nse-vl3-vpp main.go], and keeps both until it is stopped. */
export function registerVl3(vl3: Vl3Registration): Promise<Registration> {
  const { client, service, endpointName: name, url, labels = {}, clock, log, signal } = vl3
  return keepRegistered({
    client,
    services: [{ name: service, payload: 'IP', matches: siteMatches }],
    endpoint: {
      name,
      url,
      networkServiceNames: [service],
      networkServiceLabels: { [service]: { labels: { ...labels } } },
    },
    clock,
    log,
    ...(signal && { signal }),
  })
}

/**
 * A client with the label `site` gets an endpoint with the same one; where there is none, and for all other clients, every
 * endpoint will do [NSM sdk matchutils].
 */
const siteMatches = [
  { routes: [{ destinationSelector: { site: '{{.site}}' } }], fallthrough: true },
  { routes: [{ destinationSelector: {} }] },
]
