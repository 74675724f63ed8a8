import type { RotationView } from '../identity/ca.ts'
import type { DomainStatus } from '../identity/federation.ts'

/** How it stands with the root of the network's authority, and with the bundles of other domains. */
export interface CaState extends RotationView {
  readonly trustDomain: string
  /** The roots that are believed, the one that signs first. */
  readonly roots: readonly { readonly pin: string; readonly notAfterMs: number }[]
  /** The domains that the policy federates with. */
  readonly domains: readonly DomainStatus[]
}

/** The next step in changing the root. */
export interface RotateRequest {
  /** True: drop the old root; false: begin with a new one. */
  readonly finish: boolean
  /** How long the new root is known before it signs; 20 minutes by default. */
  readonly publishMs?: number
}
