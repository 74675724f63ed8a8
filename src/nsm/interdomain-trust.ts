import type { IdentitySource } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'

/**
 * Who may answer for a domain, beyond what TLS verifies. When the bundle of a trust domain of that name is held, its
 * workloads alone; else those of any trust domain that is believed. Never ourselves: that would be a loop.
 */
export function answersFor(domain: string, source: Pick<IdentitySource, 'current'>): (spiffeId: string) => boolean {
  const named = domain.toLowerCase()
  return (spiffeId) => {
    const { svid, bundles } = source.current()
    if (spiffeId === svid.spiffeId) return false
    return !bundles.has(named) || parseSpiffeId(spiffeId).trustDomain === named
  }
}
