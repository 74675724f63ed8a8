import { hash } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { Policy } from '../identity/policy.ts'
import type { PolicyFile } from '../identity/policy-file.ts'
import { type Admission, openAdmission, PolicyAdmission } from '../nsm/admission.ts'
import type { PolicyState } from './policy-protocol.ts'
import type { Around } from './serve-home.ts'
import { isSiteOf } from './serve-ids.ts'

/** A policy, and the text that says it. */
export interface PolicyText {
  readonly text: string
  readonly policy: Policy
}

/** The policy of a server, until another one takes its place. */
export interface PolicyInForce {
  readonly admission: Admission
  /** Undefined without a policy. */
  state(): PolicyState | undefined
  /** As it is in force; empty without one. */
  text(): string
  /** Puts in force what is read; one that cannot be read changes nothing, and is told in log, audit and `state`. */
  replace(read: () => Promise<PolicyText>): Promise<void>
}

/** For whom a policy is in force, and who hears of it. */
export interface PolicyInForceParts extends Pick<Around, 'log' | 'audit'> {
  /** SPIFFE ID of this server. */
  readonly own: string
  readonly trustDomain: string
  readonly clock: Clock
}

/** Puts a policy in force; `path` says where it is from. */
export function putInForce(path: string, first: PolicyText, parts: PolicyInForceParts): PolicyInForce {
  const { own, trustDomain, log, audit } = parts
  const admission = new PolicyAdmission(first.policy, { own, isSite: isSiteOf(trustDomain), audit })
  let { text } = first
  let state = tellReload(path, first, parts)
  return {
    admission,
    state: () => state,
    text: () => text,
    async replace(read) {
      try {
        const next = await read()
        text = next.text
        state = tellReload(path, next, parts)
        enforce(admission, next.policy, parts)
      } catch (error) {
        const { message } = toNsmError(error)
        state = { ...state, error: message }
        log.error('the policy cannot be used, the one before stays', { path, error: message })
        audit.record({ event: 'policy.error', path, reason: message })
      }
    },
  }
}

/** Says that a policy is in force. */
function tellReload(
  path: string,
  { text, policy }: PolicyText,
  { clock, log, audit }: PolicyInForceParts,
): PolicyState {
  const { domains, grants, denials } = policy.rules
  const counts = { grants: grants.length, denies: denials.length, domains: domains.length }
  const sha256 = hash('sha256', text, 'hex')
  log.info('the policy is in force', { path, ...counts })
  audit.record({ event: 'policy.reload', path, sha256, ...counts })
  return { path, sha256, ...counts, loadedMs: clock.wallMs() }
}

/** It is in force even where somebody could not end what it no longer admits, as on a full disk. */
function enforce(admission: PolicyAdmission, policy: Policy, { log }: PolicyInForceParts): void {
  try {
    admission.replace(policy)
  } catch (error) {
    log.error('not everything ended that the policy does not admit', { error: toNsmError(error).message })
  }
}

/** Without a policy everybody whom TLS verified may come, and relays are named by a flag. */
export function withoutPolicy(relays: readonly string[], trustDomain: string): Omit<PolicyInForce, 'replace'> {
  const admission = openAdmission({ relays, isSite: isSiteOf(trustDomain) })
  return { admission, state: () => undefined, text: () => '' }
}

/** A policy grants `relay`; throws `USAGE`. */
export function refuseRelays(relays: readonly string[]): void {
  if (relays.length === 0) return
  const next = 'grant `may: [relay]` in the policy, and leave --relay out'
  throw new NsmError('USAGE', 'relays are named in one way', next)
}

/** Reads a policy that is meant for servers of this trust domain; throws `USAGE`. */
export async function policyOfDomain(text: string, path: string, trustDomain: string): Promise<PolicyFile> {
  // With the first policy: a server without one starts 25 ms sooner without YAML.
  const { parsePolicyFile } = await import('../identity/policy-file.ts')
  const file = parsePolicyFile(text, path)
  if (file.trustDomain === trustDomain) return file
  const what = `${path}: the domain with \`bundle: own\` is ${file.trustDomain}, this server is of ${trustDomain}`
  throw new NsmError('USAGE', what, `write td: ${trustDomain}`)
}
