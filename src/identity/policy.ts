import type { Prefix } from '../base/ip.ts'
import type { FederatedDomain } from './federated-domain.ts'
import { type IdPattern, IdPatternTree, noOrder } from './id-pattern.ts'
import { parseSpiffeId, type SpiffeId } from './spiffe-id.ts'

/** What somebody may do; all but `admin` with a network service. */
export const policyActions = ['find', 'request', 'offer', 'own', 'monitor', 'relay', 'admin'] as const

/** One of the actions. */
export type PolicyAction = (typeof policyActions)[number]

/** Who may do what with which services, and within which bounds. */
export interface Grant {
  readonly name: string
  /** Of the policy file. */
  readonly line: number
  readonly who: IdPattern
  readonly may: readonly PolicyAction[]
  /** Names of services; `*` is all of this server's, `*@domain` all of that domain's. */
  readonly services: readonly string[]
  /** What an endpoint that is offered by this grant may hand out: prefixes of addresses and routes. */
  readonly prefixes: readonly Prefix[]
  /** The same: zones of names, lower case. */
  readonly zones: readonly string[]
  /** Connections of one identity at the same time. */
  readonly connectionsMax?: number
  /** A lease is no longer than this. */
  readonly tokenLifetimeMs?: number
}

/** Who may do nothing, whatever is granted. */
export interface Denial {
  readonly who: IdPattern
  readonly reason: string
  readonly line: number
}

/** What a policy file says. */
export interface PolicyRules {
  readonly domains: readonly FederatedDomain[]
  readonly grants: readonly Grant[]
  readonly denials: readonly Denial[]
}

/** What somebody wants; without a service: with some service. */
export interface PolicyQuestion {
  readonly id: string
  readonly action: PolicyAction
  readonly service?: string | undefined
}

/** Why somebody may not. Stable. */
export type PolicyReason = 'NOT_GRANTED' | 'DENIED' | 'UNKNOWN_DOMAIN' | 'ID_INVALID'

/** May somebody? Without a grant where no policy says otherwise; `line` is that of the denial. */
export type PolicyDecision =
  | { readonly isGranted: true; readonly grant?: Grant }
  | { readonly isGranted: false; readonly reason: PolicyReason; readonly line?: number }

/** Rules that are made ready to be asked. */
export interface Policy {
  readonly rules: PolicyRules
  readonly trustDomains: ReadonlySet<string>
  readonly grants: GrantIndex
  readonly denials: IdPatternTree
}

/** Makes rules ready: a decision walks only what is granted for its action and service, however many grants there are. */
export function createPolicy(rules: PolicyRules): Policy {
  const denials = new IdPatternTree()
  for (const [order, { who }] of rules.denials.entries()) denials.add(who, order)
  const trustDomains = new Set(rules.domains.map(({ trustDomain }) => trustDomain))
  return { rules, trustDomains, grants: new GrantIndex(rules.grants), denials }
}

/** Grants by what they are for: an action, or an action and, behind a space, a service. */
class GrantIndex {
  readonly #grants: readonly Grant[]
  readonly #orders = new Map<string, number[]>()
  /** Made when first asked for: few of all the services of a file are, and a tree is larger than its lines. */
  readonly #trees = new Map<string, IdPatternTree>()

  constructor(grants: readonly Grant[]) {
    this.#grants = grants
    for (const [order, grant] of grants.entries()) for (const key of keysOf(grant)) this.#ordersOf(key).push(order)
  }

  /** The first grant of the file that fits. */
  first(spiffeId: SpiffeId, keys: readonly string[]): Grant | undefined {
    return this.#grants[Math.min(noOrder, ...keys.map((key) => this.#treeOf(key)?.first(spiffeId) ?? noOrder))]
  }

  #ordersOf(key: string): number[] {
    const orders = this.#orders.get(key) ?? []
    this.#orders.set(key, orders)
    return orders
  }

  #treeOf(key: string): IdPatternTree | undefined {
    const orders = this.#orders.get(key)
    if (!orders) return undefined
    const known = this.#trees.get(key)
    if (known) return known
    const tree = new IdPatternTree()
    for (const order of orders) {
      const grant = this.#grants[order]
      if (grant) tree.add(grant.who, order)
    }
    this.#trees.set(key, tree)
    return tree
  }
}

/** Denies win, then the first grant of the file that fits counts, with its bounds; nothing that is not granted is allowed. */
export function decide(policy: Policy, { id, action, service }: PolicyQuestion): PolicyDecision {
  const spiffeId = readId(id)
  if (!spiffeId) return { isGranted: false, reason: 'ID_INVALID' }
  const refusal = refusalOf(policy, spiffeId)
  if (refusal) return refusal
  const keys = action === 'admin' || service === undefined ? [action] : serviceKeys(service, action)
  const grant = policy.grants.first(spiffeId, keys)
  return grant ? { isGranted: true, grant } : { isGranted: false, reason: 'NOT_GRANTED' }
}

/** True for whoever has a grant of any kind and is not denied. */
export function isAdmitted(policy: Policy, id: string): boolean {
  const spiffeId = readId(id)
  if (!spiffeId || refusalOf(policy, spiffeId)) return false
  return policy.grants.first(spiffeId, policyActions) !== undefined
}

/** Why this identity may do nothing at all; undefined when it depends on the grants. */
export function exclusionOf(policy: Policy, id: string): PolicyDecision | undefined {
  const spiffeId = readId(id)
  return spiffeId ? refusalOf(policy, spiffeId) : { isGranted: false, reason: 'ID_INVALID' }
}

function refusalOf(policy: Policy, spiffeId: SpiffeId): PolicyDecision | undefined {
  if (!policy.trustDomains.has(spiffeId.trustDomain)) return { isGranted: false, reason: 'UNKNOWN_DOMAIN' }
  const denial = policy.rules.denials[policy.denials.first(spiffeId)]
  return denial && { isGranted: false, reason: 'DENIED', line: denial.line }
}

/** A service of another domain is never meant by the `*` of our own. */
function serviceKeys(service: string, action: PolicyAction): readonly string[] {
  const at = service.indexOf('@')
  if (service === '' || service.startsWith('*')) return []
  return [`${action} ${service}`, `${action} *${at < 0 ? '' : service.slice(at)}`]
}

function keysOf({ may, services }: Grant): readonly string[] {
  return may.flatMap((action) => [action, ...services.map((service) => `${action} ${service}`)])
}

function readId(id: string): SpiffeId | undefined {
  try {
    return parseSpiffeId(id)
  } catch {
    return undefined
  }
}
