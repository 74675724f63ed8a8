import { clone } from '@bufbuild/protobuf'
import { type Clock, pause } from '../base/clock.ts'
import type { NsmClient } from '../nsm/client.ts'
import {
  type Connection,
  type ConnectionEvent,
  ConnectionEventType,
  ConnectionSchema,
  State,
} from '../nsm/generated/connection_pb.js'
import type { HeldConnections } from './held-connections.ts'

/** Ours: pause before a broken stream is opened again. */
const reopenPauseMs = 1_000

/**
 * Watches one connection at the endpoint behind, and passes what happens to it to those who watch the manager, in the
 * manager's view. A broken stream counts as down once, until an event says otherwise. The result ends it. [NSM sdk monitor]
 */
export function followRemote(parts: {
  readonly monitor: NsmClient['monitor']
  /** The manager's segment. */
  readonly name: string
  readonly id: string
  readonly held: HeldConnections
  /** False: the endpoint tells of what it may not hand out, and only its state is passed on. */
  readonly mayTell?: (connection: Connection) => boolean
  readonly clock: Clock
}): () => void {
  const stopping = new AbortController()
  void follow(parts, stopping.signal)
  return () => stopping.abort()
}

async function follow(parts: Parameters<typeof followRemote>[0], signal: AbortSignal): Promise<void> {
  const { monitor, name, id, held, mayTell = () => true, clock } = parts
  let isDown = false
  while (!signal.aborted) {
    try {
      for await (const event of monitor({ pathSegments: [{ name, id }] }, signal)) {
        isDown = false
        apply(event, { id, held, mayTell })
      }
    } catch {}
    if (signal.aborted) return
    if (!isDown) held.down(id)
    isDown = true
    await pause(clock, reopenPauseMs, signal)
  }
}

/** The first event only shows what the request has answered; a delete counts as down: the client decides what to do. */
function apply(
  event: ConnectionEvent,
  to: { readonly id: string; readonly held: HeldConnections; readonly mayTell: (connection: Connection) => boolean },
): void {
  const { id, held, mayTell } = to
  if (event.type === ConnectionEventType.INITIAL_STATE_TRANSFER) return
  const known = held.get(id)
  if (!known) return
  for (const theirs of Object.values(event.connections)) {
    const index = known.connection.path?.index ?? 0
    if (theirs.path?.pathSegments[index]?.id !== id || !theirs.path) continue
    const connection = clone(ConnectionSchema, theirs)
    if (connection.path) connection.path.index = index
    connection.id = id
    connection.networkService = known.connection.networkService
    if (event.type === ConnectionEventType.DELETE) connection.state = State.DOWN
    const { state } = connection
    held.update({ ...known, connection: mayTell(connection) ? connection : { ...known.connection, state } })
  }
}
