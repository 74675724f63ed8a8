import type { Audit } from '../base/audit.ts'
import { createListeners } from '../base/listeners.ts'
import {
  decide,
  exclusionOf,
  type Grant,
  isAdmitted,
  type Policy,
  type PolicyAction,
  type PolicyDecision,
  type PolicyQuestion,
} from '../identity/policy.ts'
import { policyRefusal } from './grpc-errors.ts'
import { isNamed } from './policies.ts'

export type { Grant, PolicyDecision } from '../identity/policy.ts'

/** Who may do what with which service: asked with the identity that TLS verified, before anything is looked up. */
export interface Admission {
  /** True: there is no policy, and nothing is hidden from anybody. */
  readonly isOpen: boolean
  /** Without a grant in the answer NSM's own rules hold, as that a name belongs to whoever registered it first. */
  decide(question: PolicyQuestion): PolicyDecision
  /** As `decide`, but throws `REFUSED` (NOT_GRANTED), which says no more than what was asked; the audit has the rest. */
  check(question: PolicyQuestion): Grant | undefined
  /** True: denied, or of a domain that is not let in; it gets no new certificate. */
  isExcluded(spiffeId: string): boolean
  /** True for whoever may do anything. */
  isAdmitted(spiffeId: string): boolean
  /** Calls after each change of the rules; the result ends that. */
  onChange(listener: () => void): () => void
}

/** Without a policy: everybody whom TLS verified may do everything but pass on requests of others, which relays may. */
export function openAdmission(known: {
  /** SPIFFE IDs, or `spiffe://domain/path/*`. */
  readonly relays?: readonly string[]
  /** Servers of this network: relays that may offer the services of others too. */
  readonly isSite?: (spiffeId: string) => boolean
}): Admission {
  const { relays = [], isSite = () => false } = known
  const answer = ({ id, action }: PolicyQuestion): PolicyDecision => {
    const isOpen = action === 'relay' ? isSite(id) || isNamed(id, relays) : !unsaid.includes(action)
    return isOpen ? { isGranted: true } : notGranted
  }
  return {
    isOpen: true,
    decide: answer,
    check(question) {
      if (!answer(question).isGranted) throw refusalOf(question)
      return undefined
    },
    isExcluded: () => false,
    isAdmitted: () => true,
    onChange: () => () => {},
  }
}

/** Nobody sees or changes what is others' unless a policy says so. */
const unsaid: readonly PolicyAction[] = ['admin', 'monitor']
const notGranted: PolicyDecision = { isGranted: false, reason: 'NOT_GRANTED' }

/** What a policy says, until another one takes its place. */
export class PolicyAdmission implements Admission {
  readonly isOpen = false
  #policy: Policy
  readonly #own: string
  readonly #isSite: (spiffeId: string) => boolean
  readonly #audit: Audit
  readonly #listeners = createListeners()

  /** `own` may do everything; `isSite`, servers of this network, too, unless they are denied. */
  constructor(
    policy: Policy,
    parts: { readonly own: string; readonly isSite: (spiffeId: string) => boolean; readonly audit: Audit },
  ) {
    this.#policy = policy
    this.#own = parts.own
    this.#isSite = parts.isSite
    this.#audit = parts.audit
  }

  get policy(): Policy {
    return this.#policy
  }

  /** Takes the place of the rules at once; whoever is out by them is ended by those who listen, also when one of them fails. */
  replace(policy: Policy): void {
    this.#policy = policy
    this.#listeners.tell()
  }

  decide(question: PolicyQuestion): PolicyDecision {
    const isSite = this.#isSite(question.id) && !unsaid.includes(question.action)
    if (!isSite) return decide(this.#policy, question)
    return this.#exclusionOf(question.id) ?? { isGranted: true }
  }

  check(question: PolicyQuestion): Grant | undefined {
    const decision = this.decide(question)
    if (decision.isGranted) return decision.grant
    const { id, action, service } = question
    const { reason, line } = decision
    this.#audit.record({ event: 'grant.deny', id, service, reason, action, line })
    throw refusalOf(question)
  }

  isExcluded(spiffeId: string): boolean {
    return this.#exclusionOf(spiffeId) !== undefined
  }

  isAdmitted(spiffeId: string): boolean {
    return this.#isSite(spiffeId) ? !this.isExcluded(spiffeId) : isAdmitted(this.#policy, spiffeId)
  }

  onChange(listener: () => void): () => void {
    return this.#listeners.add(listener)
  }

  #exclusionOf(id: string): PolicyDecision | undefined {
    return id === this.#own ? undefined : exclusionOf(this.#policy, id)
  }
}

/** The same for a service that is not there, for a denied identity and for one without a grant. [security C14] */
function refusalOf({ action, service }: PolicyQuestion) {
  return policyRefusal(`NOT_GRANTED: ${action}${service ? ` ${service.slice(0, serviceMaxCharacters)}` : ''}`)
}

/** Ours: a name comes back to whoever asked for it in one line. */
const serviceMaxCharacters = 128
