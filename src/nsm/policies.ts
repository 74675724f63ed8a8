import { decodeToken, verifyToken } from '../identity/token.ts'

/**
 * The seven checks of Network Service Mesh, and one of ours: `sub_is_peer` ties a token to the TLS identity. A refusal
 * names the one that failed. Who may do what is asked of the `Admission`. [NSM sdk opa/policies]
 */
export type Policy =
  | 'tokens_valid'
  | 'tokens_expired'
  | 'tokens_chained'
  | 'prev_token_signed'
  | 'next_token_signed'
  | 'client_allowed'
  | 'service_connection'
  | 'sub_is_peer'

/** A path as the policies see it. */
export interface PolicyInput {
  readonly segments: readonly { readonly token: string }[]
  /** The segment of whoever checks. */
  readonly index: number
  /** DER leaf of the TLS peer. */
  readonly peerCertificate: Uint8Array
  /** SPIFFE ID of the TLS peer. */
  readonly peerId: string
  readonly nowMs: number
}

/** Checks what a caller sent, segments 0..index; gives the name of the first failed policy. [NSM sdk opa/policies] */
export function failedServerPolicy(input: PolicyInput): Policy | undefined {
  const failed = failedChain(input.segments.slice(0, input.index + 1), input.nowMs)
  return failed ?? failedSignature(input, input.index - 1, 'prev_token_signed')
}

/** Checks what a server answered, the whole path; gives the name of the first failed policy. [NSM sdk opa/policies] */
export function failedClientPolicy(input: PolicyInput): Policy | undefined {
  return failedChain(input.segments, input.nowMs) ?? failedSignature(input, input.index + 1, 'next_token_signed')
}

/** Checks who registers or withdraws a name that may be taken: it belongs to its owner alone. [NSM registry/client_allowed] */
export function failedRegistryPolicy(owner: string | undefined, caller: string): Policy | undefined {
  return owner === undefined || owner === caller ? undefined : 'client_allowed'
}

/**
 * Checks who refreshes, closes or watches connections, by the owners of those it named: one must be its own. Connections
 * that nobody holds yet may be waited for, where NSM refuses: its clients look for what they left behind before they ask.
 * [NSM monitor/service_connection]
 */
export function failedMonitorPolicy(owners: readonly string[], caller: string): Policy | undefined {
  return owners.length === 0 || owners.includes(caller) ? undefined : 'service_connection'
}

/** True when the list has this SPIFFE ID, or an entry that ends in `/*` and stands above it. */
export function isNamed(spiffeId: string, list: readonly string[]): boolean {
  return list.some((entry) => (entry.endsWith('/*') ? spiffeId.startsWith(entry.slice(0, -1)) : entry === spiffeId))
}

function failedChain(segments: readonly { readonly token: string }[], nowMs: number): Policy | undefined {
  const claims = segments.map(({ token }) => claimsOf(token))
  if (claims.some((claim) => claim === undefined)) return 'tokens_valid'
  if (claims.some((claim) => claim && claim.expMs <= nowMs)) return 'tokens_expired'
  const broken = claims.some((claim, i) => {
    const next = claims[i + 1]
    return claim && next && !claim.aud.includes(next.sub)
  })
  return broken ? 'tokens_chained' : undefined
}

/**
 * The neighbour's token must verify with the certificate of this TLS connection, and name the same identity.
 * NSM checks the signature only; without the second check a peer could claim any `sub`, and registry ownership rests on it.
 */
function failedSignature(input: PolicyInput, at: number, policy: Policy): Policy | undefined {
  const token = input.segments[at]?.token
  if (!token || !verifyToken(token, input.peerCertificate)) return policy
  return claimsOf(token)?.sub === input.peerId ? undefined : 'sub_is_peer'
}

/** The claims of a token that decodes, without a check of its signature. */
export function claimsOf(token: string): ReturnType<typeof decodeToken> | undefined {
  try {
    return decodeToken(token)
  } catch {
    return undefined
  }
}
