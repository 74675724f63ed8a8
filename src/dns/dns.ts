import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import { type ListenAddress, type Listener, openListener } from './listener.ts'
import { createLoopGuard } from './loop-guard.ts'
import { type DropReason, Resolver, type ResolverCounters } from './resolver.ts'
import { RouteBook, type ScopeConfig, type UpstreamStatus } from './route-book.ts'
import type { ScopeMode } from './scope.ts'
import type { ScopeFigures } from './scope-stats.ts'
import type { Trace } from './trace.ts'
import type { Upstream } from './upstream.ts'
import { targetText } from './upstream-socket.ts'

export type { ScopeMode } from './scope.ts'
export type { ScopeFigures } from './scope-stats.ts'
export type { Contestant, Trace, TraceHop } from './trace.ts'
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
  /** Looks a name up past the cache and tells of every contestant; ends within 4.6 s. Throws `USAGE`. */
  trace(question: { readonly name: string; readonly type: string }, signal: AbortSignal): Promise<Trace>
  /** Forgets all cached replies; gives how many there were. */
  flush(): number
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
  readonly scopes: readonly ScopeStatus[]
  /** Names under no scope. */
  readonly others: Omit<ScopeStatus, 'suffix' | 'mode'>
  readonly upstreams: readonly UpstreamStatus[]
  readonly counters: Omit<Readonly<ResolverCounters>, 'drops'> & {
    /** Messages that got no answer of anybody, by reason; `foreign-peer` is one that may not ask at all. */
    readonly drops: Readonly<Record<DropReason | 'foreign-peer', number>>
  }
  readonly cache: { readonly entries: number; readonly bytes: number }
}

/** One scope: who is asked, and what happened. */
export interface ScopeStatus {
  readonly suffix: string
  readonly mode: ScopeMode
  /** The scope's own servers. */
  readonly servers: readonly string[]
  /** The host's resolvers that learn its names too. */
  readonly hostServers: readonly string[]
  readonly figures: ScopeFigures
}

/** Ours: all clocks of all questions are looked at this often. */
const tickMs = 50

/** Opens the listener and wires the resolver; throws `CONFLICT` or `PERMISSION` when it cannot listen. */
export async function openDns(settings: DnsSettings): Promise<Dns> {
  const { clock, log } = settings
  let cancelTick: (() => void) | undefined
  const wake = () => {
    cancelTick ??= clock.after(tickMs, tick)
  }
  const listener = await openListener(settings.listen, (message, peer) => {
    resolver.handle(message, peer)
    wake()
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
  const trace = async ({ name, type }: { readonly name: string; readonly type: string }, signal: AbortSignal) => {
    const [{ traceLookup }, { typeFromText }] = await Promise.all([import('./trace.ts'), import('./type-names.ts')])
    const question = { name, type: typeFromText(type) }
    const traced = traceLookup({ resolver, routes: () => book.routes, clock, question }, signal)
    wake()
    return traced
  }
  book.setDefaults(settings.defaultUpstreams)
  log.info('resolver listens', { address: `${listener.address}:${listener.port}` })
  return {
    setScopes: (owner, scopes) => book.setScopes(owner, scopes),
    removeOwner: (owner) => book.setScopes(owner, []),
    setDefaultUpstreams: (upstreams) => book.setDefaults(upstreams),
    status: () => statusOf({ book, resolver, listener }),
    trace,
    flush() {
      const { size } = resolver.cache
      resolver.forget()
      return size
    },
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

function statusOf(parts: { book: RouteBook; resolver: Resolver; listener: Listener }): DnsStatus {
  const { book, resolver, listener } = parts
  const servers = (upstreams: readonly Upstream[]) => upstreams.map(({ target }) => targetText(target))
  const { fallback } = book.routes
  return {
    scopes: book.scopes.map(({ suffix, mode, owners, defaults, stats }) => ({
      suffix,
      mode,
      servers: servers(owners),
      hostServers: servers(defaults),
      figures: stats.figures(),
    })),
    others: { servers: [], hostServers: servers(fallback.defaults), figures: fallback.stats.figures() },
    upstreams: book.upstreams,
    counters: { ...resolver.counters, drops: { ...resolver.counters.drops, 'foreign-peer': listener.foreignPeers() } },
    cache: { entries: resolver.cache.size, bytes: resolver.cache.bytes },
  }
}
