import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Prefix } from '../base/ip.ts'
import { AnswerBounds, prefixOfScope } from './answer-bounds.ts'
import type { LoopGuard } from './loop-guard.ts'
import { type Route, Routes } from './routes.ts'
import { isPrefix, type ScopeMode, ScopeTable } from './scope.ts'
import { ScopeStats } from './scope-stats.ts'
import { Upstream, type UpstreamCounters } from './upstream.ts'
import type { UpstreamAddress } from './upstream-socket.ts'

/** One scope of an owner: a domain suffix without trailing dot, or an IP prefix for the reverse names of its addresses. */
export interface ScopeConfig {
  readonly suffix: string
  readonly mode: ScopeMode
  readonly upstreams: readonly UpstreamAddress[]
}

/** How one upstream does. */
export interface UpstreamStatus extends UpstreamCounters {
  readonly address: string
  readonly port: number
  readonly roundTripMs: number
  readonly suspect: boolean
}

/** Ours: servers of one scope and scopes in all; more is a mistake or an attack. */
const upstreamsPerScopeMax = 8
const scopesMax = 1_024

/** Who asked for which scope; keeps the upstreams alive that are in use and makes the routes of the moment. */
export class RouteBook {
  routes: Routes
  readonly #parts: { readonly clock: Clock; readonly guard: LoopGuard; readonly onChange: () => void }
  readonly #owners = new Map<string, readonly ScopeConfig[]>()
  readonly #upstreams = new Map<string, Upstream>()
  #defaults: readonly UpstreamAddress[] = []
  #routes: readonly Route[] = []
  #bounds = new AnswerBounds()
  #lastId = 0
  readonly #stats = new Map<string, ScopeStats>()
  /** Upstreams that led back here. */
  readonly #banned = new Set<string>()
  /** Upstreams out of use that may still answer what they were asked. */
  readonly #leaving = new Set<Upstream>()

