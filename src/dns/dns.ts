import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import { type ListenAddress, openListener } from './listener.ts'
import { createLoopGuard } from './loop-guard.ts'
import { Resolver, type ResolverCounters } from './resolver.ts'
import { RouteBook, type ScopeConfig, type UpstreamStatus } from './route-book.ts'
import type { UpstreamAddress } from './upstream-socket.ts'

export type { ScopeMode } from './scope.ts'
export type { ScopeConfig, UpstreamStatus }

/** The whole resolver. */
export interface Dns {
  /** Replaces all scopes of one owner (a connection's id); cached replies are forgotten when anything changed. Throws `USAGE`. */
  setScopes(owner: string, scopes: readonly ScopeConfig[]): void
  /** Takes all scopes of one owner away. */
  removeOwner(owner: string): void
  /** Replaces the host's own resolvers; our own addresses are left out. */
  setDefaultUpstreams(upstreams: readonly ListenAddress[]): void
  /** What is configured and how the upstreams do. */
  status(): DnsStatus
  readonly listening: ListenAddress
  /** Stops answering and closes all sockets. */
  close(): Promise<void>
}

/** What a resolver is opened with; `listen` holds candidates, tried in order. */
export interface DnsSettings {
  readonly clock: Clock
  readonly log: Log
  readonly listen: readonly ListenAddress[]
  readonly defaultUpstreams: readonly ListenAddress[]
}

/** A view of the resolver for people. */
export interface DnsStatus {
  readonly scopes: readonly { readonly suffix: string; readonly mode: string; readonly servers: readonly string[] }[]
  readonly upstreams: readonly UpstreamStatus[]
  readonly counters: Readonly<ResolverCounters>
  readonly cache: { readonly entries: number; readonly bytes: number }
}

/** Ours: first choice and its stand-ins, clear of the addresses other local resolvers use. */
export const listenCandidates: readonly ListenAddress[] = [55, 56, 57, 58, 59].map((last) => ({
  address: `127.0.0.${last}`,
  port: 53,
}))

/** Ours: all clocks of all questions are looked at this often. */
const tickMs = 50

/** Opens the listener and wires the resolver; throws `CONFLICT` or `PERMISSION` when it cannot listen. */
export async function openDns(settings: DnsSettings): Promise<Dns> {
  const { clock, log } = settings
  let cancelTick: (() => void) | undefined
  const listener = await openListener(settings.listen, (message, peer) => {
    resolver.handle(message, peer)
    cancelTick ??= clock.after(tickMs, tick)
  })
  const guard = createLoopGuard({ clock, log, listening: listener, onLoop: (target) => book.ban(target) })
  const book = new RouteBook({ clock, guard, onChange: () => resolver.forget() })
  const resolver = new Resolver({ clock, listenAddress: listener.address, routes: () => book.routes })
  const tick = () => {
    const nowMs = clock.monotonicMs()
    resolver.tick(nowMs)
    book.tick(nowMs)
    cancelTick = resolver.busy || book.busy ? clock.after(tickMs, tick) : undefined
  }
  book.setDefaults(settings.defaultUpstreams)
  log.info('resolver listens', { address: `${listener.address}:${listener.port}` })
  return {
    setScopes: (owner, scopes) => book.setScopes(owner, scopes),
    removeOwner: (owner) => book.setScopes(owner, []),
    setDefaultUpstreams: (upstreams) => book.setDefaults(upstreams),
    status: () => statusOf(book, resolver),
    listening: { address: listener.address, port: listener.port },
    close: async () => {
      cancelTick?.()
      guard.close()
      resolver.close()
      book.close()
      await listener.close()
    },
  }
}

function statusOf(book: RouteBook, resolver: Resolver): DnsStatus {
  const text = ({ address, port }: UpstreamAddress) => (port === 53 ? address : `${address}:${port}`)
  return {
    scopes: book.scopes.map(({ suffix, mode, owners }) => ({
      suffix,
      mode,
      servers: owners.map((u) => text(u.target)),
    })),
    upstreams: book.upstreams,
    counters: { ...resolver.counters },
    cache: { entries: resolver.cache.size, bytes: resolver.cache.bytes },
  }
}
