import { NsmError } from '../base/errors.ts'
import type { Channel, Target } from '../nsm/channel.ts'
import { createNsmClient, type NsmClient } from '../nsm/client.ts'
import type { Connection } from '../nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import type { NetworkServiceEndpoint } from '../nsm/generated/registry_pb.js'
import { stampTokens } from '../nsm/path.ts'
import type { OwnHop, PeerContext } from '../nsm/peer.ts'
import type { EndpointServer } from './endpoint-server.ts'

/** The hop behind the manager: an endpoint in this process, or one that is reached by gRPC. */
export interface NextHop {
  /** Undefined for an endpoint in this process. */
  readonly client: NsmClient | undefined
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
    client: undefined,
    request: (request, signal) => {
      const connection = request.connection && withToken(request.connection)
      return endpoint.request(connection ? { ...request, connection } : request, asker.peer, signal)
    },
    close: (connection) => endpoint.close(withToken(connection), asker.peer),
  }
}

/** Channels to endpoints elsewhere, one per address, opened when first needed. */
export class RemoteHops {
  readonly #dial: (target: Target) => Channel
  readonly #open = new Map<string, { readonly channel: Channel; readonly client: NsmClient }>()

  constructor(dial: (target: Target) => Channel) {
    this.#dial = dial
  }

  /** Throws `UNREACHABLE` for a url that is not `tcp://host:port`. */
  hop(endpoint: NetworkServiceEndpoint): NextHop {
    const { client } = this.#opened(endpoint.url)
    return {
      client,
      request: (request, signal) => client.request(request, signal),
      close: (connection) => client.close(connection),
    }
  }

  close(): void {
    for (const { channel } of this.#open.values()) channel.close()
    this.#open.clear()
  }

  #opened(url: string): { readonly client: NsmClient } {
    const known = this.#open.get(url)
    if (known) return known
    if (this.#open.size >= remotesMax) this.#forgetOldest()
    const channel = this.#dial(targetOf(url))
    const opened = { channel, client: createNsmClient(channel) }
    this.#open.set(url, opened)
    return opened
  }

  #forgetOldest(): void {
    const [oldest] = this.#open
    if (!oldest) return
    oldest[1].channel.close()
    this.#open.delete(oldest[0])
  }
}

/** Ours: addresses of endpoints that are kept open; anybody who may register can name one. */
const remotesMax = 256

/** [NSM sdk grpcutils] `tcp://host:port`; sockets of this machine are nobody else's to name. */
function targetOf(url: string): Target {
  const found = /^tcp:\/\/(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/.exec(url)
  const port = Number(found?.[3])
  const address = found?.[1] ?? found?.[2]
  if (address === undefined || !(port > 0 && port < 65_536)) {
    throw new NsmError(
      'UNREACHABLE',
      `the endpoint's url ${JSON.stringify(url.slice(0, 128))} cannot be dialed`,
      'register tcp://host:port',
    )
  }
  return { address, port }
}
