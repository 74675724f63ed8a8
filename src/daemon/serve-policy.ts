import { dirname, resolve } from 'node:path'
import { NsmError } from '../base/errors.ts'
import { readSettingsFile } from '../base/settings-file.ts'
import type { FederatedDomain } from '../identity/federated-domain.ts'
import type { Federation } from '../identity/federation.ts'
import type { OidcAdmission } from '../identity/oidc-admission.ts'
import { fileState, followFile } from './followed-file.ts'
import {
  type PolicyInForce,
  type PolicyInForceParts,
  type PolicyText,
  policyOfDomain,
  putInForce,
  refuseRelays,
  withoutPolicy,
} from './policy-in-force.ts'
import type { Around } from './serve-home.ts'
import type { ServeSettings } from './serve-settings.ts'

/** Who may do what here, as the policy file says it. */
export interface ServePolicy extends Omit<PolicyInForce, 'replace'> {
  /** Reads the file again; one that is bad changes nothing and is told in log, audit and `state`. */
  reload(): Promise<void>
}

/** Whom a policy decides about, and what follows from it beside the grants. */
export interface PolicyParts extends Around, PolicyInForceParts {
  readonly federation: Pick<Federation, 'setDomains'>
  readonly oidc: Pick<OidcAdmission, 'setIssuers'>
}

type Settings = Pick<ServeSettings, 'policyPath' | 'issuers' | 'relays'>

/** Opens the policy file and follows it; without one everybody whom TLS verified may come. Throws `USAGE`. */
export async function openPolicy(settings: Settings, parts: PolicyParts): Promise<ServePolicy> {
  const { policyPath, relays = [] } = settings
  if (policyPath === undefined) return { ...withoutPolicy(relays, parts.trustDomain), reload: async () => {} }
  refuseRelays(relays)
  const since = await fileState(policyPath)
  const read = () => readAndApply(policyPath, settings, parts)
  const { replace, ...inForce } = putInForce(policyPath, await read(), parts)
  const followed = followFile(policyPath, { since, clock: parts.clock, load: () => replace(read) })
  parts.undo.push(async () => followed.close())
  return { ...inForce, reload: followed.reload }
}

/** What may refuse comes first and changes nothing then. Issuers that the file names no more admit nobody. */
async function readAndApply(path: string, { issuers }: Settings, parts: PolicyParts): Promise<PolicyText> {
  const { trustDomain, federation, oidc } = parts
  const text = await readSettingsFile(path)
  const { policy, issuers: named } = await policyOfDomain(text, path, trustDomain)
  if (named && issuers) {
    throw new NsmError('USAGE', 'issuers are named in one way', 'in the policy file, or by --issuers or --issuer')
  }
  federation.setDomains(policy.rules.domains.map((domain) => withAbsolutePath(domain, dirname(path))))
  if (!issuers) oidc.setIssuers(named ?? [])
  return { text, policy }
}

/** Paths in the file are meant from its own folder. */
function withAbsolutePath(domain: FederatedDomain, folder: string): FederatedDomain {
  const { bundle } = domain
  if (!('path' in bundle) || bundle.path === undefined) return domain
  return { ...domain, bundle: { ...bundle, path: resolve(folder, bundle.path) } }
}
