import type { Clock } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { NetworkService, NetworkServiceEndpoint } from '../nsm/generated/registry_pb.js'
import type { RegistryStore } from './store.ts'

/** Ours: a name that no endpoint offers is free again after this; whoever needs it registers it again. */
const unusedServiceMs = 24 * 3_600_000
/** Ours: how often unused services are looked for. */
const serviceCheckMs = 3_600_000
/** Ours: a store that cannot be written, as on a full disk, is tried again after this. */
const retryMs = 10_000

/** Everything the expiry needs. */
export interface ExpiryParts {
  readonly store: RegistryStore
  readonly clock: Clock
  readonly log: Log
  readonly onEndpoint: (endpoint: NetworkServiceEndpoint) => void
  readonly onService: (service: NetworkService) => void
}

/** Ends endpoints at their time, and services that nobody has offered for about a day, from our start at the earliest. */
export class Expiry {
  readonly #parts: ExpiryParts
  /** When a service was last registered or seen to be offered, wall milliseconds. */
  readonly #usedMs = new Map<string, number>()
  #earliestMs = 0
  /** When the timer fires, wall milliseconds. */
  #dueMs = Number.POSITIVE_INFINITY
  #cancel = () => {}
  readonly #cancelHourly: () => void

  constructor(parts: ExpiryParts) {
    this.#parts = parts
    this.#cancelHourly = every(parts.clock, serviceCheckMs, () => this.#try(() => this.#expireServices()))
    for (const { service } of parts.store.services()) this.used(service.name)
    this.#next()
  }

  /** The service was registered. */
  used(service: string): void {
    this.#usedMs.set(service, this.#parts.clock.wallMs())
  }

  /** An endpoint was registered, until then (wall milliseconds). One timer is for the endpoint that ends next. */
  endsAt(expiresMs: number): void {
    if (expiresMs >= this.#dueMs) return
    const { clock } = this.#parts
    this.#cancel()
    this.#dueMs = expiresMs
    const delayMs = Math.max(0, expiresMs - clock.wallMs(), this.#earliestMs - clock.monotonicMs())
    this.#cancel = clock.after(delayMs, () => {
      this.#try(() => this.#expireEndpoints())
      this.#dueMs = Number.POSITIVE_INFINITY
      this.#next()
    })
  }

  #next(): void {
    let nextMs = Number.POSITIVE_INFINITY
    for (const { expiresMs } of this.#parts.store.endpoints()) nextMs = Math.min(nextMs, expiresMs)
    this.endsAt(nextMs)
  }

  /** Ends the timers. */
  close(): void {
    this.#cancel()
    this.#cancelHourly()
  }

  /** A timer has no caller that could be told. */
  #try(work: () => void): void {
    try {
      work()
    } catch (error) {
      this.#earliestMs = this.#parts.clock.monotonicMs() + retryMs
      this.#parts.log.error('the registry cannot be written', { error: toNsmError(error).message })
    }
  }

  #expireEndpoints(): void {
    const { store, clock, log, onEndpoint } = this.#parts
    const nowMs = clock.wallMs()
    for (const { endpoint, expiresMs } of store.endpoints()) {
      if (expiresMs > nowMs) continue
      store.deleteEndpoint(endpoint.name)
      log.info('endpoint registration expired', { endpoint: endpoint.name })
      onEndpoint(endpoint)
    }
  }

  #expireServices(): void {
    const { store, clock, log, onService } = this.#parts
    const nowMs = clock.wallMs()
    const offered = new Set(store.endpoints().flatMap(({ endpoint }) => endpoint.networkServiceNames))
    for (const name of [...offered]) this.#usedMs.set(name, nowMs)
    for (const { service } of store.services()) {
      if (nowMs - (this.#usedMs.get(service.name) ?? 0) < unusedServiceMs) continue
      store.deleteService(service.name)
      log.info('service released, nobody has offered it for a day', { service: service.name })
      onService(service)
    }
    const known = new Set(store.services().map(({ service }) => service.name))
    for (const name of this.#usedMs.keys()) if (!known.has(name)) this.#usedMs.delete(name)
  }
}

function every(clock: Clock, periodMs: number, action: () => void): () => void {
  let cancel = clock.after(periodMs, again)
  function again(): void {
    action()
    cancel = clock.after(periodMs, again)
  }
  return () => cancel()
}
