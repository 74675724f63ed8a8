import type { Clock } from '../base/clock.ts'
import type { Svid } from '../identity/source.ts'
import { signToken } from '../identity/token.ts'
import { type HopToken, tokenLifetimeMs } from './peer.ts'

/** Ours: a token is signed anew when a fresh one would end this much later; signing was a seventh of the cost of a request. */
const tokenReuseMs = 5_000
/** Ours: audiences of one hop, the peer and the endpoints behind us. */
const audiencesMax = 8

/** What tokens of ours are made from. */
export interface OwnTokenParts {
  /** Whose key signs, asked for each token. */
  readonly svid: () => Svid
  /** Wall milliseconds that no token outlives; the SVID's end counts in any case. */
  readonly endMs?: number
  readonly clock: Clock
}

/** Gives our token for an audience: the last one again while it is fresh and its SVID is still ours. Throws `IDENTITY`. */
export function createOwnTokens(parts: OwnTokenParts): (audience: string) => HopToken {
  const signed = new Map<string, { readonly token: HopToken; readonly svid: Svid }>()
  return (audience) => {
    const svid = parts.svid()
    const endMs = Math.min(svid.notAfterMs, parts.endMs ?? Number.POSITIVE_INFINITY)
    const expiresMs = Math.min(parts.clock.wallMs() + tokenLifetimeMs, endMs)
    const known = signed.get(audience)
    const laterMs = known?.svid === svid ? expiresMs - known.token.expiresMs : Number.NaN
    if (known && laterMs >= 0 && laterMs < tokenReuseMs) return known.token
    const token = { token: signToken({ svid, audience, expiresMs }), expiresMs }
    if (signed.size >= audiencesMax) signed.clear()
    signed.set(audience, { token, svid })
    return token
  }
}
