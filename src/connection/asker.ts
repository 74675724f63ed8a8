import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { within } from '../base/within.ts'
import type { NsmClient } from '../nsm/client.ts'
import type { Connection } from '../nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import type { Purpose } from './lifecycle.ts'

/** Ours: first wait for the answer to a request for another endpoint; doubled up to the next one. */
const reselectTimeoutMs = 2_500
/** [NSM cmd-nsc] Longest wait for an answer. */
const requestTimeoutMs = 15_000

/** Asks a manager, and waits no longer than what is asked for is worth. */
export class Asker {
  readonly #client: NsmClient
  readonly #clock: Clock
  /** Requests for another endpoint in a row that got no answer in time. */
  #unanswered = 0

  constructor(client: NsmClient, clock: Clock) {
    this.#client = client
    this.#clock = clock
  }

  /** One request. A manager may wait for an endpoint that is dead; asked again, it tries the next one. */
  async request(message: NetworkServiceRequest, purpose: Purpose, signal: AbortSignal): Promise<Connection> {
    if (purpose !== 'reselect') return this.#client.request(message, signal)
    const limitMs = Math.min(reselectTimeoutMs * 2 ** this.#unanswered, requestTimeoutMs)
    const limit = { clock: this.#clock, limitMs, late: () => noAnswer(limitMs), signal }
    this.#unanswered = Math.min(this.#unanswered + 1, unansweredMax)
    const connection = await within(limit, (stop) => this.#client.request(message, stop))
    this.#unanswered = 0
    return connection
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
