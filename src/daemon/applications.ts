import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Audit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { createListeners } from '../base/listeners.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import type { TokenSource } from '../nsm/workload-jwt.ts'
import type { ServedIdentities, ServedIdentity } from '../nsm/workload-service.ts'
import type { ConnectRequest } from './protocol.ts'
import type { WorkloadSocket } from './workload-socket.ts'

/* nothing connected --connect--> served --rotation--> told to open streams --last disconnect--> ended, socket removed */

/** Everything the identities of applications are made from. */
export interface ApplicationsParts {
  /** Of the socket. */
  readonly path: string
  /** The identities that connections use; none of them: nothing is served. */
  readonly sources: () => readonly TokenSource[]
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
}

/** Gives applications of this machine the identity that it is connected with, over the SPIFFE Workload API. */
export class Applications implements ServedIdentities {
  readonly #parts: ApplicationsParts
  readonly #turns = createTurns()
  readonly #listeners = createListeners()
  readonly #admitted = new Set<number>()
  #followed: readonly TokenSource[] = []
  #unfollow = () => {}
  #socket: WorkloadSocket | undefined
  /** Why nothing is served although something is connected. */
  #failure: NsmError | undefined
  /** The agent that a request named last. */
  #agent: string | undefined
  #isClosed = false

  constructor(parts: ApplicationsParts) {
    this.#parts = parts
  }

  /** As in `SPIFFE_ENDPOINT_SOCKET`; undefined while nothing is served. */
  get address(): string | undefined {
    return this.#socket && addressOf(this.#parts.path)
  }

  /** What a person should know. */
  get warnings(): readonly string[] {
    return this.#failure ? [`applications get no identity: ${this.#failure.message}`] : []
  }

  current(): readonly ServedIdentity[] {
    const states = this.#followed.flatMap((source) => {
      try {
        return [{ ...source.current(), ...(source.jwt ? { jwt: source.jwt } : {}) }]
      } catch {
        return []
      }
    })
    return states.filter(({ svid }, i) => states.findIndex((other) => other.svid.spiffeId === svid.spiffeId) === i)
  }

  onChange(listener: () => void): () => void {
    return this.#listeners.add(listener)
  }

  /** Opens the socket, tells who listens, or closes it, as connections came and went; what fails is a warning. */
  follow(): Promise<void> {
    return this.#turns.run('', async () => {
      const sources = this.#isClosed ? [] : this.#parts.sources()
      this.#listenTo(sources)
      if (sources.length === 0) await this.#end()
      else if (!this.#socket) await this.#begin()
    })
  }

  /** Lets processes of this user in until everything is left: who connected with `sudo`. */
  admit(uid: number): void {
    this.#admitted.add(uid)
  }

  /**
   * The request without our own socket as the agent that gives the identity: a shell that uses it names it too. The agent
   * that was asked before takes its place. Throws `USAGE` when there was none and the flag names ours.
   */
  withAgent(request: ConnectRequest): ConnectRequest {
    const { workloadSocket, ...rest } = request
    if (workloadSocket === undefined) return request
    if (!isAddressOf(this.#parts.path, workloadSocket)) {
      this.#agent = workloadSocket
      return request
    }
    if (this.#agent !== undefined) return { ...request, workloadSocket: this.#agent }
    if (!request.workloadFirst) return rest
    throw new NsmError('USAGE', `${workloadSocket} is the socket of nsm itself`, 'name the socket of the SPIFFE agent')
  }

  /** Ends every stream and removes the socket, for good. */
  close(): Promise<void> {
    this.#isClosed = true
    return this.follow()
  }

  #listenTo(sources: readonly TokenSource[]): void {
    const isSame = sources.length === this.#followed.length && sources.every((one, i) => one === this.#followed[i])
    if (isSame) return
    this.#unfollow()
    this.#followed = sources
    const stops = sources.map((source) => source.onChange(() => this.#listeners.tell()))
    this.#unfollow = () => {
      for (const stop of stops) stop()
    }
    this.#listeners.tell()
  }

  async #begin(): Promise<void> {
    const { log, ...parts } = this.#parts
    const isAdmitted = (uid: number) => this.#admitted.has(uid)
    try {
      // Not before it is needed: 18 ms and 2 MiB, which the way to the manager leaves time for.
      const [{ openWorkloadSocket }, { workloadService }] = await Promise.all([
        import('./workload-socket.ts'),
        import('../nsm/workload-service.ts'),
      ])
      this.#socket = await openWorkloadSocket({ ...parts, methods: workloadService(this), isAdmitted, log })
      this.#failure = undefined
      log.info('applications are served their identity')
    } catch (error) {
      this.#failure = toNsmError(error)
      log.warn('applications are not served their identity', { error: this.#failure.message })
    }
  }

  async #end(): Promise<void> {
    this.#admitted.clear()
    this.#failure = undefined
    const socket = this.#socket
    this.#socket = undefined
    await socket?.close().catch((error) => {
      this.#parts.log.warn('the socket of applications is not removed', { error: toNsmError(error).message })
    })
  }
}

function addressOf(path: string): string {
  return `unix://${path}`
}

/** Also by another way: `/var/run` is a link to `/run`. */
function isAddressOf(path: string, text: string): boolean {
  const named = /^unix:(?:\/\/)?(\/.*)$/.exec(text)?.[1]
  return named !== undefined && withoutLinks(named) === withoutLinks(path)
}

function withoutLinks(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return resolve(path)
  }
}
