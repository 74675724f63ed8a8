import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { Authority } from '../identity/ca.ts'
import { splitDer } from '../identity/der-reader.ts'
import { parseJoinString } from '../identity/join-string.ts'
import type { OidcAdmission } from '../identity/oidc-admission.ts'
import { verifyToken } from '../identity/token.ts'
import { verifyPeer } from '../identity/verify.ts'
import { renewFor } from '../nsm/exchange-server.ts'
import { SiteService } from '../nsm/generated/site_pb.js'
import { type MethodBinding, type PeerCall, unary } from '../nsm/grpc.ts'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import { claimsOf } from '../nsm/policies.ts'
import type { Inviter } from './inviter.ts'
import type { Network } from './serve-home.ts'

/** What the first site does for the others: tells them the network, makes join tokens, renews identities. */
export function siteService(parts: {
  readonly network: Network
  readonly authority: Authority
  readonly inviter: Inviter
  readonly oidc: OidcAdmission
  readonly isSite: (spiffeId: string) => boolean
  readonly clock: Clock
  readonly log: Log
}): MethodBinding[] {
  const { network, authority, inviter, oidc, clock, log } = parts
  const check = ({ peer }: PeerCall) => {
    if (!parts.isSite(peer.spiffeId)) throw policyRefusal('site: this identity was not invited as a site')
  }
  return [
    unary(SiteService.method.getNetwork, async (_request, call) => {
      check(call)
      const { service, prefixes, dnsDomain } = network
      return { service, prefixes: [...prefixes], dnsDomain }
    }),
    unary(SiteService.method.invite, async ({ id, ttl }, call) => {
      check(call)
      const invited = inviter.invite({ ttlMs: Number(ttl?.seconds ?? 0n) * 1_000, ...(id === '' ? {} : { id }) })
      const { token = '' } = parseJoinString(invited.joinString)
      log.info('a site has a join token', { peer: call.peer.spiffeId, member: invited.spiffeId })
      return { token, spiffeId: invited.spiffeId, expires: timestampFromMs(invited.expiresMs) }
    }),
    unary(SiteService.method.renewMember, async ({ csr, chain, token }, call) => {
      check(call)
      const nowMs = clock.wallMs()
      const holder = verifyPeer({ chain: splitDer(chain), bundles: authority.bundles, nowMs })
      const claims = claimsOf(token)
      const isTheirs = verifyToken(token, holder.certificate) && claims?.sub === holder.spiffeId
      if (!isTheirs || !claims.aud.includes(call.peer.spiffeId) || claims.expMs <= nowMs) throw notTheirs()
      const { address } = call
      return renewFor({ authority, oidc, clock, log }, csr, { ...holder, address })
    }),
  ]
}

function notTheirs(): NsmError {
  return new NsmError(
    'IDENTITY',
    'the member did not ask this site for a new identity (TOKEN_INVALID)',
    'ask again with a fresh token of the member',
  )
}
