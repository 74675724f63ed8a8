import { type Clock, sleep } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { untilAborted } from '../base/until-aborted.ts'
import type { NsmClient } from '../nsm/client.ts'
import { type Connection, type ConnectionEvent, ConnectionEventType, State } from '../nsm/generated/connection_pb.js'
import type { Tunnel } from '../tunnel/tunnels.ts'
import type { Watched } from './driver.ts'
import type { Echo } from './echo.ts'
import { beginLiveness, judge, type Liveness, type Look, type Pace } from './liveness.ts'
import { ownSegment } from './request.ts'
import type { NsmLease } from './wanted.ts'

/** What a watch looks at. */
export interface WatchParts {
  readonly client: NsmClient
  readonly clock: Clock
  readonly log: Log
  readonly lease: NsmLease
  readonly tunnel: Tunnel | undefined
  /** Undefined when there is no way to ask the endpoint. */
  readonly echo: Echo | undefined
  /** Undefined: the path is not judged, and what the manager says counts for it [nsm-protocol 4.9]. */
  readonly pace: Pace | undefined
}

/** Watches the manager's events, the tunnel and its path until the signal is aborted. */
export async function watchLease(
  parts: WatchParts,
  report: (event: Watched) => void,
  signal: AbortSignal,
): Promise<void> {
  const tell = (event: Watched) => {
    if (!signal.aborted) report(event)
  }
  void parts.tunnel?.failed.then((error) => tell({ kind: 'tunnel-lost', error }))
  const path = { isAlive: parts.pace !== undefined }
  const watching = watchPath(
    parts,
    (event) => {
      path.isAlive = event.kind === 'path-found'
      tell(event)
    },
    signal,
  )
  watching.catch(() => {}).finally(() => parts.echo?.close())
  const events = watchEvents(parts, (event) => tell(inLightOf(path, event)), signal)
  if (parts.pace) return events
  await events.catch((thrown) => tell({ kind: 'down', isDeleted: false, error: toNsmError(thrown) }))
}

/** A connection that is only said to be down is asked for again as it is while its packets flow [nsm-protocol 4.9]. */
function inLightOf(path: { readonly isAlive: boolean }, event: Watched): Watched {
  const isOnlySaid = event.kind === 'down' && !event.isDeleted && path.isAlive
  return isOnlySaid ? { kind: 'control-lost', error: event.error } : event
}

/** Reports each change between life and death of the path; ends when told to, or with the tunnel. */
async function watchPath(
  { clock, tunnel, echo, pace }: WatchParts,
  report: (event: Watched) => void,
  signal: AbortSignal,
): Promise<void> {
  if (!tunnel || !pace) return
  let liveness = beginLiveness(tunnel.heard())
  for (;;) {
    const verdict = judge(liveness, await look(tunnel, liveness, clock), pace)
    signal.throwIfAborted()
    liveness = verdict.next
    if (verdict.change === 'lost') report({ kind: 'path-lost', error: silent() })
    if (verdict.change === 'found') report({ kind: 'path-found' })
    for (let sent = 0; sent < verdict.echoes; sent++) echo?.send()
    await sleep(clock, verdict.delayMs, signal)
  }
}

/** A packet that came, or its first absence, says all by itself: then the tunnel's thread is not woken. */
async function look(tunnel: Tunnel, { heard, silentLooks }: Liveness, clock: Clock): Promise<Look> {
  const found = { heard: tunnel.heard(), rttMs: undefined, handshakeAgeMs: undefined }
  if (found.heard !== heard || silentLooks === 0) return { ...found, nowMs: clock.monotonicMs() }
  const [peer] = (await tunnel.stats()).peers
  const { rttMs, lastHandshakeAgeMs: handshakeAgeMs } = peer ?? {}
  return { heard: tunnel.heard(), nowMs: clock.monotonicMs(), rttMs, handshakeAgeMs }
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
      if (happened) report(happened)
    }
    if (!signal.aborted) throw streamEnded()
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
  if (event.type === ConnectionEventType.DELETE) return { kind: 'down', isDeleted: true, error: deleted() }
  if (connection.state === State.DOWN) return { kind: 'down', isDeleted: false, error: down() }
  return connection.state === State.REFRESH_REQUESTED ? { kind: 'refresh-asked' } : undefined
}

function isOwn(connection: Connection, own: { readonly name: string; readonly id: string }): boolean {
  return connection.path?.pathSegments[0]?.id === own.id
}

function silent(): NsmError {
  return new NsmError(
    'LOST',
    'the endpoint does not answer through the tunnel',
    'nothing: the service is asked for again',
  )
}

function streamEnded(): NsmError {
  return new NsmError('LOST', 'the manager ended the event stream', 'nothing: the connection is asked for again')
}

function deleted(): NsmError {
  return new NsmError('LOST', 'the manager closed the connection', 'nothing: the service is asked for again')
}

function down(): NsmError {
  return new NsmError('LOST', 'the endpoint is down', 'nothing: the service is asked for again')
}
