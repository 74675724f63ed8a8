import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { within } from '../base/within.ts'
import type { Channel, Target } from '../nsm/channel.ts'
import { createNsmClient, type NsmClient } from '../nsm/client.ts'
import type { Connection } from '../nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import type { NetworkServiceEndpoint } from '../nsm/generated/registry_pb.js'
import { stampTokens } from '../nsm/path.ts'
import type { OwnHop, PeerContext } from '../nsm/peer.ts'
import type { EndpointServer } from './endpoint-server.ts'
import { KeptOpen } from './kept-open.ts'
import { createWatchChannels, type WatchChannels } from './watch-channels.ts'

/** The hop behind the manager: an endpoint in this process, or one that is reached by gRPC. */
export interface NextHop {
  /** Watches connections there; undefined for an endpoint in this process. */
  readonly monitor: NsmClient['monitor'] | undefined
  request(request: NetworkServiceRequest, signal: AbortSignal): Promise<Connection>
  close(connection: Connection): Promise<void>
}

/** Who asked, and what the manager may say in its own name on that connection. */
export interface Asker {
  readonly peer: PeerContext
  readonly own: OwnHop
  /** Wall milliseconds: the endpoint behind keeps the connection no longer than the caller's lease. */
  readonly leaseEndMs: number
}

/**
 * An endpoint in this process has our own SPIFFE ID, so the manager's token names that as audience, and the manager
 * writes it itself: no TLS connection carries it. The endpoint gets the client that TLS verified.
 */
export function localHop(endpoint: EndpointServer, asker: Asker): NextHop {
  const withToken = (connection: Connection) => {
    const { token, expiresMs } = asker.own.token(asker.own.spiffeId)
    const own = { token, expiresMs: Math.min(expiresMs, asker.leaseEndMs) }
    return stampTokens(connection, { caller: undefined, own })
  }
  return {
    monitor: undefined,
    request: (request, signal) => {
      const connection = request.connection && withToken(request.connection)
      return endpoint.request(connection ? { ...request, connection } : request, asker.peer, signal)
    },
    close: (connection) => endpoint.close(withToken(connection), asker.peer),
  }
}

/** Opens a channel that only a server with an expected SPIFFE ID may answer: the handshake ends with any other. */
export type Dial = (target: Target, expect: (spiffeId: string) => boolean) => Channel

interface Remote {
  readonly channel: Channel
  readonly client: NsmClient
  readonly watches: WatchChannels
}

/** Ours: endpoints elsewhere that are dialed at the same time; anybody who may register can name one. */
const remotesMax = 256
/** Ours: a close is a courtesy to an endpoint that may be dead, and the next request waits for it. */
const closeMaxMs = 1_000

/** Channels to endpoints elsewhere, by address and registrant, opened when needed and closed when unused. */
export class RemoteHops {
  readonly #parts: { readonly dial: Dial; readonly clock: Clock }
  readonly #open: KeptOpen<Remote>

  constructor(parts: { readonly dial: Dial; readonly clock: Clock }) {
    this.#parts = parts
    this.#open = new KeptOpen({ clock: parts.clock, most: remotesMax, full: tooManyRemotes, close: closeRemote })
  }

  /**
   * `owner`: who registered the endpoint, as TLS verified it. It has to be the server at the url, or the first identity on
   * the registration path has to, for an entry that another registry passed on.
   * Throws `UNREACHABLE` for a url that is not `tcp://host:port`.
   */
  hop(endpoint: NetworkServiceEndpoint, owner: string | undefined): NextHop {
    const { url, pathIds } = endpoint
    const target = targetOf(url)
    const registrants = [owner ?? '', pathIds[0] ?? ''].filter((id) => id !== '')
    const open = () => this.#dial({ target, registrants })
    const use = () => this.#open.use(`${url} ${registrants.join(' ')}`, open)
    const call = async <T>(ask: (client: NsmClient) => Promise<T>): Promise<T> => {
      const { thing: remote, done } = use()
      try {
        return await ask(remote.client)
      } finally {
        done()
      }
    }
    return {
      async *monitor(selector, signal) {
        const { thing: remote, done } = use()
        try {
          yield* remote.watches.monitor(selector, signal)
        } finally {
          done()
        }
      },
      request: (request, signal) => call((client) => client.request(request, signal)),
      close: (connection) => {
        const late = () => new NsmError('UNREACHABLE', `the endpoint at ${url} does not answer`, 'its lease will end')
        const limit = { clock: this.#parts.clock, limitMs: closeMaxMs, late }
        return call((client) => within(limit, (signal) => client.close(connection, signal)))
      },
    }
  }

  close(): void {
    this.#open.close()
  }

  #dial(to: { readonly target: Target; readonly registrants: readonly string[] }): Remote {
    const open = () => this.#parts.dial(to.target, (spiffeId) => to.registrants.includes(spiffeId))
    const channel = open()
    return { channel, client: createNsmClient(channel), watches: createWatchChannels(open) }
  }
}

function tooManyRemotes(): NsmError {
  const message = `${remotesMax} endpoints elsewhere are in use, the most at the same time`
  return new NsmError('UNREACHABLE', message, 'try again later')
}

function closeRemote({ channel, watches }: Remote): void {
  channel.close()
  watches.close()
}

/** Reads `tcp://host:port`; sockets of this machine are nobody else's to name. Throws `UNREACHABLE`. [NSM sdk grpcutils] */
export function targetOf(url: string): Target {
  const target = parseTarget(url)
  if (target) return target
  throw new NsmError(
    'UNREACHABLE',
    `the endpoint's url ${JSON.stringify(url.slice(0, 128))} cannot be dialed`,
    'register tcp://host:port',
  )
}

/** As `targetOf`, and undefined for a url that cannot be dialed. */
export function parseTarget(url: string): Target | undefined {
  const found = /^tcp:\/\/(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/.exec(url)
  const port = Number(found?.[3])
  const address = found?.[1] ?? found?.[2]
  return address !== undefined && port > 0 && port < 65_536 ? { address, port } : undefined
}
