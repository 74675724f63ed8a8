import { NsmError } from '../base/errors.ts'
import { isJsonObject } from '../base/json.ts'
import type { Settings } from '../base/settings.ts'
import { readSettingsFile } from '../base/settings-file.ts'
import { decide, type Policy, type PolicyAction, type PolicyDecision, policyActions } from '../identity/policy.ts'
import type { PolicyCheckResult, PolicyTest, PolicyTestResult } from './policy-protocol.ts'
import type { Method } from './rpc-server.ts'
import { askServe, otherVersion } from './serve-ask.ts'
import type { Home } from './serve-home.ts'

/** What the socket of a server answers about its policy. */
export function policyMethods({
  admission,
  policyState,
}: Pick<Home, 'admission' | 'policyState'>): Record<string, Method> {
  const stateHere = () => policyState() ?? noPolicy()
  return {
    async policyTest(parameters) {
      const asked = parseTest(parameters)
      const { path } = stateHere()
      return resultOf(asked, path, admission.decide(asked))
    },
    async policyCheck() {
      const { path, domains, grants, denies, error } = stateHere()
      return checkOf({ path, domains, grants, denies, ...(error !== undefined && { error }) })
    },
  }
}

/** What a file, or without one the server that runs here, says to a question. Throws `USAGE`, `UNREACHABLE`. */
export async function testPolicy(
  settings: Pick<Settings, 'runtimeDir'>,
  asked: PolicyTest & { readonly path?: string },
): Promise<PolicyTestResult> {
  const { path, ...question } = asked
  if (path === undefined) {
    const result = await askServe(settings, 'policyTest', question)
    if (isTestResult(result)) return result
    throw otherVersion()
  }
  const policy = await readPolicy(path)
  const wanted = parseTest(question)
  return resultOf(wanted, path, decide(policy, wanted))
}

/** Reads a file, or asks the server that runs here about its own. Throws `USAGE`, `UNREACHABLE`. */
export async function checkPolicy(settings: Pick<Settings, 'runtimeDir'>, path?: string): Promise<PolicyCheckResult> {
  if (path === undefined) {
    const result = await askServe(settings, 'policyCheck', {})
    if (isCheckResult(result)) return result
    throw otherVersion()
  }
  const { domains, grants, denials } = (await readPolicy(path)).rules
  return checkOf({ path, domains: domains.length, grants: grants.length, denies: denials.length })
}

async function readPolicy(path: string): Promise<Policy> {
  // Not with the server, which imports this file: YAML takes 25 ms.
  const { parsePolicyFile } = await import('../identity/policy-file.ts')
  return parsePolicyFile(await readSettingsFile(path), path).policy
}

type Question = PolicyTest & { readonly action: PolicyAction }

function parseTest(parameters: unknown): Question {
  const { id, action, service } = isJsonObject(parameters) ? parameters : {}
  const known = policyActions.find((one) => one === action)
  if (typeof id !== 'string' || known === undefined || (service !== undefined && typeof service !== 'string')) {
    const next = `--id SPIFFE-ID --action ${policyActions.join('|')} --service NAME`
    throw new NsmError('USAGE', 'a question has an ID, an action and perhaps a service', next)
  }
  return { id, action: known, ...(service === undefined ? {} : { service }) }
}

function resultOf(asked: Question, path: string, decision: PolicyDecision): PolicyTestResult {
  const { isGranted } = decision
  const { line } = decision.isGranted ? (decision.grant ?? { line: undefined }) : decision
  return {
    apiVersion: 'nsm/policy-test/v1',
    ...asked,
    isGranted,
    path,
    ...(decision.isGranted ? decision.grant && { grant: decision.grant.name } : { reason: decision.reason }),
    ...(line !== undefined && { line }),
  }
}

function checkOf(found: Omit<PolicyCheckResult, 'apiVersion'>): PolicyCheckResult {
  return { apiVersion: 'nsm/policy-check/v1', ...found }
}

function isTestResult(value: unknown): value is PolicyTestResult {
  return isJsonObject(value) && value['apiVersion'] === 'nsm/policy-test/v1'
}

function isCheckResult(value: unknown): value is PolicyCheckResult {
  return isJsonObject(value) && value['apiVersion'] === 'nsm/policy-check/v1'
}

function noPolicy(): never {
  throw new NsmError('USAGE', 'this server has no policy: everybody who joined may come', 'start it with --policy FILE')
}
