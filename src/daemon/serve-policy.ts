import { createHash } from 'node:crypto'
import { dirname, resolve } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { FederatedDomain } from '../identity/federated-domain.ts'
import type { Federation } from '../identity/federation.ts'
import type { OidcAdmission } from '../identity/oidc-admission.ts'
import type { Policy } from '../identity/policy.ts'
import { type PolicyFile, parsePolicyFile } from '../identity/policy-file.ts'
import { type Admission, openAdmission, PolicyAdmission } from '../nsm/admission.ts'
import { fileState, followFile, readSettingsFile } from './followed-file.ts'
import type { PolicyState } from './policy-protocol.ts'
import type { Around } from './serve-home.ts'
import { isSiteOf } from './serve-ids.ts'
import type { ServeSettings } from './serve-settings.ts'

/** Who may do what here, as the policy file says it. */
export interface ServePolicy {
  readonly admission: Admission
  /** Reads the file again; one that is bad changes nothing and is told in log, audit and `state`. */
  reload(): Promise<void>
  /** Undefined without a file. */
  state(): PolicyState | undefined
  /** The file as it is in force, for the other sites; empty without one. */
  text(): string
}

/** Whom a policy decides about, and what follows from it beside the grants. */
export interface PolicyParts extends Around {
  /** SPIFFE ID of this server. */
  readonly own: string
  readonly trustDomain: string
  readonly federation: Pick<Federation, 'setDomains'>
  readonly oidc: Pick<OidcAdmission, 'setIssuers'>
  readonly clock: Clock
}

type Settings = Pick<ServeSettings, 'policyPath' | 'issuers' | 'relays'>

/** Opens the policy file and follows it; without one everybody whom TLS verified may come. Throws `USAGE`. */
export async function openPolicy(settings: Settings, parts: PolicyParts): Promise<ServePolicy> {
  const { policyPath, relays = [] } = settings
  const isSite = isSiteOf(parts.trustDomain)
  if (policyPath === undefined) {
    const admission = openAdmission({ relays, isSite })
    return { admission, reload: async () => {}, state: () => undefined, text: () => '' }
  }
  refuseRelays(relays)
  const { own, audit } = parts
  const since = await fileState(policyPath)
  const first = await load(policyPath, settings, parts)
  apply(first, settings, parts)
  const admission = new PolicyAdmission(first.file.policy, { own, isSite, audit })
  let { text } = first
  let state = stateOf(policyPath, first, parts)
  tellReload(state, parts)
  const followed = followFile(policyPath, {
    since,
    clock: parts.clock,
    async load() {
      try {
        const next = await load(policyPath, settings, parts)
        apply(next, settings, parts)
        text = next.text
        state = stateOf(policyPath, next, parts)
        tellReload(state, parts)
        enforce(admission, next.file.policy, parts)
      } catch (error) {
        state = { ...state, error: toNsmError(error).message }
        tellError(state, parts)
      }
    },
  })
  parts.undo.push(async () => followed.close())
  return { admission, reload: followed.reload, state: () => state, text: () => text }
}

interface Loaded {
  readonly text: string
  readonly file: PolicyFile
  readonly domains: readonly FederatedDomain[]
  readonly sha256: string
}

async function load(path: string, settings: Settings, { trustDomain }: PolicyParts): Promise<Loaded> {
  const text = await readSettingsFile(path)
  const file = policyOfDomain(text, path, trustDomain)
  if (file.issuers && settings.issuers) {
    throw new NsmError('USAGE', 'issuers are named in one way', 'in the policy file, or by --issuers or --issuer')
  }
  const domains = file.policy.rules.domains.map((domain) => withAbsolutePath(domain, dirname(path)))
  return { text, file, domains, sha256: sha256Of(text) }
}

/** Reads a policy that is meant for servers of this trust domain; throws `USAGE`. */
export function policyOfDomain(text: string, path: string, trustDomain: string): PolicyFile {
  const file = parsePolicyFile(text, path)
  if (file.trustDomain === trustDomain) return file
  const what = `${path}: the domain with \`bundle: own\` is ${file.trustDomain}, this server is of ${trustDomain}`
  throw new NsmError('USAGE', what, `write td: ${trustDomain}`)
}

/** A policy grants `relay`; throws `USAGE`. */
export function refuseRelays(relays: readonly string[]): void {
  if (relays.length === 0) return
  throw new NsmError(
    'USAGE',
    'relays are named in one way',
    'grant `may: [relay]` in the policy, and leave --relay out',
  )
}

/** Paths in the file are meant from its own folder. */
function withAbsolutePath(domain: FederatedDomain, folder: string): FederatedDomain {
  const { bundle } = domain
  if (!('path' in bundle) || bundle.path === undefined) return domain
  return { ...domain, bundle: { ...bundle, path: resolve(folder, bundle.path) } }
}

/** Of a text, hexadecimal. */
export function sha256Of(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** What may refuse comes first and changes nothing then. Issuers that the file names no more admit nobody. */
function apply({ file, domains }: Loaded, { issuers }: Settings, { federation, oidc }: PolicyParts): void {
  federation.setDomains(domains)
  if (!issuers) oidc.setIssuers(file.issuers ?? [])
}

/** What is shown of a policy that is in force. */
export function stateOf(
  path: string,
  { file, sha256 }: Pick<Loaded, 'file' | 'sha256'>,
  { clock }: Pick<PolicyParts, 'clock'>,
): PolicyState {
  const { domains, grants, denials } = file.policy.rules
  const counts = { domains: domains.length, grants: grants.length, denies: denials.length }
  return { path, sha256, ...counts, loadedMs: clock.wallMs() }
}

/** Puts a policy in force. It is so even where somebody could not end what it no longer admits, as on a full disk. */
export function enforce(
  admission: Pick<PolicyAdmission, 'replace'>,
  policy: Policy,
  { log }: Pick<Around, 'log'>,
): void {
  try {
    admission.replace(policy)
  } catch (error) {
    log.error('not everything ended that the policy does not admit', { error: toNsmError(error).message })
  }
}

/** Says that a policy is in force. */
export function tellReload(state: PolicyState, { log, audit }: Pick<Around, 'log' | 'audit'>): void {
  const { path, sha256, grants, denies, domains } = state
  log.info('the policy is in force', { path, grants, denies, domains })
  audit.record({ event: 'policy.reload', path, sha256, grants, denies, domains })
}

/** Says that a policy is not in force, and why. */
export function tellError({ path, error = '' }: PolicyState, { log, audit }: Pick<Around, 'log' | 'audit'>): void {
  log.error('the policy cannot be used, the one before stays', { path, error })
  audit.record({ event: 'policy.error', path, reason: error })
}
