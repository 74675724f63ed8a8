import type { AnswerBounds } from './answer-bounds.ts'
import type { ScopeMode, ScopeTable } from './scope.ts'
import type { ScopeStats } from './scope-stats.ts'
import type { Upstream } from './upstream.ts'

/** Who is asked for the names of one scope (or of none). */
export interface Route {
  /** Changes whenever the scope or its upstreams change, so that old cached replies are never met. 16 bits. */
  readonly id: number
  readonly suffix: string
  readonly mode: ScopeMode
  readonly owners: readonly Upstream[]
  readonly defaults: readonly Upstream[]
  /** Which addresses their answers may hold. */
  readonly bounds: AnswerBounds
  /** Counters that outlive the route: its scope's. */
  readonly stats: ScopeStats
  /** False when there is nobody to ask. */
  readonly hasServers: boolean
}

/** All routes of the moment. */
export class Routes {
  readonly scopes: ScopeTable<Route>
  /** For names under no scope: the host's own resolvers. */
  readonly fallback: Route
  readonly #isProbe: (nameKey: string) => boolean

  constructor(scopes: ScopeTable<Route>, fallback: Route, isProbe: (nameKey: string) => boolean) {
    this.scopes = scopes
    this.fallback = fallback
    this.#isProbe = isProbe
  }

  /** The route of a name: its longest scope, else the host's own resolvers. */
  find(nameKey: string): Route {
    return this.scopes.find(nameKey) ?? this.fallback
  }

  /** True for a name made up to find out whether an upstream asks us back. */
  isProbe(nameKey: string): boolean {
    return this.#isProbe(nameKey)
  }
}
