import { hash } from 'node:crypto'
import { type Clock, pause, sleep } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { NsmClient } from '../nsm/client.ts'
import { type Connection, ConnectionEventType, State } from '../nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import type { NetworkServiceEndpoint } from '../nsm/generated/registry_pb.js'
import { refreshDelayMs } from '../nsm/path.ts'
import { claimsOf } from '../nsm/policies.ts'
import type { Found } from '../registry/registry.ts'
import type { SiteLink } from './site-links.ts'
import type { SiteEnd } from './vl3.ts'

/* Of two endpoints of one vL3, the one with the greater name dials: so there is one link between them, and a site that
 * joined dials the first one, whose name is the shortest. NSM's endpoints dial those that were there before them, once
 * [NSM cmd-nse-vl3-vpp]; so the lesser one dials too when nobody linked them for a while, until the other one does.
 *
 * registry says there is one --request--> linked --refresh, or at once when the monitor is lost--> linked
 *                                            |-- gone from the registry and not to be reached --> unlinked */

/** Everything a dialer is made from. */
export interface SiteDialerParts {
  readonly end: SiteEnd
  /** Name of this endpoint. */
  readonly ownName: string
  /** The endpoints of the service as they come and go. */
  readonly watch: (signal: AbortSignal) => AsyncIterable<Found<NetworkServiceEndpoint>>
  /** Opens a client for the url of an endpoint. Throws `UNREACHABLE`. */
  readonly open: (url: string) => { readonly client: NsmClient; close(): void }
  /** Our address that other sites' WireGuard may send to. */
  readonly address: string | undefined
  readonly clock: Clock
  readonly log: Log
}

/** Ours: a part that one side has gained is known to the other after this at the latest. */
const refreshMaxMs = 15_000
/** Ours: pauses between tries. */
const pauseFirstMs = 300
const pauseMaxMs = 5_000
/** Ours: an endpoint of ours dials as soon as it sees the other; one of NSM asks for its own address first. */
const yieldMs = 5_000
/** Ours: what a link may cost when it is taken back. */
const closeTimeoutMs = 2_000

/** Keeps the links this endpoint has to dial; `stop` closes them. */
export function dialSites(parts: SiteDialerParts): { stop(): Promise<void> } {
  const stopping = new AbortController()
  const dialed = new Map<string, Peer>()
  const running = new Set<Promise<void>>()
  const follow = async () => {
    for await (const { entry, deleted } of parts.watch(stopping.signal)) {
      if (entry.name !== parts.ownName) note(entry, deleted)
    }
  }
  const note = (entry: NetworkServiceEndpoint, deleted: boolean) => {
    const known = dialed.get(entry.name)
    if (known) {
      known.isGone = deleted
      if (!deleted) known.url = entry.url
      return
    }
    if (deleted) return
    const peer: Peer = { name: entry.name, url: entry.url, isGone: false }
    dialed.set(entry.name, peer)
    const run = keepLinked(parts, peer, stopping.signal).finally(() => {
      if (dialed.get(peer.name) === peer) dialed.delete(peer.name)
      running.delete(run)
    })
    running.add(run)
  }
  void follow().catch((error: unknown) => {
    if (!stopping.signal.aborted)
      parts.log.error('other sites are not seen any more', { error: toNsmError(error).message })
  })
  return {
    async stop() {
      stopping.abort()
      await Promise.all(running)
    },
  }
}

interface Peer {
  readonly name: string
  url: string
  isGone: boolean
}

async function keepLinked(parts: SiteDialerParts, peer: Peer, signal: AbortSignal): Promise<void> {
  const { clock, log, end } = parts
  let link: SiteLink | undefined
  let pauseMs = pauseFirstMs
  const onLinked = (made: SiteLink) => {
    link = made
    pauseMs = pauseFirstMs
  }
  for (let isFresh = false; !signal.aborted; isFresh = true) {
    if (!(await isOurTurn(parts, peer, signal))) break
    try {
      await refreshLink(parts, { peer, isFresh, onLinked }, signal)
    } catch (error) {
      if (signal.aborted) break
      const level = pauseMs === pauseFirstMs ? 'warn' : 'debug'
      log[level]('a site is not linked', { endpoint: peer.name, error: toNsmError(error).message })
      if (peer.isGone) break
      await pause(clock, pauseMs, signal)
      pauseMs = Math.min(pauseMs * 2, pauseMaxMs)
    }
  }
  if (link) await end.unlink(link, signal.aborted ? 'closed' : 'gone')
}

