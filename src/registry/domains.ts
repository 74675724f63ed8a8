import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { untilAborted } from '../base/until-aborted.ts'
import { within } from '../base/within.ts'
import type { NsmClient } from '../nsm/client.ts'
import type { Connection } from '../nsm/generated/connection_pb.js'
import type { NetworkService, NetworkServiceEndpoint } from '../nsm/generated/registry_pb.js'
import { domainOf, withDomain, withoutDomain } from '../nsm/interdomain.ts'
import type { DomainServers } from '../nsm/interdomain-lookup.ts'
import { type Domain, openDomain } from './domain.ts'
import { KeptOpen } from './kept-open.ts'
import type { Dial, NextHop } from './next-hop.ts'
import type { Found } from './registry.ts'
import { checkUrlReach } from './url-reach.ts'

/** Everything the way to other domains is made from. */
export interface DomainsParts {
  /** Our own domain: `x@own` is x. */
  readonly own: string
  readonly find: (domain: string, signal: AbortSignal) => Promise<DomainServers>
  readonly dial: Dial
  /** Who may answer for a domain. */
  readonly expect: (domain: string) => (spiffeId: string) => boolean
  readonly clock: Clock
}

/** Who wants to go where. */
export interface Journey {
  readonly domain: string
  /** IP address of the one who asks: nobody has places opened that only this machine reaches. */
  readonly from: string
}

/** Ours: domains in use at the same time; anybody who may ask can name one. */
const domainsMax = 64
/** Ours: of these, in use for one address: a name that is never answered has its place until somebody gives up. */
const domainsPerAskerMax = 16
/** Ours: several names are looked up one after the other. */
const findMaxMs = 5_000
/** Ours: a close is a courtesy, and the next request waits for it. */
const closeMaxMs = 2_000

/** The way to other domains, found when needed and forgotten when unused. */
export class Domains {
  readonly #parts: DomainsParts
  readonly #open: KeptOpen<Promise<Domain>>

  constructor(parts: DomainsParts) {
    this.#parts = parts
    const close = (opened: Promise<Domain>) => void opened.then((domain) => domain.close()).catch(() => {})
    this.#open = new KeptOpen({
      ...{ clock: parts.clock, most: domainsMax, mostEach: domainsPerAskerMax },
      full: tooManyDomains,
      close,
    })
  }

  isOwn(domain: string): boolean {
    return domain.toLowerCase() === this.#parts.own.toLowerCase()
  }

  /** The domain's border manager as the hop behind our manager. */
  hop(journey: Journey): NextHop {
    const call = <T>(ask: (client: NsmClient) => Promise<T>, signal?: AbortSignal) =>
      this.#with(journey, async ({ client }) => ask(client), signal)
    const { clock } = this.#parts
    const late = () => new NsmError('UNREACHABLE', `the domain ${journey.domain} does not answer`, 'its lease will end')
    return {
      monitor: (selector, signal) => this.#stream(journey, ({ client }) => client.monitor(selector, signal), signal),
      request: (request, signal) => call((client) => client.request(request, signal), signal),
      close: (connection) =>
        within({ clock, limitMs: closeMaxMs, late }, (signal) =>
          call((client) => client.close(connection, signal), signal),
        ),
    }
  }

  /** What the domain's registry holds, under its own names. Services change rarely: a watch shows what is there, and waits. */
  async *services(
    journey: Journey,
    { entry, watch, signal }: Query<NetworkService>,
  ): AsyncGenerator<Found<NetworkService>> {
    const found = await this.#with(journey, ({ registry }) => registry.findServices(entry, signal), signal)
    for (const service of found) yield { entry: service, deleted: false }
    if (watch) await untilAborted(signal)
  }

  /** As `services`, but a watch shows what comes and goes. */
  async *endpoints(
    journey: Journey,
    { entry, watch, signal }: Query<NetworkServiceEndpoint>,
  ): AsyncGenerator<Found<NetworkServiceEndpoint>> {
    if (watch) return yield* this.#stream(journey, ({ registry }) => registry.watchEndpoints(entry, signal), signal)
    const found = await this.#with(journey, ({ registry }) => registry.findEndpoints(entry, signal), signal)
    for (const endpoint of found) yield { entry: endpoint, deleted: false }
  }

  close(): void {
    this.#open.close()
  }

  async #with<T>(journey: Journey, work: (domain: Domain) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const { domain, done } = await this.#borrow(journey, signal)
    try {
      return await work(domain)
    } finally {
      done()
    }
  }

  async *#stream<T>(
    journey: Journey,
    open: (domain: Domain) => AsyncIterable<T>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<T, void> {
    const { domain, done } = await this.#borrow(journey, signal)
    try {
      yield* open(domain)
    } finally {
      done()
    }
  }

  async #borrow(journey: Journey, signal: AbortSignal | undefined) {
    const name = journey.domain.toLowerCase()
    const { thing: opened, done } = this.#open.use(name, () => this.#find(name), journey.from)
    opened.catch(() => this.#open.drop(name, opened))
    try {
      const domain = await opened
      checkReach(domain.servers, journey)
      signal?.throwIfAborted()
      return { domain, done }
    } catch (error) {
      done()
      throw error
    }
  }

  async #find(domain: string): Promise<Domain> {
    const { find, dial, expect, clock } = this.#parts
    const late = () => new NsmError('UNREACHABLE', `the domain ${domain} cannot be found: no answer`, 'try again later')
    const servers = await within({ clock, limitMs: findMaxMs, late }, (signal) => find(domain, signal))
    return openDomain({ domain, servers, dial, expect: expect(domain), clock })
  }
}

function tooManyDomains(): NsmError {
  return new NsmError('UNREACHABLE', 'too many domains are in use at the same time', 'try again later')
}

/** A connection to `x@own` as one to x, and what gives its answer the caller's names again. */
export function localNames(
  connection: Connection,
  domains: Pick<Domains, 'isOwn'> | undefined,
): { readonly local: Connection; readonly restore: (answer: Connection) => Connection } {
  const domain = domainOf(connection)
  if (domain === undefined || !domains?.isOwn(domain)) return { local: connection, restore: (answer) => answer }
  return { local: withoutDomain(connection), restore: (answer) => withDomain(answer, domain) }
}

/** What is asked of a registry. */
export interface Query<T> {
  readonly entry: T
  readonly watch: boolean
  readonly signal: AbortSignal
}

function checkReach(servers: DomainServers, { from }: Journey): void {
  for (const server of Object.values(servers)) checkUrlReach(`tcp://${addressText(server)}`, from)
}
