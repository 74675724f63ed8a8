import { type Clock, sleep } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { NsmClient } from '../nsm/client.ts'
import { type Connection, type ConnectionEvent, ConnectionEventType, State } from '../nsm/generated/connection_pb.js'
import type { Tunnel } from '../tunnel/tunnels.ts'
import type { Watched } from './driver.ts'
import { ownSegment } from './request.ts'
import type { NsmLease } from './wanted.ts'

/** What a watch looks at. */
export interface WatchParts {
  readonly client: NsmClient
  readonly clock: Clock
  readonly log: Log
  readonly lease: NsmLease
  readonly tunnel: Tunnel | undefined
}

/** Watches the manager's events, the tunnel and the age of its last handshake; resolves when the events end. */
export async function watchLease(
  parts: WatchParts,
  report: (event: Watched) => void,
  signal: AbortSignal,
): Promise<void> {
  const lost = (error: NsmError) => {
    if (!signal.aborted) report({ kind: 'lost', error })
  }
  void parts.tunnel?.failed.then(lost)
  watchPath(parts, signal).then(lost, () => {})
  await watchEvents(parts, report, signal)
}

/** [security 4.1] A session is refused after 180 s; with keepalive a live one is renewed after 120 s. */
const handshakeAgeMaxMs = 195_000
/** Ours: how often the age is looked at. */
const pathCheckMs = 10_000

/** Resolves when the path has been silent for too long; rejects when told to stop. */
async function watchPath({ clock, tunnel }: WatchParts, signal: AbortSignal): Promise<NsmError> {
  for (;;) {
    await sleep(clock, pathCheckMs, signal)
    const stats = await tunnel?.stats().catch(() => undefined)
    const ages = (stats?.peers ?? []).map((peer) => peer.lastHandshakeAgeMs)
    if (ages.some((ageMs) => ageMs !== undefined && ageMs > handshakeAgeMaxMs)) return silent()
  }
}

async function watchEvents(
  { client, lease, log }: WatchParts,
  report: (event: Watched) => void,
  signal: AbortSignal,
): Promise<void> {
  const own = ownSegment(lease.connection)
  if (!own) return untilAborted(signal)
  try {
    for await (const event of client.monitor({ pathSegments: [own] }, signal)) {
      const happened = readEvent(event, own)
      if (happened && !signal.aborted) report(happened)
    }
  } catch (thrown) {
    const error = toNsmError(thrown)
    if (signal.aborted) return
    if (error.code !== 'REFUSED') throw error
    log.warn('the manager gives no events; only the tunnel is watched', { reason: error.message })
    return untilAborted(signal)
  }
}

/** What an event means for the connection whose first segment is ours; undefined when nothing [nsm-protocol 4.8]. */
export function readEvent(
  event: ConnectionEvent,
  own: { readonly name: string; readonly id: string },
): Watched | undefined {
  const connection = Object.values(event.connections).find((candidate) => isOwn(candidate, own))
  if (!connection) return undefined
  if (event.type === ConnectionEventType.DELETE) return { kind: 'down', error: deleted() }
  if (connection.state === State.DOWN) return { kind: 'down', error: down() }
  return connection.state === State.REFRESH_REQUESTED ? { kind: 'refresh-asked' } : undefined
}

function isOwn(connection: Connection, own: { readonly name: string; readonly id: string }): boolean {
  return connection.path?.pathSegments[0]?.id === own.id
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

function silent(): NsmError {
  return new NsmError('LOST', 'the tunnel has had no handshake for 195 s', 'nothing: the connection is asked for again')
}

function deleted(): NsmError {
  return new NsmError('LOST', 'the manager closed the connection', 'nothing: the service is asked for again')
}

function down(): NsmError {
  return new NsmError('LOST', 'the endpoint is down', 'nothing: the service is asked for again')
}
