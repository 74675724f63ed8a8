import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Channel, Target } from '../nsm/channel.ts'
import { createNsmClient, type NsmClient } from '../nsm/client.ts'
import type { DomainServers } from '../nsm/interdomain-lookup.ts'
import { createRegistryClient, type RegistryClient } from './client.ts'
import { createDomainClient } from './domain-client.ts'
import type { Dial } from './next-hop.ts'

/** Channels to the servers of one domain. */
export interface Domain {
  /** Names with the domain, as who asks knows them. */
  readonly client: NsmClient
  /** Names as the domain itself uses them. */
  readonly registry: RegistryClient
  /** To its border manager. */
  readonly channel: Channel
  readonly servers: DomainServers
  close(): void
}

/** Opens both channels, one when registry and border manager are the same program; they dial at the first call. */
export function openDomain(parts: {
  readonly domain: string
  readonly servers: DomainServers
  readonly dial: Dial
  readonly expect: (spiffeId: string) => boolean
  readonly clock: Clock
}): Domain {
  const { domain, servers, dial, expect, clock } = parts
  const channel = dial(servers.manager, expect)
  const other = isSame(servers.manager, servers.registry) ? undefined : dial(servers.registry, expect)
  const registry = trustedRegistry(createRegistryClient(other ?? channel), domain)
  return {
    client: createDomainClient({ domain, registry, client: trustedClient(createNsmClient(channel), domain), clock }),
    registry,
    ...{ channel, servers },
    close() {
      other?.close()
      channel.close()
    },
  }
}

function trustedRegistry(registry: RegistryClient, domain: string): RegistryClient {
  return {
    ...registry,
    findServices: (query, signal) => explained(registry.findServices(query, signal), domain),
    findEndpoints: (query, signal) => explained(registry.findEndpoints(query, signal), domain),
  }
}

function trustedClient(client: NsmClient, domain: string): NsmClient {
  return {
    ...client,
    request: (request, signal) => explained(client.request(request, signal), domain),
    close: (connection, signal) => explained(client.close(connection, signal), domain),
  }
}

/** Says what two domains that do not trust each other need. */
async function explained<T>(work: Promise<T>, domain: string): Promise<T> {
  try {
    return await work
  } catch (thrown) {
    const error = toNsmError(thrown)
    if (error.code !== 'IDENTITY') throw thrown
    const message = `the servers of the domain ${domain} and we do not trust each other: ${error.message}`
    const next = 'federate: each server names the other domain in its policy file, with the bundle of `nsm ca bundle`'
    throw new NsmError('IDENTITY', message, next, { cause: thrown })
  }
}

function isSame(a: Target, b: Target): boolean {
  return a.address === b.address && a.port === b.port
}
