import { create } from '@bufbuild/protobuf'
import type { Clock } from '../base/clock.ts'
import { createEventQueue, type EventQueue } from '../nsm/event-queue.ts'
import {
  type Connection,
  type ConnectionEvent,
  ConnectionEventSchema,
  ConnectionEventType,
  type MonitorScopeSelector,
  type PathSegment,
  State,
} from '../nsm/generated/connection_pb.js'

/** A connection, and on whose word it is held: asked again when the policy changes. */
export interface Standing {
  readonly connection: Connection
  /** The SPIFFE ID that asked for it: only this one may refresh, close and watch it. */
  readonly owner: string
  /** Whom a relay asks for. */
  readonly origin?: string | undefined
  /** On whose word the endpoint is offered, when it is elsewhere. */
  readonly offeredBy?: string | undefined
}

/** A connection the manager answers for, in its own view: its segment is the current one, its id the key. */
export interface HeldConnection extends Standing {
  /** Counted with all that have the same. */
  readonly quota?: string | undefined
  /** Ends it at the endpoint; never throws. */
  readonly closeBehind: () => Promise<void>
  /** Ends the watch of the endpoint behind. */
  readonly stopFollowing: () => void
}

/** Whose it is, and by what else it is counted. */
type Counted = Pick<HeldConnection, 'owner' | 'quota'>

/** Whose connections somebody sees. */
export type MayWatch = (held: HeldConnection) => boolean

/** Live connections, their leases and those who watch them. */
export class HeldConnections {
  readonly #clock: Clock
  readonly #held = new Map<string, HeldConnection>()
  readonly #counts = new Map<string, number>()
  readonly #leases = new Map<string, { readonly endMs: number; readonly cancel: () => void }>()
  readonly #watchers = new Map<
    EventQueue<ConnectionEvent>,
    { readonly selector: MonitorScopeSelector; readonly mayWatch: MayWatch }
  >()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  get(id: string): HeldConnection | undefined {
    return this.#held.get(id)
  }

  /** Wall milliseconds; 0 for a connection that is not held. */
  leaseEndMs(id: string): number {
    return this.#leases.get(id)?.endMs ?? 0
  }

  all(): readonly HeldConnection[] {
    return [...this.#held.values()]
  }

  /** Connections of an owner, or of a quota. */
  countOf(owner: string): number {
    return this.#counts.get(owner) ?? 0
  }

  /** Counts one that is being asked for, so that many at once find no more room than one after the other; the result ends that. */
  reserve(asked: Counted): () => void {
    this.#count(asked, 1)
    return () => this.#count(asked, -1)
  }

  /** The connections that a selector names by their segments; none for one that names no segment. */
  named(selector: MonitorScopeSelector): readonly HeldConnection[] {
    if (selector.pathSegments.length === 0) return []
    return this.all().filter(({ connection }) => selects(selector, connection))
  }

  /** Stores an accepted connection and tells the watchers; `onLeaseEnd` runs at the wall time `leaseEndMs`. */
  put(held: HeldConnection, lease: { readonly endMs: number; readonly onEnd: () => void }): void {
    const { id } = held.connection
    this.#leases.get(id)?.cancel()
    this.#count(this.#held.get(id), -1)
    this.#held.set(id, held)
    this.#count(held, 1)
    const cancel = this.#clock.after(Math.max(0, lease.endMs - this.#clock.wallMs()), lease.onEnd)
    this.#leases.set(id, { endMs: lease.endMs, cancel })
    this.#tell(ConnectionEventType.UPDATE, held)
  }

  /** Replaces what is known of a connection without a new lease, as an endpoint's event does. */
  update(held: HeldConnection): void {
    if (!this.#held.has(held.connection.id)) return
    this.#held.set(held.connection.id, held)
    this.#tell(ConnectionEventType.UPDATE, held)
  }

  /** Tells the watchers that the data path may be gone; the lease goes on. */
  down(id: string): void {
    const held = this.#held.get(id)
    if (!held) return
    this.#tell(ConnectionEventType.UPDATE, { ...held, connection: { ...held.connection, state: State.DOWN } })
  }

  /** Forgets a connection and tells the watchers; gives what was held. */
  take(id: string): HeldConnection | undefined {
    const held = this.#held.get(id)
    this.#leases.get(id)?.cancel()
    this.#leases.delete(id)
    this.#held.delete(id)
    this.#count(held, -1)
    if (held) this.#tell(ConnectionEventType.DELETE, held)
    return held
  }

  /** First what the watcher may see, possibly nothing, then each change of it. [NSM sdk monitor] */
  watch(selector: MonitorScopeSelector, mayWatch: MayWatch, signal: AbortSignal): AsyncIterable<ConnectionEvent> {
    const seen = this.all().filter((held) => mayWatch(held) && selects(selector, held.connection))
    const initial = eventOf(ConnectionEventType.INITIAL_STATE_TRANSFER, seen)
    const queue: EventQueue<ConnectionEvent> = createEventQueue([initial], {
      signal,
      onEnd: () => void this.#watchers.delete(queue),
    })
    if (!signal.aborted) this.#watchers.set(queue, { selector, mayWatch })
    return queue.events
  }

  /** Ends leases and watches; the connections stay as they are at their endpoints. */
  close(): void {
    for (const { cancel } of this.#leases.values()) cancel()
    for (const { stopFollowing } of this.#held.values()) stopFollowing()
    for (const queue of [...this.#watchers.keys()]) queue.end()
    this.#leases.clear()
    this.#held.clear()
    this.#counts.clear()
  }

  #count(held: Counted | undefined, change: number): void {
    if (!held) return
    for (const key of [held.owner, ...(held.quota === undefined ? [] : [held.quota])]) {
      const count = this.countOf(key) + change
      if (count > 0) this.#counts.set(key, count)
      else this.#counts.delete(key)
    }
  }

  #tell(type: ConnectionEventType, held: HeldConnection): void {
    for (const [queue, { selector, mayWatch }] of this.#watchers) {
      if (mayWatch(held) && selects(selector, held.connection)) queue.push(eventOf(type, [held]))
    }
  }
}

function eventOf(type: ConnectionEventType, held: readonly HeldConnection[]): ConnectionEvent {
  const connections = Object.fromEntries(held.map(({ connection }) => [connection.id, connection]))
  return create(ConnectionEventSchema, { type, connections })
}

/**
 * An empty selector takes every connection; services by name; segments as a run anywhere in the path, where an empty
 * name, id or token fits all. [NSM api connection_helpers.go]
 */
export function selects(selector: MonitorScopeSelector, connection: Connection): boolean {
  const { networkServices, pathSegments } = selector
  if (networkServices.length > 0 && !networkServices.includes(connection.networkService)) return false
  const path = connection.path?.pathSegments ?? []
  return path.some((_, start) => runsAt(pathSegments, path, start)) || pathSegments.length === 0
}

function runsAt(wanted: readonly PathSegment[], path: readonly PathSegment[], start: number): boolean {
  return wanted.every((segment, i) => {
    const other = path[start + i]
    if (!other) return false
    const fits = (text: string, found: string) => text === '' || text === found
    return fits(segment.name, other.name) && fits(segment.id, other.id) && fits(segment.token, other.token)
  })
}