  constructor(parts: { readonly clock: Clock; readonly guard: LoopGuard; readonly onChange: () => void }) {
    this.#parts = parts
    this.routes = new Routes(new ScopeTable<Route>([]), this.#route('', { mode: 'fanout', owners: [] }), isNoProbe)
  }

  /** The routes of all scopes. */
  get scopes(): readonly Route[] {
    return this.#routes
  }

  /** How all upstreams do. */
  get upstreams(): readonly UpstreamStatus[] {
    return [...this.#upstreams.values()].map(({ target, counters, roundTripMs, suspect }) => ({
      address: target.address,
      port: target.port,
      roundTripMs: Math.round(roundTripMs * 10) / 10,
      suspect,
      ...counters,
    }))
  }

  /** True while an upstream may still answer. */
  get busy(): boolean {
    for (const upstream of this.#upstreams.values()) if (upstream.busy) return true
    return this.#leaving.size > 0
  }

  /** Replaces one owner's scopes; the same scopes again change nothing. Throws `USAGE` and then changes nothing. */
  setScopes(owner: string, scopes: readonly ScopeConfig[]): void {
    const before = this.#owners.get(owner) ?? []
    if (JSON.stringify(before) === JSON.stringify(scopes)) return
    checkScopes(scopes)
    this.#checkCount(owner, scopes)
    if (scopes.length === 0) this.#owners.delete(owner)
    else this.#owners.set(owner, scopes)
    this.#rebuild(scopes.length === 0 ? 'at once' : 'after replies')
    this.#parts.guard.probe(this.#upstreamsOf(scopes.flatMap(({ upstreams }) => upstreams)).map(({ target }) => target))
  }

  /** Replaces the host's own resolvers: the network changed, so what was known of anybody's speed is forgotten. */
  setDefaults(upstreams: readonly UpstreamAddress[]): void {
    this.#defaults = upstreams
    this.#banned.clear()
    for (const upstream of this.#upstreams.values()) upstream.forgetSpeed()
    this.#rebuild()
    this.#parts.guard.probe(this.#defaultUpstreams().map((upstream) => upstream.target))
  }

  /** Takes an upstream out that leads back here. */
  ban(target: UpstreamAddress): void {
    this.#banned.add(keyOf(target))
    this.#rebuild()
  }

  /** Moves the upstreams' own clocks on. */
  tick(nowMs: number): void {
    for (const upstream of this.#upstreams.values()) upstream.tick(nowMs)
    for (const upstream of this.#leaving) {
      upstream.tick(nowMs)
      if (upstream.busy) continue
      upstream.close()
      this.#leaving.delete(upstream)
    }
  }

  /** Closes all upstreams. */
  close(): void {
    for (const upstream of [...this.#upstreams.values(), ...this.#leaving]) upstream.close()
    this.#upstreams.clear()
    this.#leaving.clear()
  }

  /** An owner that goes takes its servers along at once; when settings change, what was asked may still be answered. */
  #rebuild(unusedEnd: 'at once' | 'after replies' = 'after replies'): void {
    this.#bounds = new AnswerBounds(this.#granted())
    this.#routes = this.#merged().map(({ suffix, ...part }) => this.#route(suffix, part))
    const fallback = this.#route('', { mode: 'fanout', owners: [] })
    const inUse = new Set(this.#routes.map(({ suffix }) => suffix))
    const scopes = new ScopeTable(this.#routes.map((route) => ({ suffix: route.suffix, route })))
    this.routes = new Routes(scopes, fallback, (nameKey) => this.#parts.guard.saw(nameKey))
    this.#endUnused([...this.#routes, fallback], unusedEnd)
    for (const suffix of this.#stats.keys()) if (suffix !== '' && !inUse.has(suffix)) this.#stats.delete(suffix)
    this.#parts.onChange()
  }

  /** The prefixes of each service's servers: those of the reverse scopes of the same owner. */
  #granted(): ReadonlyMap<Upstream, readonly Prefix[]> {
    const granted = new Map<Upstream, readonly Prefix[]>()
    for (const scopes of this.#owners.values()) {
      const prefixes = scopes.flatMap(({ suffix }) => prefixOfScope(suffix) ?? [])
      if (prefixes.length === 0) continue
      for (const upstream of this.#upstreamsOf(scopes.flatMap(({ upstreams }) => upstreams))) {
        granted.set(upstream, [...(granted.get(upstream) ?? []), ...prefixes])
      }
    }
    return granted
  }

  /** One entry per suffix: all its owners are asked, the strictest mode holds. */
  #merged() {
    const merged = new Map<string, { suffix: string; mode: ScopeMode; owners: UpstreamAddress[] }>()
    for (const { suffix, mode, upstreams } of [...this.#owners.values()].flat()) {
      const key = suffix.toLowerCase().replace(/\.$/, '') || root
      const entry = merged.get(key) ?? { suffix: key, mode, owners: [] }
      entry.owners.push(...upstreams)
      if (strictness[mode] > strictness[entry.mode]) entry.mode = mode
      merged.set(key, entry)
    }
    return [...merged.values()]
  }

  #checkCount(owner: string, scopes: readonly ScopeConfig[]): void {
    const others = [...this.#owners].filter(([name]) => name !== owner).flatMap(([, found]) => found)
    const count = others.length + scopes.length
    if (count <= scopesMax) return
    throw new NsmError('USAGE', `${count} scopes are too many, at most ${scopesMax} are kept`, 'name wider scopes')
  }

  #route(suffix: string, part: { readonly mode: ScopeMode; readonly owners: readonly UpstreamAddress[] }): Route {
    this.#lastId = (this.#lastId + 1) & 0xffff
    const owners = this.#upstreamsOf(part.owners).slice(0, upstreamsPerScopeMax)
    const defaults =
      part.mode === 'exclusive' ? [] : this.#defaultUpstreams().filter((found) => !owners.includes(found))
    const hasServers = owners.length > 0 || defaults.length > 0
    const stats = this.#statsOf(suffix)
    return { id: this.#lastId, suffix, mode: part.mode, owners, defaults, bounds: this.#bounds, hasServers, stats }
  }

  #statsOf(suffix: string): ScopeStats {
    const found = this.#stats.get(suffix) ?? new ScopeStats()
    this.#stats.set(suffix, found)
    return found
  }

  #defaultUpstreams(): readonly Upstream[] {
    return this.#upstreamsOf(this.#defaults).slice(0, upstreamsPerScopeMax)
  }

  /** The same server asked for by two owners is one upstream; our own addresses never are. */
  #upstreamsOf(targets: readonly UpstreamAddress[]): Upstream[] {
    const found = new Set<Upstream>()
    for (const target of targets) {
      const key = keyOf(target)
      if (this.#parts.guard.isOurs(target) || this.#banned.has(key)) continue
      const upstream = this.#upstreams.get(key) ?? new Upstream(target, this.#parts.clock)
      this.#upstreams.set(key, upstream)
      found.add(upstream)
    }
    return [...found]
  }

  #endUnused(routes: readonly Route[], end: 'at once' | 'after replies'): void {
    const used = new Set(routes.flatMap((route) => [...route.owners, ...route.defaults]))
    for (const [key, upstream] of this.#upstreams) {
      if (used.has(upstream)) continue
      this.#upstreams.delete(key)
      upstream.retire()
      if (end === 'at once' || !upstream.busy) upstream.close()
      else this.#leaving.add(upstream)
    }
  }
}

/** The scope of every name, told from '', the route of names under no scope. */
const root = '.'

const strictness: Readonly<Record<ScopeMode, number>> = { fanout: 0, 'prefer-service': 1, exclusive: 2 }

function keyOf({ address, port, localAddress = '' }: UpstreamAddress): string {
  return `${address} ${port} ${localAddress}`
}

function isNoProbe(): boolean {
  return false
}

/** Building a table of them parses every suffix. */
function checkScopes(scopes: readonly ScopeConfig[]): void {
  new ScopeTable(scopes.map(({ suffix }) => ({ suffix, route: suffix })))
  const many = scopes.find((scope) => scope.upstreams.length > upstreamsPerScopeMax)
  if (!many) return
  const what = isPrefix(many.suffix) ? 'prefix' : 'domain'
  const message = `the ${what} ${many.suffix} has ${many.upstreams.length} servers, at most ${upstreamsPerScopeMax} are asked`
  throw new NsmError('USAGE', message, `name at most ${upstreamsPerScopeMax} servers`)
}
