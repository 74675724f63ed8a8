import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { NsmClient } from '../nsm/client.ts'
import type { Connection } from '../nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import type { Purpose } from './lifecycle.ts'

/** Ours: first wait for the answer to a request for another endpoint; doubled up to the next one. */
const reselectTimeoutMs = 2_500
/** [NSM cmd-nsc] Longest wait for an answer. */
const requestTimeoutMs = 15_000
/** Ours: an endpoint that is left is told so, but not waited for: it may be dead. */
const leaveTimeoutMs = 300

/** Asks a manager, and waits no longer than what is asked for is worth. */
export class Asker {
  readonly #client: NsmClient
  readonly #clock: Clock
  /** Requests for another endpoint in a row that got no answer in time. */
  #unanswered = 0
  #left: Connection | undefined

  constructor(client: NsmClient, clock: Clock) {
    this.#client = client
    this.#clock = clock
  }

  /** One request. A manager may wait for an endpoint that is dead; asked again, it tries the next one. */
  async request(message: NetworkServiceRequest, purpose: Purpose, signal: AbortSignal): Promise<Connection> {
    if (purpose !== 'reselect') return this.#client.request(message, signal)
    const timeoutMs = Math.min(reselectTimeoutMs * 2 ** this.#unanswered, requestTimeoutMs)
    this.#unanswered = Math.min(this.#unanswered + 1, unansweredMax)
    const connection = await this.#within(timeoutMs, signal, (stop) => this.#client.request(message, stop))
    this.#unanswered = 0
    return connection
  }

  /** Tells the endpoint that is left, once; what cannot be told in time, its lease tells it later. */
  async leave(connection: Connection, signal: AbortSignal): Promise<void> {
    if (this.#left === connection) return
    this.#left = connection
    await this.#within(leaveTimeoutMs, signal, (stop) => this.#client.close(connection, stop)).catch(() => {})
  }

  async #within<T>(timeoutMs: number, signal: AbortSignal, work: (stop: AbortSignal) => Promise<T>): Promise<T> {
    const late = new AbortController()
    const cancel = this.#clock.after(timeoutMs, () => late.abort(noAnswer(timeoutMs)))
    try {
      return await work(AbortSignal.any([signal, late.signal]))
    } finally {
      cancel()
    }
  }
}

/** Doubling this often is beyond the longest wait. */
const unansweredMax = 4

function noAnswer(timeoutMs: number): NsmError {
  return new NsmError(
    'UNREACHABLE',
    `the manager had no other endpoint within ${timeoutMs / 1_000} s`,
    'nothing: the service is asked for again',
  )
}