/**
 * Resolves at once for the one that dials, for the other one when nobody linked them all the while, or when it did so
 * itself; false when it is over.
 */
async function isOurTurn(parts: SiteDialerParts, peer: Peer, signal: AbortSignal): Promise<boolean> {
  if (peer.name < parts.ownName) return true
  for (let hasWaited = false; !signal.aborted && !peer.isGone; hasWaited = true) {
    const dialer = dialerOf(parts, peer)
    if (dialer === 'we' || (dialer === 'nobody' && hasWaited)) return true
    await pause(parts.clock, yieldMs, signal)
  }
  return false
}

function dialerOf({ end, ownName }: SiteDialerParts, peer: Peer): 'we' | 'they' | 'nobody' {
  const link = end.linkWith(peer.name)
  if (!link) return 'nobody'
  return link.connectionId === idOf(ownName, peer.name) ? 'we' : 'they'
}

/**
 * Makes the link and refreshes it until the other site is lost or moves; at the end of it all, or when the other one dials
 * after all, it closes the link there.
 */
async function refreshLink(
  parts: SiteDialerParts,
  link: { readonly peer: Peer; readonly isFresh: boolean; readonly onLinked: (link: SiteLink) => void },
  signal: AbortSignal,
): Promise<void> {
  const { peer, onLinked } = link
  const { url } = peer
  const opened = parts.open(url)
  let { isFresh } = link
  let last: Connection | undefined
  let givesWay = false
  try {
    for (let isLost = false; !isLost && !signal.aborted && url === peer.url; isFresh = false) {
      givesWay = last !== undefined && peer.name > parts.ownName && dialerOf(parts, peer) === 'they'
      if (givesWay) break
      last = await opened.client.request(requestOf(parts, peer, last), signal)
      onLinked(await parts.end.link(last, { spiffeId: serverOf(last), isFresh }))
      isLost = await dueOrLost(parts, { client: opened.client, answer: last }, signal)
    }
  } finally {
    if ((signal.aborted || givesWay) && last)
      await opened.client.close(last, AbortSignal.timeout(closeTimeoutMs)).catch(() => {})
    opened.close()
  }
}

/** The whole request each time, since what lies behind us may have grown; a refresh goes along the path it has. */
function requestOf(parts: SiteDialerParts, peer: Peer, last: Connection | undefined): NetworkServiceRequest {
  const { end, ownName, address } = parts
  const id = idOf(ownName, peer.name)
  const request = end.request({ endpointName: peer.name, clientName: ownName, id, address })
  if (request.connection && last?.path) request.connection.path = last.path
  return request
}

/** Ours: hexadecimal digits of a connection id. */
const connectionIdDigits = 32

/** The id of the connection, the same after a restart. */
function idOf(ownName: string, peerName: string): string {
  const names = JSON.stringify([ownName, peerName])
  return hash('sha256', names, 'hex').slice(0, connectionIdDigits)
}

/** The policies have checked that this token is the server's own. */
function serverOf(answer: Connection): string {
  return claimsOf(answer.path?.pathSegments[1]?.token ?? '')?.sub ?? ''
}

/** True when the other side has lost the connection or cannot be watched any more; false when a refresh is due. */
async function dueOrLost(
  parts: SiteDialerParts,
  linked: { readonly client: NsmClient; readonly answer: Connection },
  signal: AbortSignal,
): Promise<boolean> {
  const { clock } = parts
  const { client, answer } = linked
  const over = new AbortController()
  const waiting = AbortSignal.any([signal, over.signal])
  const delayMs = Math.min(refreshMaxMs, refreshDelayMs(answer.path, clock.wallMs()))
  const due = sleep(clock, delayMs, waiting).then(
    () => false,
    () => false,
  )
  const lost = untilLost(client, answer, waiting)
  const isLost = await Promise.race([due, lost])
  over.abort()
  await Promise.allSettled([due, lost])
  return isLost && !signal.aborted
}

async function untilLost(client: NsmClient, { path }: Connection, signal: AbortSignal): Promise<boolean> {
  const [own] = path?.pathSegments ?? []
  try {
    for await (const event of client.monitor(
      { pathSegments: [{ name: own?.name ?? '', id: own?.id ?? '' }] },
      signal,
    )) {
      const isDown = Object.values(event.connections).some(({ state }) => state === State.DOWN)
      if (event.type === ConnectionEventType.DELETE || isDown) return true
    }
  } catch {}
  return true
}
