import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import type { Audit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { BelievingAuthority } from '../identity/authority-source.ts'
import { splitDer } from '../identity/der-reader.ts'
import { parseJoinString } from '../identity/join-string.ts'
import type { OidcAdmission } from '../identity/oidc-admission.ts'
import { verifyToken } from '../identity/token.ts'
import { verifyPeer } from '../identity/verify.ts'
import { createEventQueue } from '../nsm/event-queue.ts'
import { renewFor } from '../nsm/exchange-server.ts'
import { SiteService } from '../nsm/generated/site_pb.js'
import { type MethodBinding, type PeerCall, serverStream, unary } from '../nsm/grpc.ts'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import type { JwtIssuer } from '../nsm/jwt-issuer.ts'
import { claimsOf } from '../nsm/policies.ts'
import type { Inviter } from './inviter.ts'
import type { Network } from './serve-home.ts'
import type { ServePolicy } from './serve-policy.ts'

/** What the first site does for the others: tells them the network, makes join tokens, renews identities. */
export function siteService(parts: {
  readonly network: Network
  readonly authority: BelievingAuthority
  readonly inviter: Inviter
  readonly oidc: OidcAdmission
  readonly isSite: (spiffeId: string) => boolean
  readonly isDenied: (spiffeId: string) => boolean
  readonly issueJwt: JwtIssuer
  readonly policy: Pick<ServePolicy, 'admission' | 'text'>
  readonly clock: Clock
  readonly log: Log
  readonly audit: Audit
}): MethodBinding[] {
  const { network, authority, inviter, oidc, isDenied, clock, log, audit } = parts
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
    serverStream(SiteService.method.watchPolicy, (_request, call) => {
      check(call)
      return tellPolicy(parts.policy, call.signal)
    }),
    unary(SiteService.method.renewMember, async ({ csr, chain, token }, call) => {
      check(call)
      const holder = memberOf({ chain, token, call }, parts)
      return renewFor({ authority, oidc, isDenied, clock, log, audit }, csr, holder)
    }),
    unary(SiteService.method.fetchMemberJwtSvid, async ({ audience, chain, token }, call) => {
      check(call)
      return parts.issueJwt(memberOf({ chain, token, call }, parts), audience)
    }),
  ]
}

/** The member that asked the calling site: its hop token to that site is signed with the key of its certificate. */
function memberOf(
  { chain, token, call }: { readonly chain: Uint8Array; readonly token: string; readonly call: PeerCall },
  { authority, clock }: { readonly authority: BelievingAuthority; readonly clock: Clock },
) {
  const nowMs = clock.wallMs()
  const holder = verifyPeer({ chain: splitDer(chain), bundles: authority.bundles, nowMs })
  const claims = claimsOf(token)
  const isTheirs = verifyToken(token, holder.certificate) && claims?.sub === holder.spiffeId
  if (!isTheirs || !claims.aud.includes(call.peer.spiffeId) || claims.expMs <= nowMs) throw notTheirs()
  return { ...holder, address: call.address }
}

/** The text in force, at once and after each change. */
async function* tellPolicy({ admission, text }: Pick<ServePolicy, 'admission' | 'text'>, signal: AbortSignal) {
  const queue = createEventQueue([{ text: text() }], { signal, onEnd: () => stopListening() })
  const stopListening = admission.onChange(() => queue.push({ text: text() }))
  yield* queue.events
}

function notTheirs(): NsmError {
  return new NsmError(
    'IDENTITY',
    'the member did not ask this site (TOKEN_INVALID)',
    'ask again with a fresh token of the member',
  )
}
