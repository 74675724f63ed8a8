import { createPrivateKey, type KeyObject } from 'node:crypto'
import { splitDer } from './der-reader.ts'
import { refusal } from './refusal.ts'
import type { IdentityState, TrustBundles } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'
import { stateFromParts } from './svid.ts'

/** One message of the Workload API: the complete state, certificates as concatenated DER [SPIFFE Workload API 5.2.1]. */
export interface WorkloadUpdate {
  readonly svids: readonly {
    readonly spiffeId: string
    readonly chain: Uint8Array
    /** PKCS #8 DER. */
    readonly privateKey: Uint8Array
    /** Roots of the SVID's own trust domain. */
    readonly bundle: Uint8Array
    readonly hint: string
  }[]
  /** By trust domain ID (`spiffe://domain`). */
  readonly federatedBundles: Readonly<Record<string, Uint8Array>>
}

/** Which of several SVIDs to use; the first one when nothing is said. */
export interface WorkloadChoice {
  readonly hint?: string
  readonly spiffeId?: string
}

/**
 * The identity that a message gives: the chosen SVID with the bundles of its own and of all federated domains. Undefined
 * when the message holds no SVID at all: it is withdrawn. Throws `IDENTITY` for a message that cannot be used.
 */
export function stateFromWorkload(
  update: WorkloadUpdate,
  choice: WorkloadChoice,
  nowMs: number,
): IdentityState | undefined {
  if (update.svids.length === 0) return undefined
  const chosen = choose(update, choice)
  const { trustDomain } = parseSpiffeId(chosen.spiffeId)
  const bundles = new Map([...federated(update), [trustDomain, splitDer(chosen.bundle)]])
  const privateKey = readKey(chosen.privateKey)
  const state = stateFromParts({ chain: splitDer(chosen.chain), privateKey, bundles, nowMs })
  if (state.svid.spiffeId === chosen.spiffeId) return state
  throw refusal('SVID_UNEXPECTED', `the certificate names ${state.svid.spiffeId}, the message says ${chosen.spiffeId}`)
}

/** Hints are unique; where they are not, the first one counts [SPIFFE Workload API 5.2.1]. */
function choose({ svids }: WorkloadUpdate, { hint, spiffeId }: WorkloadChoice): WorkloadUpdate['svids'][number] {
  const chosen = svids.find(
    (svid) => (hint === undefined || svid.hint === hint) && (spiffeId === undefined || svid.spiffeId === spiffeId),
  )
  if (chosen) return chosen
  const asked = [hint && `hint ${hint}`, spiffeId].filter(Boolean).join(' and ')
  const given = svids.map((svid) => (svid.hint === '' ? svid.spiffeId : `${svid.spiffeId} (hint ${svid.hint})`))
  throw refusal('SVID_UNEXPECTED', `the Workload API has no identity with ${asked}; it gave ${given.join(', ')}`, {
    next: 'ask for one of these, or for none to get the first',
  })
}

function federated({ federatedBundles }: WorkloadUpdate): TrustBundles {
  return new Map(
    Object.entries(federatedBundles).map(([id, roots]) => [parseSpiffeId(id).trustDomain, splitDer(roots)]),
  )
}

function readKey(pkcs8: Uint8Array): KeyObject {
  try {
    return createPrivateKey({ key: Buffer.from(pkcs8), format: 'der', type: 'pkcs8' })
  } catch (cause) {
    throw refusal('KEY_MISMATCH', 'the Workload API gave a private key that cannot be read', { cause })
  }
}
