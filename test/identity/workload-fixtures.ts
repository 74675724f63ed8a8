import type { Authority } from '../../src/identity/ca.ts'
import type { IdentityState } from '../../src/identity/source.ts'
import type { WorkloadUpdate } from '../../src/identity/workload-state.ts'
import { authorityOf, identityOf } from './fixtures.ts'

type Given = WorkloadUpdate['svids'][number]

/** An SVID as the Workload API writes it. */
export function givenSvid(authority: Authority, state: IdentityState, hint = ''): Given {
  return {
    spiffeId: state.svid.spiffeId,
    chain: Buffer.concat(state.svid.chain),
    privateKey: state.svid.privateKey.export({ type: 'pkcs8', format: 'der' }),
    bundle: authority.rootDer,
    hint,
  }
}

/** A message with these SVIDs and no federated domain. */
export function updateOf(...svids: Given[]): WorkloadUpdate {
  return { svids, federatedBundles: {} }
}

/** An authority with a maker of SVIDs for paths of its domain. */
export function workloadAuthority(trustDomain: string, clock?: Parameters<typeof authorityOf>[1]) {
  const authority = authorityOf(trustDomain, clock)
  const svid = (path: string, hint = '', ttlMs?: number) =>
    givenSvid(authority, identityOf(authority, path, clock, ttlMs), hint)
  return { authority, svid }
}
