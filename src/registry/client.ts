import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { NsmError } from '../base/errors.ts'
import { within } from '../base/within.ts'
import type { Channel } from '../nsm/channel.ts'
import {
  type NetworkService,
  type NetworkServiceEndpoint,
  NetworkServiceEndpointRegistry,
  type NetworkServiceEndpointSchema,
  NetworkServiceRegistry,
  NetworkServiceSchema,
} from '../nsm/generated/registry_pb.js'
import { emptyRegistrationPath, formatRegistrationPath, pathMetadataKey } from './path-header.ts'
import type { Found } from './registry.ts'

type ServiceInit = MessageInitShape<typeof NetworkServiceSchema>
type EndpointInit = MessageInitShape<typeof NetworkServiceEndpointSchema>

/** The calls of a registry; each throws as the channel does, a search also `UNREACHABLE` after 15 s, `REFUSED` when a name belongs to another identity. */
export interface RegistryClient {
  /** An empty query finds every service. */
  findServices(query: ServiceInit, signal?: AbortSignal): Promise<NetworkService[]>
  /** Real registries give expired endpoints too; here they are left out. */
  findEndpoints(query: EndpointInit, signal?: AbortSignal): Promise<NetworkServiceEndpoint[]>
  /** First what is there, then each change; repeats happen. Throws when the stream breaks. */
  watchEndpoints(query: EndpointInit, signal?: AbortSignal): AsyncIterable<Found<NetworkServiceEndpoint>>
  registerService(service: ServiceInit, signal?: AbortSignal): Promise<NetworkService>
  /** The answer's name and expiration count from then on. */
  registerEndpoint(endpoint: EndpointInit, signal?: AbortSignal): Promise<NetworkServiceEndpoint>
  unregisterService(name: string, signal?: AbortSignal): Promise<void>
  unregisterEndpoint(endpoint: EndpointInit, signal?: AbortSignal): Promise<void>
}

/** A client over one channel, whose owner closes it; it remembers the registration path of each name. */
export function createRegistryClient(channel: Channel): RegistryClient {
  const services = NetworkServiceRegistry.method
  const endpoints = NetworkServiceEndpointRegistry.method
  const paths = new Map<string, string>()
  const withPath = async <T extends { header(key: string): string | undefined }>(
    name: string,
    call: (metadata: Record<string, string>) => Promise<T>,
  ): Promise<T> => {
    const answer = await call({ [pathMetadataKey]: paths.get(name) ?? formatRegistrationPath(emptyRegistrationPath) })
    const path = answer.header(pathMetadataKey)
    if (path !== undefined) paths.set(name, path)
    return answer
  }
  const settingsOf = (signal: AbortSignal | undefined) => (signal ? { signal } : {})
  const inTime = <T>(signal: AbortSignal | undefined, find: (stop: AbortSignal) => Promise<T>) =>
    within({ clock: channel.clock, limitMs: findLimitMs, late: noAnswer, ...settingsOf(signal) }, find)
  return {
    findServices: (networkService, signal) =>
      inTime(signal, async (stop) => {
        const found: NetworkService[] = []
        for await (const answer of channel.stream(services.find, { networkService }, { signal: stop })) {
          if (answer.networkService && !answer.deleted) found.push(answer.networkService)
        }
        return found
      }),
    findEndpoints: (networkServiceEndpoint, signal) =>
      inTime(signal, async (stop) => {
        const found: NetworkServiceEndpoint[] = []
        for await (const answer of channel.stream(endpoints.find, { networkServiceEndpoint }, { signal: stop })) {
          const endpoint = answer.networkServiceEndpoint
          if (endpoint && !answer.deleted && !isExpired(endpoint, channel.clock.wallMs())) found.push(endpoint)
        }
        return found
      }),
    async *watchEndpoints(networkServiceEndpoint, signal) {
      const query = { networkServiceEndpoint, watch: true }
      for await (const answer of channel.stream(endpoints.find, query, settingsOf(signal))) {
        if (answer.networkServiceEndpoint) yield { entry: answer.networkServiceEndpoint, deleted: answer.deleted }
      }
    },
    async registerService(service, signal) {
      const answer = await withPath(`service ${service.name ?? ''}`, (metadata) =>
        channel.unary(services.register, service, { ...settingsOf(signal), metadata }),
      )
      return answer.message
    },
    async registerEndpoint(endpoint, signal) {
      const answer = await withPath(`endpoint ${endpoint.name ?? ''}`, (metadata) =>
        channel.unary(endpoints.register, endpoint, { ...settingsOf(signal), metadata }),
      )
      return answer.message
    },
    async unregisterService(name, signal) {
      await withPath(`service ${name}`, (metadata) =>
        channel.unary(services.unregister, create(NetworkServiceSchema, { name }), { ...settingsOf(signal), metadata }),
      )
      paths.delete(`service ${name}`)
    },
    async unregisterEndpoint(endpoint, signal) {
      const name = endpoint.name ?? ''
      await withPath(`endpoint ${name}`, (metadata) =>
        channel.unary(endpoints.unregister, endpoint, { ...settingsOf(signal), metadata }),
      )
      paths.delete(`endpoint ${name}`)
    },
  }
}

/** Ours: for a whole answer; a stream has no deadline of its own, and a registry may accept and never answer. */
const findLimitMs = 15_000

function noAnswer(): NsmError {
  const message = `the registry did not answer within ${findLimitMs / 1_000} s`
  return new NsmError('UNREACHABLE', message, 'check that the registry runs and that its TCP port can be reached')
}

function isExpired(endpoint: NetworkServiceEndpoint, nowMs: number): boolean {
  const { expirationTime } = endpoint
  if (!expirationTime) return false
  return Number(expirationTime.seconds) * 1000 + expirationTime.nanos / 1_000_000 <= nowMs
}
