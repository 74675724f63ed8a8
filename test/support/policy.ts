import { noAudit } from '../../src/base/audit.ts'
import { parsePolicyFile } from '../../src/identity/policy-file.ts'
import { PolicyAdmission } from '../../src/nsm/admission.ts'

/** What a test says of a policy; the rest is a file that lets test.internal in and grants nothing. */
export interface PolicyWords {
  readonly td?: string
  readonly domains?: readonly object[]
  readonly grants?: readonly object[]
  readonly denies?: readonly object[]
}

/** A policy file; grants without a name get one. */
export function policyText({ td = 'test.internal', domains = [], grants = [], denies = [] }: PolicyWords): string {
  const named = grants.map((grant, at) => ({ name: `grant-${at}`, ...grant }))
  const all = [{ td, bundle: 'own' }, ...domains]
  return JSON.stringify({ admission: { default: 'deny', domains: all, grants: named, denies } }, undefined, 1)
}

/** The rules of such a file. */
export function policyOf(words: PolicyWords) {
  return parsePolicyFile(policyText(words), 'policy.json').policy
}

/** An admission by such a file. */
export function admissionOf(
  words: PolicyWords,
  parts: Partial<ConstructorParameters<typeof PolicyAdmission>[1]> = {},
): PolicyAdmission {
  const servers = { own: 'spiffe://test.internal/server', isSite: (id: string) => id.endsWith('/server') }
  return new PolicyAdmission(policyOf(words), { ...servers, audit: noAudit, ...parts })
}
